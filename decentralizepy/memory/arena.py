"""The rows of a machine's nodes, as tensors in shared memory."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from decentralizepy.memory.shared import ArenaPlan, Counters

_WORTH_IT: Final = 1 << 23
#: tensors on parts of rows that are made once
_KEPT_PARTS: Final = 4096


class Arena:
    """A mapped arena: ``counters`` and the rows as tensors."""

    def __init__(self, fd: int, plan: ArenaPlan) -> None:
        self.plan = plan
        self._start, self._row_bytes = plan.rows_start, plan.row_bytes
        self.memory = mmap.mmap(fd, plan.nbytes)
        _with_huge_pages(self.memory, plan)
        self.counters = Counters(self.memory, plan)
        #: all rows; each one's tensor is a view, so that many can be gathered at once
        self.all = _rows(self.memory, plan)
        self._rows: dict[int, Tensor] = {}
        self._parts: dict[object, Tensor] = {}
        self._buffer = _buffer(plan.row_bytes)
        start = torch.frombuffer(self.memory, dtype=torch.uint8, count=1, offset=plan.rows_start)
        #: where the rows begin and end in this process
        self.start = start.data_ptr()
        self.stop = self.start + plan.row_bytes * sum(plan.rows)

    def row(self, index: int) -> Tensor:
        """Row ``index`` [length] float32: always the same tensor."""
        found = self._rows.get(index)
        if found is None:
            found = self._rows[index] = self.all[index, : self.plan.length]
        return found

    def part(self, index: int, start: int, like: Tensor) -> Tensor:
        """The bytes of a row from ``start`` on, as a tensor of the dtype and shape of another."""
        key = index, start, like.dtype, like.shape
        found = self._parts.get(key)
        if found is None:
            at = self._start + self._row_bytes * index + start
            flat = torch.frombuffer(self.memory, dtype=like.dtype, count=like.numel(), offset=at)
            if len(self._parts) >= _KEPT_PARTS:
                self._parts.clear()
            found = self._parts[key] = flat.view(like.shape)
        return found

    def lease(self, index: int, release: Callable[[], object]) -> Any:
        """The memory of a row as a buffer for `torch.frombuffer`; ``release`` is called once nobody
        has it any more: no tensor, view or array on it, whoever made that."""
        buffer = self._buffer.from_buffer(self.memory, self._start + self._row_bytes * index)
        buffer.release = release
        return buffer


def _rows(memory: mmap.mmap, plan: ArenaPlan) -> Tensor:
    """All rows [rows, floats of a row and what fills it up]."""
    pitch, count = plan.row_bytes // 4, sum(plan.rows)
    flat = torch.frombuffer(
        memory, dtype=torch.float32, count=pitch * count, offset=plan.rows_start
    )
    return flat.view(count, pitch)


class _Buffer(ctypes.Array[Any]):
    """Memory that says when nobody holds it any more: torch keeps it as long as any storage."""

    _type_, _length_ = ctypes.c_char, 0
    release: Callable[[], object]

    def __del__(self) -> None:
        self.release()


def _buffer(nbytes: int) -> type[_Buffer]:
    return type("_Buffer", (_Buffer,), {"_type_": ctypes.c_char, "_length_": nbytes})


def _with_huge_pages(memory: mmap.mmap, plan: ArenaPlan) -> None:
    """Merging walks through many rows: with huge pages their addresses are found faster.

    Small arenas do without, where a page of 2 MB would be mostly empty.
    """
    start = plan.rows_start
    if plan.nbytes - start >= _WORTH_IT and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE, start)
