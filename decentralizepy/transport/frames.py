"""Tensors become frames of about 1 MB, and frames tensors and messages again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from decentralizepy.mappings.placement import WorkerId
from decentralizepy.messages.header import (
    FRAME_BYTES,
    MAX_PAYLOAD,
    Header,
    MessageError,
    TensorInfo,
    decode,
)
from decentralizepy.messages.message import TORCH_DTYPES, Message

if TYPE_CHECKING:
    from decentralizepy.transport.batches import Part

_KINDS: Final = (b"M", b"S", b"A", b"Q", b"R")
#: memory that is taken for a tensor when its first frame is there, if nobody vouches for the header
AT_ONCE: Final = 64 << 20

#: (whose batch, first frame, message, bytes of its frames) -> the message is delivered
Deliver = Callable[[WorkerId, memoryview, Message, int], None]


def to_frames(message: Message) -> tuple[bytes, list[memoryview]]:
    """Header bytes and the payload as views of about 1 MB.

    What is contiguous in CPU memory is not copied; everything else is, tensors of other devices
    and transposed ones too. Raises `MessageError` for a tensor without data (device ``meta``).
    """
    frames: list[memoryview] = []
    for name, tensor in message.tensors.items():
        view = _memory_of(flat_bytes(name, tensor))
        frames += [view[i : i + FRAME_BYTES] for i in range(0, len(view), FRAME_BYTES)]
    return message.encoded(), frames


def flat_bytes(name: str, tensor: Tensor) -> Tensor:
    """The elements of a tensor in order, as flat uint8 in CPU memory: its own if it can be.

    Lazy conjugates and negatives are resolved. Raises `MessageError` for a tensor without data.
    """
    if tensor.is_meta:
        raise MessageError(f"tensor {name!r:.40} is on the device meta: it has no data")
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().reshape(-1).contiguous()
    if flat.stride(0) != 1:  # of one element, which is contiguous whatever its stride
        flat = flat.as_strided((1,), (1,))
    return flat.view(torch.uint8)


def _memory_of(flat: Tensor) -> memoryview:
    """The memory of a flat uint8 tensor."""
    data: Any = flat.numpy()
    return memoryview(data)


class _Memory:
    """Memory for a tensor, at first a part of it; it doubles as more is written."""

    def __init__(self, nbytes: int, at_once: int) -> None:
        self._nbytes = nbytes
        self._tensor = torch.empty(min(nbytes, at_once), dtype=torch.uint8)
        self._view = _memory_of(self._tensor)

    def slot(self, start: int, stop: int) -> memoryview:
        """A part to write into; all before it has been written."""
        if stop > len(self._view):
            self._grow(start, min(self._nbytes, max(stop, 2 * len(self._view))))
        return self._view[start:stop]

    def _grow(self, written: int, nbytes: int) -> None:
        larger = torch.empty(nbytes, dtype=torch.uint8)
        larger[:written] = self._tensor[:written]
        self._tensor, self._view = larger, _memory_of(larger)

    def tensor(self) -> Tensor:
        """All of it, as flat uint8."""
        return self._tensor


class Builder:
    """A message whose payload arrives frame by frame, each opened straight into its tensor.

    Its header was checked before, but in the clear anyone may have written it: more memory than
    `AT_ONCE` is taken only as frames really arrive.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self._tensors: dict[str, Tensor] = {}
        self._left = deque(info for info in header.tensors if info.nbytes)
        for info in header.tensors:
            if not info.nbytes:
                self._set(info, torch.empty(0, dtype=torch.uint8))
        self._memory: _Memory | None = None
        self._at = 0

    @property
    def complete(self) -> bool:
        return not self._left

    def take(self, part: Part) -> None:
        """The next frame; raises `MessageError` unless it has the size that is due."""
        info = self._left[0]
        due = min(FRAME_BYTES, info.nbytes - self._at)
        if part.nbytes != due:
            raise MessageError(f"a frame of {part.nbytes} bytes, expected {due}")
        memory = part.memory() if due == info.nbytes else None
        if memory is not None:  # came in the clear and in one piece: stays where it is
            self._finish(torch.frombuffer(memory, dtype=torch.uint8))
            return
        if self._memory is None:
            self._memory = _Memory(info.nbytes, info.nbytes if part.sealed else AT_ONCE)
        part.into(self._memory.slot(self._at, self._at + due))
        self._at += due
        if self._at == info.nbytes:
            self._finish(self._memory.tensor())

    def _finish(self, memory: Tensor) -> None:
        info = self._left.popleft()
        if info.dtype == "bool" and memory.max() > 1:
            raise MessageError(f"tensor {info.name!r:.40} of bool holds other bytes than 0 and 1")
        self._memory, self._at = None, 0
        self._set(info, memory)

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
    half-way leaves no trace, and is the same when it comes again.
    """

    def __init__(self, peer: WorkerId, deliver: Deliver) -> None:
        self._peer, self._deliver = peer, deliver
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
            self._builder = Builder(decode(part.content(), _limit(self._first)))
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


def _limit(first: memoryview) -> int:
    """Bytes of payload: a sum or mean is the float64 of what travels as float32."""
    return MAX_PAYLOAD if first[:1] == b"M" else 2 * MAX_PAYLOAD
