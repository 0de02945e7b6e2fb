"""Numbered batches: how frames become chunks and frames again, exactly once; no I/O.

Small frames that follow one another share a chunk, for each chunk costs a system's worth of
overhead; large ones travel alone, each into its place in the receiver's memory. The head of a batch
is its number and the sizes of its frames, from which both sides derive the chunks.

A sender numbers its batches to a peer from 1 and keeps each until the peer has acknowledged it.
After a reconnect the peer says the last number that it took, and all later ones are sent again,
sealed anew. The receiver takes a number once, in order, so that each message is delivered exactly
once.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
_ACKNOWLEDGEMENT: Final = struct.Struct("<Q?")


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

    @property
    def sealed(self) -> bool:
        """Whether it came from somebody who has the run key."""
        return self._opener is not None and self._opener.overhead > 0

    def into(self, buffer: memoryview) -> None:
        """Put the content into a buffer of `nbytes`; raises `RefusedError`."""
        if self._opener is None:
            buffer[:] = self._frame
        else:
            self._opener.chunk_into(self._index, self._frame, buffer)

    def memory(self) -> memoryview | None:
        """The content where it lies, if it lies alone in memory that nobody else writes."""
        frame = self._frame
        alone = self._opener is not None and not self.sealed
        return frame if alone and isinstance(frame, memoryview) and not frame.readonly else None

    def content(self) -> memoryview:
        """The content, in memory of its own if it was sealed; raises `RefusedError`."""
        if self._opener is None:
            return memoryview(self._frame)
        return memoryview(self._opener.chunk(self._index, self._frame))


class ArrivingBatch:
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


# -------------------------------------------- numbers and acknowledgements


@dataclass(frozen=True)
class Batch:
    """Frames under one number, and what to call once nobody needs their memory any more."""

    number: int
    frames: Sequence[Buffer]
    done: Sequence[Callable[[], None]] = ()


class Unacknowledged:
    """What was sent to one peer and is not acknowledged yet."""

    def __init__(self) -> None:
        self._kept: deque[Batch] = deque()
        self._last = 0

    def keep(self, frames: Sequence[Buffer], done: Sequence[Callable[[], None]] = ()) -> Batch:
        """Give the next number to ``frames`` and hold on to them."""
        self._last += 1
        batch = Batch(self._last, frames, done)
        self._kept.append(batch)
        return batch

    def acknowledged(self, number: int) -> bool:
        """The peer has taken all batches up to ``number``; True if that was news.

        Raises `RefusedError` for a number that was never given.
        """
        if number > self._last:
            raise RefusedError("malformed", f"batch {number} was never sent")
        news = False
        while self._kept and self._kept[0].number <= number:
            for call in self._kept.popleft().done:
                call()
            news = True
        return news

    def waiting(self) -> Iterable[Batch]:
        """What has to be sent again after a reconnect, in order."""
        return tuple(self._kept)

    def drop(self) -> None:
        """Nobody will ever take what is kept."""
        self.acknowledged(self._last)

    def __len__(self) -> int:
        return len(self._kept)


class Received:
    """What one peer sent, in the life that it is in."""

    def __init__(self) -> None:
        self.life = b""
        self.last = 0
        self.duplicates = 0

    def born(self, life: bytes) -> None:
        """The peer says which life it is in: a new one counts from 1 again."""
        if life != self.life:
            self.life, self.last = life, 0

    def is_new(self, number: int) -> bool:
        """Whether to take a batch; raises `RefusedError` if one before it is missing."""
        if number <= self.last:
            self.duplicates += 1
            return False
        if number > self.last + 1:
            raise RefusedError("malformed", f"batch {number} after {self.last}")
        return True

    def took(self, number: int) -> None:
        """A batch was delivered."""
        assert number == self.last + 1
        self.last = number


@dataclass(frozen=True)
class Acknowledgement:
    """The last batch that was taken, whether to start the session anew, and the credit report."""

    received: int
    reset: bool
    report: bytes

    def encode(self) -> bytes:
        return _ACKNOWLEDGEMENT.pack(self.received, self.reset) + self.report

    @classmethod
    def decode(cls, data: bytes) -> Acknowledgement:
        """Raises `RefusedError`."""
        if len(data) < _ACKNOWLEDGEMENT.size:
            raise RefusedError("malformed", "an acknowledgement that is too short")
        received, reset = _ACKNOWLEDGEMENT.unpack(data[: _ACKNOWLEDGEMENT.size])
        return cls(received, reset, data[_ACKNOWLEDGEMENT.size :])
