"""How frames become the chunks of one batch, and frames again; no I/O.

Small frames that follow one another share a chunk, for each chunk costs a system's worth of
overhead; large ones travel alone, straight from the sender's memory into the receiver's. The head
of a batch is its number and the sizes of its frames, from which both sides derive the chunks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from decentralizepy.messages.header import FRAME_BYTES, MAX_HEADER
from decentralizepy.transport.secure import Buffer, Opener, RefusedError

#: frames below this share chunks
SMALL: Final = 1 << 16
_PACK: Final = 1 << 18
MAX_FRAME: Final = max(FRAME_BYTES, MAX_HEADER)
MAX_FRAMES: Final = 1 << 16
_NUMBER: Final = struct.Struct("<Q")
_SIZE: Final = 4


def plan(sizes: Sequence[int]) -> list[range]:
    """Which frames make up each chunk: runs of small ones together, each large one alone."""
    chunks: list[range] = []
    start = nbytes = 0
    for at, size in enumerate(sizes):
        if size >= SMALL or nbytes + size > _PACK:
            if start < at:
                chunks.append(range(start, at))
            start, nbytes = at, 0
        if size >= SMALL:
            chunks.append(range(at, at + 1))
            start = at + 1
        else:
            nbytes += size
    if start < len(sizes):
        chunks.append(range(start, len(sizes)))
    return chunks


def head(number: int, frames: Sequence[Buffer]) -> bytes:
    """The head of a batch."""
    return _NUMBER.pack(number) + struct.pack(f"<{len(frames)}I", *map(len, frames))


def chunks(frames: Sequence[Buffer]) -> list[Buffer]:
    """The chunks of a batch; large frames are taken as they are, not copied."""
    found: list[Buffer] = []
    for members in plan([len(frame) for frame in frames]):
        if len(members) == 1:
            found.append(frames[members.start])
        else:
            found.append(b"".join(frames[members.start : members.stop]))
    return found


class Part:
    """A frame that has arrived and can be opened once, into its place in memory."""

    __slots__ = ("_frame", "_index", "_opener", "nbytes")

    def __init__(self, frame: Buffer, opener: Opener | None = None, index: int = 0) -> None:
        self._frame, self._opener, self._index = frame, opener, index
        self.nbytes = len(frame) - (opener.overhead if opener else 0)

    def into(self, buffer: memoryview) -> None:
        """Put the content into a buffer of `nbytes`; raises `RefusedError`."""
        if self._opener is None:
            buffer[:] = self._frame
        else:
            self._opener.chunk_into(self._index, self._frame, buffer)

    def memory(self) -> memoryview | None:
        """The content where it lies, if it lies alone in memory that nobody else writes."""
        frame = self._frame
        sealed = self._opener is None or self._opener.overhead
        return None if sealed or not isinstance(frame, memoryview) or frame.readonly else frame

    def content(self) -> memoryview:
        """The content, in memory of its own if it was sealed; raises `RefusedError`."""
        if self._opener is None:
            return memoryview(self._frame)
        return memoryview(self._opener.chunk(self._index, self._frame))


class Incoming:
    """The frames of one batch, from its chunks as they come."""

    def __init__(self, body: bytes, n_chunks: int) -> None:
        """Check the head; nothing has been allocated for the batch before."""
        sizes = body[_NUMBER.size :]
        if len(body) < _NUMBER.size or len(sizes) % _SIZE or len(sizes) > _SIZE * MAX_FRAMES:
            raise RefusedError("malformed", "the head of a batch of odd length")
        (self.number,) = _NUMBER.unpack(body[: _NUMBER.size])
        self._sizes = struct.unpack(f"<{len(sizes) // _SIZE}I", sizes)
        if max(self._sizes, default=0) > MAX_FRAME:
            raise RefusedError("malformed", f"a frame of {max(self._sizes)} bytes")
        self._plan = plan(self._sizes)
        if len(self._plan) != n_chunks:
            raise RefusedError("malformed", f"{n_chunks} chunks, expected {len(self._plan)}")
        self._at = 0

    @property
    def complete(self) -> bool:
        return self._at == len(self._plan)

    def skip(self) -> None:
        """Leave the next chunk unopened."""
        self._at += 1

    def chunk(self, frame: Buffer, opener: Opener) -> Iterator[Part]:
        """The frames of the next chunk; raises `RefusedError`."""
        members = self._plan[self._at]
        self._at += 1
        expected = sum(self._sizes[members.start : members.stop])
        if len(frame) != expected + opener.overhead:
            raise RefusedError("malformed", f"a chunk of {len(frame)} bytes, not {expected}")
        if len(members) == 1 and expected >= SMALL:
            yield Part(frame, opener, self._at)
            return
        content = memoryview(opener.chunk(self._at, frame))
        start = 0
        for size in self._sizes[members.start : members.stop]:
            yield Part(content[start : start + size])
            start += size
