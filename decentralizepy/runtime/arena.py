"""The rows of a machine's nodes, as tensors in shared memory."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

from decentralizepy.runtime.shared import ArenaPlan, Control


class Arena:
    """A mapped arena: ``control`` and the rows as tensors."""

    def __init__(self, fd: int, plan: ArenaPlan) -> None:
        self.plan = plan
        self._memory = mmap.mmap(fd, plan.nbytes)
        self.control = Control(self._memory, plan)
        self._rows: dict[int, Tensor] = {}

    def row(self, index: int) -> Tensor:
        """Row ``index`` [length] float32."""
        found = self._rows.get(index)
        if found is None:
            offset = self.plan.control_bytes + 4 * self.plan.stride * index
            found = torch.frombuffer(
                self._memory, dtype=torch.float32, count=self.plan.length, offset=offset
            )
            self._rows[index] = found
        return found
