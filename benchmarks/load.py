"""The work of one iteration, which the engine and the bare loops are both given."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Load:
    """The work of one iteration."""

    model: str  # dotted module and class
    nodes: int
    batch: int
    steps: int = 3
    shape: tuple[int, ...] = (32, 32, 3)
    samples: int = 1024  # of each node
    lr: float = 0.05
    device: str = "cpu"

    def make_model(self) -> Any:
        import torch

        torch.manual_seed(0)
        module, _, name = self.model.rpartition(".")
        return getattr(importlib.import_module(module), name)()

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Random images uint8 [nodes * samples, *shape] and labels of all nodes."""
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (self.nodes * self.samples, *self.shape), dtype=np.uint8)
        return x, rng.integers(0, 10, self.nodes * self.samples)

    def stored(self) -> Any:
        """The data as a worker holds it, on the device."""
        from decentralizepy.training.data import Samples

        return Samples(*self.data(), 2 / 255, -1.0, self.device)

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize(self.device)
