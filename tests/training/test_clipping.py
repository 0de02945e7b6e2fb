"""Clipping is torch's, on one flat gradient; a node's bits do not depend on the stack."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from decentralizepy.errors import ConfigError
from decentralizepy.training.clipping import clip, clip_each
from decentralizepy.training.training import Training
from decentralizepy.training.training_clipping import TrainingClipping


def parameters(seed: int, scale: float) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    found = [nn.Parameter(torch.zeros(shape)) for shape in ((7, 3), (7,), (2, 3, 5), ())]
    for one in found:
        one.grad = scale * torch.randn(one.shape, generator=generator)
    return found


def flat(found: list[nn.Parameter]) -> torch.Tensor:
    return torch.cat([one.grad.flatten() for one in found if one.grad is not None]).clone()


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e6])
@pytest.mark.parametrize("norm", [0.1, 3.0])
def test_clipping_is_torchs(scale: float, norm: float) -> None:
    found = parameters(1, scale)
    ours = flat(found)
    before = ours.clone()
    clip(ours, norm)
    nn.utils.clip_grad_norm_(found, norm)
    torch.testing.assert_close(ours, flat(found), rtol=1e-6, atol=0)
    assert ours.norm() <= norm * 1.00001
    if before.norm() < norm / 2:
        assert torch.equal(ours, before), "a small gradient stays as it is"


def test_gradients_that_are_not_finite_stay_so() -> None:
    for value in (float("nan"), float("inf")):
        grad = torch.ones(4)
        grad[2] = value
        clip(grad, 1.0)
        assert not torch.isfinite(grad).all()


@pytest.mark.parametrize("length", [65, 1001, 4810])
def test_rows_of_a_stack_do_not_see_each_other(length: int) -> None:
    torch.set_num_threads(1)
    grads = torch.randn(9, length, generator=torch.Generator().manual_seed(0))
    grads[4] *= 1e-3
    together = grads.clone()
    clip_each(together, 0.5)
    for row, grad in zip(together, grads, strict=True):
        alone = grad[None].clone()
        clip_each(alone, 0.5)
        assert torch.equal(row, alone[0])
        plain = grad.clone()
        clip(plain, 0.5)
        torch.testing.assert_close(row, plain)


def test_the_class_of_the_fork_is_training_with_a_norm() -> None:
    made = TrainingClipping(clipping_norm=2.0, rounds=3, batch_size=4)
    assert isinstance(made, Training) and (made.clipping_norm, made.rounds) == (2.0, 3)
    assert TrainingClipping().clipping_norm is None, "as in the fork"
    for kind in (Training, TrainingClipping):
        with pytest.raises(ConfigError, match=r"clipping_norm = 0\.0 must be above 0"):
            kind(clipping_norm=0.0)
