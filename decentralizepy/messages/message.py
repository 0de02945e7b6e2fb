"""A message between nodes, and its frames on the wire."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from decentralizepy.messages.header import (
    FRAME_BYTES,
    Header,
    MessageError,
    TensorInfo,
)
from decentralizepy.transport.batch import Part

_DTYPES: Final[dict[str, torch.dtype]] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}


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


def to_frames(message: Message) -> tuple[bytes, list[memoryview]]:
    """Header bytes and the payload as views of about 1 MB; nothing is copied."""
    frames: list[memoryview] = []
    for tensor in message.tensors.values():
        view = _bytes_of(tensor.detach().contiguous().reshape(-1).view(torch.uint8))
        frames += [view[i : i + FRAME_BYTES] for i in range(0, len(view), FRAME_BYTES)]
    return message.header().encode(), frames


def _bytes_of(flat: Tensor) -> memoryview:
    """The memory of a flat uint8 tensor."""
    data: Any = flat.numpy()
    return memoryview(data)


class Builder:
    """A message whose payload arrives frame by frame, each opened straight into its tensor.

    Its header was checked before: memory is taken for what it announces, and no more.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self._tensors: dict[str, Tensor] = {}
        self._left = deque(info for info in header.tensors if info.nbytes)
        for info in header.tensors:
            if not info.nbytes:
                self._set(info, torch.empty(0, dtype=torch.uint8))
        self._slots: deque[memoryview] = deque()

    @property
    def complete(self) -> bool:
        return not self._left and not self._slots

    def take(self, part: Part) -> None:
        """The next frame; raises `MessageError` unless it has the size that is due."""
        if not self._slots:
            info = self._left.popleft()
            memory = part.memory() if part.nbytes == info.nbytes else None
            if memory is not None:  # came in the clear and in one piece: stays where it is
                self._set(info, torch.frombuffer(memory, dtype=torch.uint8))
                return
            self._allocate(info)
        slot = self._slots.popleft()
        if part.nbytes != len(slot):
            raise MessageError(f"a frame of {part.nbytes} bytes, expected {len(slot)}")
        part.into(slot)

    def _allocate(self, info: TensorInfo) -> None:
        memory = torch.empty(info.nbytes, dtype=torch.uint8)
        self._set(info, memory)
        view = _bytes_of(memory)
        self._slots += (view[i : i + FRAME_BYTES] for i in range(0, len(view), FRAME_BYTES))

    def _set(self, info: TensorInfo, memory: Tensor) -> None:
        self._tensors[info.name] = memory.view(_DTYPES[info.dtype]).view(info.shape)

    def message(self) -> Message:
        """The message, once it is complete."""
        assert self.complete
        header = self._header
        tensors = {info.name: self._tensors[info.name] for info in header.tensors}
        return Message(tensors, header.meta, header.sender, header.round)
