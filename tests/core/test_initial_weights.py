"""First weights: EPFL's for the same seed, or those of the reference's fork where asked for."""

from __future__ import annotations

import core_examples as examples
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from decentralizepy.config import DATASET_OPTIONS, KEYS_BESIDE
from decentralizepy.engine.parts import build_model
from decentralizepy.models.digits import MLP

SEED = 90


def epfl() -> nn.Module:
    """As EPFL's node does: seed, data set, model."""
    torch.manual_seed(SEED)
    return MLP()


def fork(samples: int) -> nn.Module:
    """As the fork's node does: its data set counts the labels in one pass, one by one."""
    torch.manual_seed(SEED)
    counts = [0] * 10
    labels = torch.arange(samples) % 10
    for (label,) in DataLoader(TensorDataset(labels), batch_size=1, shuffle=False):
        counts[int(label)] += 1
    assert sum(counts) == samples
    return MLP()


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def ours(**changes: str) -> torch.Tensor:
    return flat(build_model(examples.read(**changes)))


def test_they_are_epfls():
    assert torch.equal(ours(), flat(epfl()))
    assert torch.equal(ours(DATASET__fork_initial_weights="False"), flat(epfl()))


@pytest.mark.parametrize("samples", [1, 90])
def test_the_forks_are_had_by_an_option(samples):
    """However many samples a node has: the fork draws once for each pass."""
    found = ours(DATASET__fork_initial_weights="True")
    assert torch.equal(found, flat(fork(samples)))
    assert not torch.equal(found, flat(epfl()))


def test_the_option_is_typed_and_a_misspelt_one_is_told():
    said = examples.refusal(DATASET__fork_initial_weights="maybe")
    assert "small.ini: [DATASET] fork_initial_weights = maybe: bool is expected" in said
    said = examples.refusal(DATASET__fork_initial_weight="True")
    assert "'fork_initial_weight' (did you mean 'fork_initial_weights'?)" in said
    assert set(DATASET_OPTIONS) <= set(KEYS_BESIDE["DATASET"])
