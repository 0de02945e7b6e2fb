"""A message between nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from decentralizepy.messages.header import (
    Header,
    TensorInfo,
)

#: name on the wire -> dtype
TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
}
_NAMES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True, eq=False)
class Message:
    """What a node says: named tensors and a small JSON object ``meta``.

    A received message has its ``sender`` and ``round`` (iteration, averaging round), 0-based.
    Tensors of a received message belong to somebody else: they are read, never written.
    """

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)
    sender: int = -1
    round: tuple[int, int] = (0, 0)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def stamped(self, sender: int, round_: tuple[int, int]) -> Message:
        """The same message with its sender and round."""
        return Message(self.tensors, self.meta, sender, round_)

    def copied(self) -> Message:
        """The same message with tensors of its own, for one that travels long."""
        tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
        return Message(tensors, self.meta, self.sender, self.round)

    def header(self) -> Header:
        """The header that describes this message."""
        infos = tuple(
            TensorInfo(name, _NAMES[tensor.dtype], tuple(tensor.shape))
            for name, tensor in self.tensors.items()
        )
        return Header(self.sender, self.round, infos, self.meta)


@dataclass(frozen=True)
class Missing:
    """In place of a message that did not come: who, and why."""

    sender: int
    reason: str
