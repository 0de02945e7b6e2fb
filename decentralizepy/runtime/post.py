"""Carries messages from a worker's nodes to nodes anywhere, and counts their bytes.

On its own worker a message is passed by reference; to another worker of the machine a row is
passed by its number, and read where it lies; all else is copied into frames. On the wire there are
four kinds of message, told apart by the first byte of their first frame:

==== =============================================================== =========================
kind first frame                                                     frames after it
==== =============================================================== =========================
R    sender, iteration, averaging round, row; receivers (8 B each)   none
M    receivers (8 B each)                                            header, payload
S    nothing                                                         header, payload: a sum
A    nothing                                                         header, payload: a mean
==== =============================================================== =========================
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from decentralizepy.communication.header import MessageError, decode
from decentralizepy.communication.message import (
    Message,
    from_frames,
    n_frames,
    to_frames,
)
from decentralizepy.runtime.arena import Arena
from decentralizepy.runtime.links import Links
from decentralizepy.runtime.mailbox import Parcel
from decentralizepy.runtime.placement import Placement, WorkerId
from decentralizepy.runtime.rows import RowPool

_WORD: Final = 8
_ROW_WORDS: Final = 4


@dataclass
class Traffic:
    """Bytes a node has sent: payload and headers per neighbour, and what crossed machines."""

    data: int = 0
    meta: int = 0
    wire: int = 0


class Reference:
    """One reference to a row, shared by the receivers of one message on one worker."""

    def __init__(self, count: int, release: Callable[[], None]) -> None:
        self._count, self._release = count, release

    def __call__(self) -> None:
        self._count -= 1
        if not self._count:
            self._release()


Deliver = Callable[[int, Parcel], None]


class Post:
    """Sends for the nodes of one worker, and takes in what arrives for them."""

    def __init__(
        self,
        me: WorkerId,
        placement: Placement,
        arena: Arena,
        pool: RowPool,
        deliver: Deliver,
        links: Links | None = None,
    ) -> None:
        self.me, self.placement = me, placement
        self.arena, self.pool, self.links = arena, pool, links
        self._deliver = deliver
        self._sizes: dict[object, tuple[int, int]] = {}
        # a sum of rows in float64 is the largest thing that is sent, a method's extras aside
        self._limit = 16 * arena.plan.length + (1 << 20)
        self.collective: Callable[[str, Message], None] = lambda kind, message: None

    # ---------------------------------------------------------------- outgoing

    def send(self, uids: Sequence[int], message: Message, row: int, traffic: Traffic) -> None:
        """Give ``message`` to the nodes ``uids``; ``row`` is the sender's own row's number."""
        header_bytes, payload = self._size(message)
        traffic.data += payload * len(uids)
        traffic.meta += header_bytes * len(uids)
        by_reference = self._carries(message, row)
        readers = 0
        for worker, receivers in self._by_worker(uids).items():
            if worker == self.me:
                readers += by_reference
                self._send_here(receivers, message, row if by_reference else None)
            elif worker.machine == self.me.machine and by_reference and _only_row(message):
                readers += 1
                self._send_row(worker, receivers, message, row)
            else:
                traffic.wire += self._send_frames(worker, receivers, message)
        if readers:
            self.pool.publish(row, readers)

    def _by_worker(self, uids: Iterable[int]) -> dict[WorkerId, list[int]]:
        found: dict[WorkerId, list[int]] = {}
        for uid in uids:
            found.setdefault(self.placement.owner(uid), []).append(uid)
        return found

    def _size(self, message: Message) -> tuple[int, int]:
        """(header, payload) bytes; headers are alike, so few are encoded to be counted."""
        if not _only_row(message):
            header = message.header()
            return len(header.encode()), header.payload_bytes
        digits = len(f"{message.sender}{message.round}")
        if digits not in self._sizes:
            header = message.header()
            self._sizes[digits] = len(header.encode()), header.payload_bytes
        return self._sizes[digits]

    def _carries(self, message: Message, row: int) -> bool:
        own = self.pool.tensor(row)
        start, stop = own.data_ptr(), own.data_ptr() + 4 * self.arena.plan.stride
        return any(start <= tensor.data_ptr() < stop for tensor in message.tensors.values())

    def _send_here(self, receivers: Sequence[int], message: Message, row: int | None) -> None:
        release = None
        if row is not None:
            release = Reference(len(receivers), self._releaser(row))
        for uid in receivers:
            self._deliver(uid, Parcel(message, release))

    def _releaser(self, row: int) -> Callable[[], None]:
        control, worker = self.arena.control, self.me.worker
        return lambda: control.release(worker, row)

    def _send_row(
        self, worker: WorkerId, receivers: Sequence[int], message: Message, row: int
    ) -> None:
        assert self.links is not None
        words = (message.sender, *message.round, row, *receivers)
        self.links.send(worker, [b"R" + struct.pack(f"<{len(words)}q", *words)])

    def _send_frames(self, worker: WorkerId, receivers: Sequence[int], message: Message) -> int:
        assert self.links is not None
        header, payload = to_frames(message)
        first = b"M" + struct.pack(f"<{len(receivers)}q", *receivers)
        wire = self.links.send(worker, [first, header, *(bytes(part) for part in payload)])
        return wire if worker.machine != self.me.machine else 0

    def send_collective(self, worker: WorkerId, kind: str, message: Message) -> None:
        """Send a sum (``S``) or mean (``A``) to another worker."""
        assert self.links is not None
        header, payload = to_frames(message)
        self.links.send(worker, [kind.encode(), header, *(bytes(part) for part in payload)])

    # ---------------------------------------------------------------- incoming

    def take_in(self) -> bool:
        """Deliver all that has arrived; True if there was anything."""
        if self.links is None:
            return False
        arrived = False
        for frames in self.links.receive():
            arrived = True
            position = 0
            while position < len(frames):
                position += self._one(frames, position)
        return arrived

    def _one(self, frames: list[memoryview], at: int) -> int:
        """Deliver the message that starts at frame ``at``; returns its number of frames."""
        first = frames[at]
        kind = bytes(first[:1])
        if kind == b"R":
            self._take_row(_words(first))
            return 1
        if kind not in (b"M", b"S", b"A") or at + 1 >= len(frames):
            raise MessageError(f"a message of unknown kind {kind!r}")
        header = decode(frames[at + 1], self._limit)
        count = n_frames(header)
        message = from_frames(header, frames[at + 2 : at + 2 + count])
        if kind == b"M":
            self._take_message(_words(first), message)
        else:
            self.collective(kind.decode(), message)
        return 2 + count

    def _take_row(self, words: tuple[int, ...]) -> None:
        if len(words) <= _ROW_WORDS:
            raise MessageError("a row without receivers")
        sender, t, k, row = words[:_ROW_WORDS]
        if not 0 <= row < sum(self.arena.plan.rows):
            raise MessageError(f"no row {row}")
        message = Message({"params": self.arena.row(row)}, {}, sender, (t, k))
        self._send_here(self._mine(words[_ROW_WORDS:]), message, row)

    def _take_message(self, words: tuple[int, ...], message: Message) -> None:
        for uid in self._mine(words):
            self._deliver(uid, Parcel(message))

    def _mine(self, uids: tuple[int, ...]) -> tuple[int, ...]:
        mine = self.placement.uids(self.me)
        if not all(uid in mine for uid in uids):
            raise MessageError(f"a message for nodes {uids}, which are not here")
        return uids


def _words(frame: memoryview) -> tuple[int, ...]:
    body = frame[1:]
    if len(body) % _WORD:
        raise MessageError("a first frame of odd length")
    return struct.unpack(f"<{len(body) // _WORD}q", body)


def _only_row(message: Message) -> bool:
    return not message.meta and list(message.tensors) == ["params"]


def sum_message(total: Tensor, t: int, count: int, sender: int) -> Message:
    """A partial sum of ``count`` rows for the evaluation of iteration ``t``."""
    return Message({"sum": total}, {"nodes": count}, sender, (t, 0))
