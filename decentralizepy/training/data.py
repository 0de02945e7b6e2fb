"""Batches from the shared memory-mapped arrays: one gather, then normalized as they are used."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor


class Samples:
    """Images ``x`` [N, H, W, C] uint8 (or features [N, ...] float32) with labels ``y`` [N] int64.

    ``scale`` and ``shift`` turn stored values into what the model sees: x * scale + shift.
    """

    def __init__(
        self, x: np.ndarray, y: np.ndarray, scale: float, shift: float, device: str = "cpu"
    ) -> None:
        self.x, self.y = _tensor(x, device), _tensor(y, device)
        self.scale, self.shift = scale, shift

    def __len__(self) -> int:
        return len(self.y)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The samples of ``indices`` [B]: ([B, C, H, W] float32 channels-last, [B] int64)."""
        return self._model_input(self.x.index_select(0, indices)), self.y.index_select(0, indices)

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """A run of consecutive samples, as `gather` gives them."""
        return self._model_input(self.x[start:stop]), self.y[start:stop]

    def only(self, indices: np.ndarray | None) -> Samples:
        """A view of the samples of ``indices`` [n] int64, in that order; of all with None."""
        return self if indices is None else _Some(self, indices)

    def _model_input(self, stored: Tensor) -> Tensor:
        x = stored.to(torch.float32)
        if stored.dtype == torch.uint8 or (self.scale, self.shift) != (1.0, 0.0):
            x = x.mul_(self.scale) if x is not stored else x * self.scale
            if self.shift:
                x.add_(self.shift)
        return x.permute(0, 3, 1, 2) if x.dim() == 4 else x


class _Some(Samples):
    """Some samples of others, gathered batch by batch, so that nothing is held twice."""

    def __init__(self, whole: Samples, indices: np.ndarray) -> None:
        self.x, self.y, self.scale, self.shift = whole.x, whole.y, whole.scale, whole.shift
        self._whole, self._indices = whole, _tensor(indices, str(whole.y.device))

    def __len__(self) -> int:
        return len(self._indices)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self._whole.gather(self._indices[indices])

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        return self._whole.gather(self._indices[start:stop])


def _tensor(array: np.ndarray, device: str) -> Tensor:
    with warnings.catch_warnings():  # read-only memory maps are only ever read
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(np.asarray(array)).to(device)
