"""Rows of nodes as matrices: gathered for a stack, and put back after its steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import is_
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Rows(Protocol):
    """Vectors of one length, in some order."""

    def take(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Some of them as a matrix [stop - start, length]: a copy in ``out`` if given, or a view.

        What is changed in it counts only after `put`.
        """

    def put(self, start: int, values: Tensor) -> None:
        """Write the rows of a matrix that `take` gave into the vectors from ``start`` on."""


class ScatteredRows:
    """Vectors from anywhere."""

    def __init__(self, vectors: Sequence[Tensor]) -> None:
        self._vectors = list(vectors)

    def take(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        if out is None:
            return torch.stack(self._vectors[start:stop])
        torch._foreach_copy_(list(out.unbind()), self._vectors[start:stop])
        return out

    def put(self, start: int, values: Tensor) -> None:
        torch._foreach_copy_(self._vectors[start : start + len(values)], list(values.unbind()))


class SharedRows:
    """Views of one storage, which is read and written as a matrix: a third of the time.

    The matrix has a row for each multiple of the distances' greatest divisor, so that its rows may
    overlap; no others than the vectors are touched.
    """

    def __init__(self, base: Tensor, starts: np.ndarray, length: int) -> None:
        least = int(starts.min())
        pitch = int(np.gcd.reduce(starts - least)) or length
        self._index = (starts - least) // pitch
        self._in_order = pitch >= length and bool((np.diff(self._index) == 1).all())
        count = int(self._index.max()) + 1
        self._matrix = base.as_strided((count, length), (pitch, 1), least)
        self._array = self._matrix.numpy() if base.device.type == "cpu" else None

    def take(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        if out is None and self._in_order:
            return self._matrix[start:stop]
        if out is None or out.device == self._matrix.device:
            return torch.index_select(self._matrix, 0, self._places(start, stop), out=out)
        return out.copy_(self._matrix.index_select(0, self._places(start, stop)))

    def put(self, start: int, values: Tensor) -> None:
        stop = start + len(values)
        if self._in_order and values.data_ptr() == self._matrix[start].data_ptr():
            return
        values = values.to(self._matrix.device)
        if self._array is not None:  # a third of index_copy_'s time
            self._array[self._index[start:stop]] = values.numpy()
        else:
            self._matrix[self._places(start, stop)] = values

    def _places(self, start: int, stop: int) -> Tensor:
        return torch.from_numpy(self._index[start:stop]).to(self._matrix.device)


def rows(vectors: Sequence[Tensor]) -> Rows:
    """The rows of contiguous float32 vectors of one length, by the fastest way."""
    base = vectors[0]._base
    bases = [one._base for one in vectors]
    if base is None or len(vectors) == 1 or not all(map(is_, bases, repeat(base))):
        return ScatteredRows(vectors)
    starts = np.array([one.storage_offset() for one in vectors])
    return SharedRows(base, starts, len(vectors[0]))
