"""Many random numbers on any device, from a generator that is passed in."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def torch_generator(rng: np.random.Generator, device: torch.device) -> torch.Generator:
    """A torch generator on a device, seeded from one number of ``rng``."""
    return torch.Generator(device=device).manual_seed(int(rng.integers(1 << 62)))


def uniforms(n: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    """Numbers [n] float32 that are uniform in [0, 1); other ones on other kinds of devices.

    In CPU memory by SFC64, which is more than twice as fast as torch's generator.
    """
    if device.type == "cpu":
        fast = np.random.Generator(np.random.SFC64(int(rng.integers(1 << 62))))
        return torch.from_numpy(fast.random(n, dtype=np.float32))
    return torch.rand(n, generator=torch_generator(rng, device), device=device)


def normals(n: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    """Numbers [n] float32 of a standard normal distribution."""
    return torch.randn(n, generator=torch_generator(rng, device), device=device)
