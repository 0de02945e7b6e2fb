"""A message between nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from decentralizepy.messages.header import (
    DTYPES,
    MAX_DIMS,
    MAX_PAYLOAD,
    MAX_TENSORS,
    Header,
    MessageError,
    TensorInfo,
)

#: name on the wire -> dtype
TORCH_DTYPES: Final[dict[str, torch.dtype]] = {name: getattr(torch, name) for name in DTYPES}
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


def check_size(tensors: Mapping[str, Tensor]) -> None:
    """Raise `MessageError` unless workers on all machines would take a message of these tensors.

    At most `MAX_TENSORS` dense tensors of at most `MAX_DIMS` dimensions and of the dtypes in
    `DTYPES`, together at most `MAX_PAYLOAD` bytes. Receivers apply the same limits to the header,
    so a message that passes here is accepted wherever it goes.
    """
    if len(tensors) > MAX_TENSORS:
        raise MessageError(f"a message of {len(tensors)} tensors, more than {MAX_TENSORS}")
    nbytes = 0
    for name, tensor in tensors.items():
        if (
            type(name) is not str
            or tensor.dtype not in _NAMES
            or tensor.layout is not torch.strided
            or tensor.dim() > MAX_DIMS
        ):
            raise MessageError(_unfit(name, tensor))
        nbytes += tensor.nbytes
    if nbytes > MAX_PAYLOAD:
        raise MessageError(f"a message of {nbytes} bytes, more than {MAX_PAYLOAD}")


def _unfit(name: object, tensor: Tensor) -> str:
    if type(name) is not str:
        return f"a tensor is named {name!r:.40}: names are str"
    if tensor.layout is not torch.strided:
        return f"tensor {name!r:.40} is {tensor.layout}: send its indices and values"
    if tensor.dtype not in _NAMES:
        return f"tensor {name!r:.40} is {tensor.dtype}: one of {', '.join(DTYPES)}"
    return f"tensor {name!r:.40} has {tensor.dim()} dimensions, more than {MAX_DIMS}"
