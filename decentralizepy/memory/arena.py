"""The rows of a machine's nodes, as tensors in shared memory."""

from __future__ import annotations

import contextlib
import mmap
from typing import Final

import torch
from torch import Tensor

from decentralizepy.memory.shared import ArenaPlan, Counters

_WORTH_IT: Final = 1 << 23


class Arena:
    """A mapped arena: ``control`` and the rows as tensors."""

    def __init__(self, fd: int, plan: ArenaPlan) -> None:
        self.plan = plan
        self.memory = mmap.mmap(fd, plan.nbytes)
        _with_huge_pages(self.memory, plan)
        self.control = Counters(self.memory, plan)
        self._rows: dict[int, Tensor] = {}

    def row(self, index: int) -> Tensor:
        """Row ``index`` [length] float32."""
        found = self._rows.get(index)
        if found is None:
            offset = self.plan.rows_start + 4 * self.plan.stride * index
            found = torch.frombuffer(
                self.memory, dtype=torch.float32, count=self.plan.length, offset=offset
            )
            self._rows[index] = found
        return found


def _with_huge_pages(memory: mmap.mmap, plan: ArenaPlan) -> None:
    """Merging walks through many rows: with huge pages their addresses are found faster.

    Small arenas do without, where a page of 2 MB would be mostly empty.
    """
    start = plan.rows_start
    if plan.nbytes - start >= _WORTH_IT and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE, start)
