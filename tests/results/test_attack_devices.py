"""Attacks keep their tensors on the device that is asked for; shown on one without numbers.

``meta`` stands in for a GPU: tensors have a shape there and no numbers. A mode around the code
rejects each operation on tensors of two devices, but for copies from one to the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from decentralizepy.training.data import Samples
from decentralizepy.training.task import Classification
from decentralizepy.training.template import Template
from results.attacks.classifier import Learning, Perceptron, fit, learn
from results.attacks.world import Victims

DEVICE = "meta"
COPIES = (torch.ops.aten._to_copy, torch.ops.aten.to, torch.ops.aten.copy_)


class OneDevice(TorchDispatchMode):
    """Operations take tensors of one device; what is copied back to the CPU is zeros."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        leaves = tree_leaves((args, kwargs))
        devices = {one.device.type for one in leaves if isinstance(one, torch.Tensor) and one.dim()}
        if function.overloadpacket not in COPIES and len(devices) > 1:
            raise AssertionError(f"{function} on {devices}")
        out = torch.device("cpu") in [one for one in leaves if isinstance(one, torch.device)]
        if function.overloadpacket in COPIES[:2] and args[0].is_meta and out:
            return torch.zeros(args[0].shape, dtype=(kwargs or {}).get("dtype") or args[0].dtype)
        kwargs = kwargs or {}
        return function(*args, **kwargs)


@pytest.fixture
def one_device() -> Iterator[None]:
    with OneDevice():
        yield


def _victims() -> Victims:
    """As `Victims` is made, on a device that is not there."""
    victims = object.__new__(Victims)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    rng = np.random.default_rng(0)
    x, y = rng.random((10, 6), np.float32), rng.integers(0, 3, 10)
    victims._template, victims._task = Template(model, DEVICE), Classification()
    victims._parts = [Samples(x, y, 1.0, 0.0, DEVICE) for _ in range(2)]
    victims._batch, victims._device = 4, DEVICE
    return victims


@pytest.mark.usefixtures("one_device")
def test_losses_of_a_saved_model() -> None:
    victims = _victims()
    assert victims._parts[0].slice(0, 2)[0].device.type == DEVICE
    length = sum(value.numel() for value in victims._template.model.state_dict().values())
    state = np.zeros(length, np.float32)  # as it comes from a file
    assert victims.losses(state).shape == victims.right(state).shape == (20,)
    assert victims._template.work.device.type == DEVICE


@pytest.mark.usefixtures("one_device")
def test_the_classifier_learns_where_its_data_are() -> None:
    x, y = np.zeros((30, 5), np.float32), np.arange(30) % 2
    scores = learn(x, y, np.arange(30) < 20, Learning(epochs=2, batch=8), DEVICE)
    assert scores.shape == (30,)


@pytest.mark.usefixtures("one_device")
def test_a_tensor_on_the_wrong_device_is_seen() -> None:
    with pytest.raises(AssertionError, match=r"on .*meta"):
        Perceptron(5, DEVICE).outputs(torch.zeros(3, 5))
    x, y = torch.zeros(30, 5, device=DEVICE), torch.zeros(30, dtype=torch.int64)
    with pytest.raises((AssertionError, RuntimeError)):
        fit(Perceptron(5, DEVICE), x, y, Learning(epochs=1), torch.Generator())
