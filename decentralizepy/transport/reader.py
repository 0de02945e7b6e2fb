"""Opens the messages of a batch as their frames arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from decentralizepy.mappings.placement import WorkerId
from decentralizepy.messages.header import MessageError, decode
from decentralizepy.messages.message import Builder, Message

if TYPE_CHECKING:
    from decentralizepy.transport.batch import Part

_KINDS: Final = (b"M", b"S", b"A")

#: (whose batch, first frame, message, bytes of its frames) -> the message is delivered
Deliver = Callable[[WorkerId, memoryview, Message, int], None]


class BatchReader:
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
