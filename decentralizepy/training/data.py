"""Batches from the shared memory-mapped arrays: one gather, then normalized as they are used."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import torch
from torch import Tensor


class Samples:
    """Inputs ``x`` [N, ...] with targets ``y`` [N, ...], labels, ratings, tokens or whatever.

    Images uint8 [N, H, W, C] and numbers become float32, x * ``scale`` + ``shift``; images and what
    else has four axes then are [N, C, H, W], channels-last. Whole numbers wider than a byte are
    tokens: they become int64 and are neither scaled nor moved. Targets become int64 or float32.
    """

    def __init__(
        self, x: np.ndarray, y: np.ndarray, scale: float, shift: float, device: str = "cpu"
    ) -> None:
        if len(x) != len(y):
            raise ValueError(f"{len(x)} inputs do not go with {len(y)} targets")
        self.x, self.y = _tensor(x, device), _tensor(y, device)
        self.scale, self.shift = scale, shift

    def __len__(self) -> int:
        return len(self.y)

    @property
    def device(self) -> torch.device:
        return self.x.device

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The samples of ``indices`` [B], as the model sees them, and their targets."""
        indices = indices.to(self.device)
        return self._model_input(self.x.index_select(0, indices)), self._targets(
            self.y.index_select(0, indices)
        )

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """A run of consecutive samples, as `gather` gives them."""
        return self._model_input(self.x[start:stop]), self._targets(self.y[start:stop])

    def only(self, indices: np.ndarray | None) -> Samples:
        """A view of the samples of ``indices`` [n] int64, in that order; of all with None."""
        return self if indices is None else _Some(self, indices)

    @functools.cached_property
    def n_labels(self) -> int:
        """One more than the largest label; raises ValueError unless targets are labels [N]."""
        if self.y.dim() != 1 or self.y.is_floating_point() or self.y.dtype == torch.bool:
            raise ValueError(f"targets {self.y.dtype} {tuple(self.y.shape)} are no labels")
        return int(self.y.max()) + 1 if len(self.y) else 0

    def label_counts(self, indices: np.ndarray) -> np.ndarray:
        """How many of the samples of ``indices`` have each label, int64 [n_labels]."""
        classes = self.n_labels
        labels = self.y.index_select(0, torch.from_numpy(indices).to(self.device))
        return np.bincount(labels.cpu().numpy(), minlength=classes)

    def _model_input(self, stored: Tensor) -> Tensor:
        if not stored.is_floating_point() and stored.dtype not in (torch.uint8, torch.bool):
            return stored.to(torch.int64)
        x = stored.to(torch.float32)
        if stored.dtype == torch.uint8 or (self.scale, self.shift) != (1.0, 0.0):
            x = x.mul_(self.scale) if x is not stored else x * self.scale
            if self.shift:
                x.add_(self.shift)
        return x.permute(0, 3, 1, 2) if x.dim() == 4 else x

    def _targets(self, stored: Tensor) -> Tensor:
        real = stored.is_floating_point() or stored.dtype == torch.bool
        return stored.to(torch.float32 if real else torch.int64)


class _Some(Samples):
    """Some samples of others, gathered batch by batch, so that nothing is held twice."""

    def __init__(self, whole: Samples, indices: np.ndarray) -> None:
        self.x, self.y, self.scale, self.shift = whole.x, whole.y, whole.scale, whole.shift
        self._whole, self._indices = whole, _tensor(indices, str(whole.y.device))

    def __len__(self) -> int:
        return len(self._indices)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self._whole.gather(self._indices[indices.to(self.device)])

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        return self._whole.gather(self._indices[start:stop])


def _tensor(array: np.ndarray, device: str) -> Tensor:
    with warnings.catch_warnings():  # read-only memory maps are only ever read
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(np.asarray(array)).to(device)
