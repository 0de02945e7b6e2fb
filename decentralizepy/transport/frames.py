"""Tensors become frames of about 1 MB, and frames tensors and messages again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from decentralizepy.mappings.placement import WorkerId
from decentralizepy.messages.header import FRAME_BYTES, Header, MessageError, TensorInfo, decode
from decentralizepy.messages.message import TORCH_DTYPES, Message

if TYPE_CHECKING:
    from decentralizepy.transport.batches import Part

_KINDS: Final = (b"M", b"S", b"A", b"Q")

#: (whose batch, first frame, message, bytes of its frames) -> the message is delivered
Deliver = Callable[[WorkerId, memoryview, Message, int], None]


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
        self._tensors[info.name] = memory.view(TORCH_DTYPES[info.dtype]).view(info.shape)

    def message(self) -> Message:
        """The message, once it is complete."""
        assert self.complete
        header = self._header
        tensors = {info.name: self._tensors[info.name] for info in header.tensors}
        return Message(tensors, header.meta, header.sender, header.round, header.asks)


class MessageReader:
    """Takes first frame, header, payload, and again; delivers all messages when told to.

    Nothing is delivered before the whole batch was opened, so that one that proves to be forged
    half-way leaves no trace, and is the same when it comes again. ``limit`` bounds the payload of
    a message in bytes.
    """

    def __init__(self, peer: WorkerId, limit: int, deliver: Deliver) -> None:
        self._peer, self._limit, self._deliver = peer, limit, deliver
        self._first: memoryview | None = None
        self._builder: Builder | None = None
        self._nbytes = 0
        self._found: list[tuple[memoryview, Message, int]] = []

    def frame(self, part: Part) -> None:
        """The next frame; raises `MessageError` or `RefusedError`."""
        if self._builder is not None:
            self._builder.take(part)
        elif self._first is None:
            self._first = part.content()
            if bytes(self._first[:1]) not in _KINDS:
                raise MessageError(f"a message of unknown kind {bytes(self._first[:1])!r}")
        else:
            self._builder = Builder(decode(part.content(), self._limit))
        self._nbytes += part.nbytes
        if self._builder is not None and self._builder.complete:
            assert self._first is not None
            self._found.append((self._first, self._builder.message(), self._nbytes))
            self._first, self._builder, self._nbytes = None, None, 0

    def deliver(self) -> int:
        """Give all messages to their receivers; returns their bytes."""
        if self._first is not None:
            raise MessageError("a batch that ends in the middle of a message")
        for first, message, nbytes in self._found:
            self._deliver(self._peer, first, message, nbytes)
        return sum(nbytes for _, _, nbytes in self._found)
