"""The rows of a machine's nodes, as tensors in shared memory."""

from __future__ import annotations

import contextlib
import mmap
from typing import Final

import torch
from torch import Tensor

from decentralizepy.memory.shared import ArenaPlan, Control

_WORTH_IT: Final = 1 << 23


class Arena:
    """A mapped arena: ``control`` and the rows as tensors."""

    def __init__(self, fd: int, plan: ArenaPlan) -> None:
        self.plan = plan
        self.memory = mmap.mmap(fd, plan.nbytes)
        _with_huge_pages(self.memory, plan)
        self.control = Control(self.memory, plan)
        #: all rows; each one's tensor is a view, so that many can be gathered at once
        self._all = torch.frombuffer(self.memory, dtype=torch.float32, offset=plan.rows_start).view(
            -1, plan.stride
        )
        self._rows: dict[int, Tensor] = {}

    def row(self, index: int) -> Tensor:
        """Row ``index`` [length] float32."""
        found = self._rows.get(index)
        if found is None:
            found = self._rows[index] = self._all[index, : self.plan.length]
        return found


def _with_huge_pages(memory: mmap.mmap, plan: ArenaPlan) -> None:
    """Merging walks through many rows: with huge pages their addresses are found faster.

    Small arenas do without, where a page of 2 MB would be mostly empty.
    """
    start = plan.rows_start
    if plan.nbytes - start >= _WORTH_IT and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE, start)
