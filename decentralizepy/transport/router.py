"""Carries messages from a worker's nodes to nodes anywhere, and counts their bytes.

On its own worker a message is passed by reference. Another worker of the machine gets a notice with
the row's number through a ring (`rings`), and reads the row where it lies; all else goes in frames.
To other machines (`wire`) a large row is sent from where it lies; all else is copied into its
frames. Sockets carry three kinds of message, told apart by the first byte of their first frame:

==== ============================== =========================
kind first frame                    frames after it
==== ============================== =========================
M    receivers (8 B each)           header, payload
S    nothing                        header, payload: a sum
A    nothing                        header, payload: a mean
==== ============================== =========================
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from decentralizepy.engine.mailbox import Parcel
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory.arena import Arena
from decentralizepy.memory.rows import RowPool
from decentralizepy.messages.header import MessageError
from decentralizepy.messages.message import Message
from decentralizepy.transport.batches import SMALL, Part
from decentralizepy.transport.frames import MessageReader, to_frames
from decentralizepy.transport.local import LocalSockets
from decentralizepy.transport.rings import Rings, fence

_WORD: Final = 8
_KEPT_ROUTES: Final = 1024
#: words of a notice before its receivers: sender, iteration, averaging round, row
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
        links: LocalSockets | None = None,
    ) -> None:
        self.me, self.placement = me, placement
        self.arena, self.pool, self.links = arena, pool, links
        self._deliver = deliver
        self.rings = Rings(arena.memory, arena.plan, me.worker)
        # messages by socket to and from each worker of the machine: what notices have to follow
        self._frames_to: Counter[int] = Counter()
        self._frames_from: Counter[int] = Counter()
        self._gone: set[int] = set()
        self._routes: dict[tuple[int, ...], dict[WorkerId, list[int]]] = {}
        self._sizes: dict[object, tuple[int, int]] = {}
        self.collective: Callable[[str, Message], None] = lambda kind, message: None

    # ---------------------------------------------------------------- outgoing

    def send(self, uids: Sequence[int], message: Message, row: int, traffic: Traffic) -> None:
        """Give ``message`` to the nodes ``uids``; ``row`` is the sender's own row's number."""
        if self._gone:
            uids = [uid for uid in uids if uid not in self._gone]
        self.count(message, len(uids), traffic)
        by_reference = self.carries(message, row)
        readers: list[int] = []
        for worker, receivers in self._by_worker(uids).items():
            if worker == self.me:
                readers += [worker.worker] * by_reference
                self._send_here(receivers, message, row if by_reference else None)
            elif worker.machine == self.me.machine and by_reference and _only_row(message):
                readers.append(worker.worker)
                self._send_row(worker.worker, receivers, message, row)
            elif worker.machine == self.me.machine:
                self._send_frames(worker, receivers, message)
            else:
                held = by_reference and _only_row(message) and message["params"].nbytes >= SMALL
                readers += [self.me.worker] * held
                traffic.wire += self._send_far(worker, receivers, message, row if held else None)
        if readers:
            self.pool.publish(row, readers)

    def leave(self, uids: Iterable[int], dead: Iterable[WorkerId]) -> None:
        """Nodes have left: nothing more is sent to them, and dead workers hold no rows."""
        self._gone |= set(uids)
        for worker in dead:
            if worker.machine == self.me.machine:
                self.pool.forgive(worker.worker)
            if self.links is not None:
                self.links.forget(worker)

    def _by_worker(self, uids: Sequence[int]) -> dict[WorkerId, list[int]]:
        """Receivers by worker; a node mostly speaks to the same ones, so that is remembered."""
        key = tuple(uids)
        found = self._routes.get(key)
        if found is None:
            if len(self._routes) >= _KEPT_ROUTES:
                self._routes.clear()
            found = self._routes[key] = {}
            for uid in key:
                found.setdefault(self.placement.owner(uid), []).append(uid)
        return found

    def count(self, message: Message, receivers: int, traffic: Traffic) -> int:
        """Note what a message to so many nodes takes; returns the bytes of one."""
        header_bytes, payload = self._size(message)
        traffic.data += payload * receivers
        traffic.meta += header_bytes * receivers
        return header_bytes + payload

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

    def carries(self, message: Message, row: int) -> bool:
        """Whether a message holds a part of the row itself, not a copy."""
        own = self.pool.tensor(row)
        if message.tensors.get("params") is own:
            return True
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

    def _send_row(self, worker: int, receivers: Sequence[int], message: Message, row: int) -> None:
        before = self._frames_to[worker]
        self.rings.send(worker, (before, message.sender, *message.round, row, *receivers))
        self._wake(worker)

    def _wake(self, worker: int) -> None:
        fence()  # either it sees the notice before it sleeps, or we see that it sleeps
        if self.links is not None and self.arena.control.idle(worker):
            self.arena.control.set_idle(worker, False)  # one ring is enough
            self.links.ring(worker)

    def _send_frames(self, worker: WorkerId, receivers: Sequence[int], message: Message) -> None:
        assert self.links is not None
        header, payload = to_frames(message)
        self.links.send(worker, [_first(receivers), header, *map(bytes, payload)])
        self._frames_to[worker.worker] += 1

    def _send_far(
        self, worker: WorkerId, receivers: Sequence[int], message: Message, row: int | None
    ) -> int:
        """To another machine; ``row`` holds the payload until it has arrived, None to copy it."""
        assert self.links is not None and self.links.wire is not None
        header, payload = to_frames(message)
        parts = payload if row is not None else map(bytes, payload)
        done = None if row is None else self._releaser(row)
        frames = [_first(receivers), header, *parts]
        return self.links.wire.send(worker, frames, message.sender, done)

    def may_send(self, uid: int, uids: Sequence[int]) -> bool:
        """Whether workers on other machines have room for a message of node ``uid``."""
        wire = self.links.wire if self.links is not None else None
        return wire is None or all(
            wire.may_send(worker, uid)
            for worker in self._by_worker(uids)
            if worker.machine != self.me.machine
        )

    def send_collective(self, worker: WorkerId, kind: str, message: Message) -> None:
        """Send a sum (``S``) or mean (``A``) to another worker."""
        assert self.links is not None
        header, payload = to_frames(message)
        frames = [kind.encode(), header, *map(bytes, payload)]
        if worker.machine == self.me.machine:
            self.links.send(worker, frames)
        else:
            assert self.links.wire is not None
            self.links.wire.send(worker, frames)

    # ---------------------------------------------------------------- incoming

    def take_in(self, idle: bool = False) -> bool:
        """Deliver all that has arrived; True if there was anything, or room to send again.

        ``idle`` says that there is no other work: then other machines are answered at once.
        """
        if self.links is None:
            return False
        for worker in self.rings.catch_up():
            self._wake(worker)
        arrived = self._take_notices()
        for frames in self.links.receive():
            arrived = True
            reader = self._reader(self.me)
            for frame in frames:
                reader.frame(Part(frame))
            reader.deliver()
        wire = self.links.wire
        if wire is not None:
            arrived = wire.receive(self._reader) or arrived
            arrived = wire.service(idle and not arrived) or arrived
        return arrived

    def _reader(self, peer: WorkerId) -> MessageReader:
        return MessageReader(peer, self._take_message)

    def _take_notices(self) -> bool:
        """Deliver rows that are announced in rings."""
        arrived = False
        for worker in self.rings.workers:
            while (words := self.rings.take(worker, self._frames_from[worker])) is not None:
                arrived = True
                self._take_row(words)
        return arrived

    def _take_row(self, words: tuple[int, ...]) -> None:
        if len(words) <= _ROW_WORDS:
            raise MessageError("a row without receivers")
        sender, t, k, row = words[:_ROW_WORDS]
        if not 0 <= row < sum(self.arena.plan.rows):
            raise MessageError(f"no row {row}")
        message = Message({"params": self.arena.row(row)}, {}, sender, (t, k))
        self._send_here(self._mine(words[_ROW_WORDS:]), message, row)

    def _take_message(
        self, peer: WorkerId, first: memoryview, message: Message, nbytes: int
    ) -> None:
        if first[:1] != b"M":
            self.collective(bytes(first[:1]).decode(), message)
            return
        if not 0 <= message.sender < self.placement.mapping.n:
            raise MessageError(f"a message of node {message.sender}, which there is not")
        receivers = self._mine(_words(first))
        source = self.placement.owner(message.sender)
        if source.machine != peer.machine:
            raise MessageError(f"{peer} speaks for node {message.sender}, which is elsewhere")
        if source.machine == self.me.machine:
            self._take_notices()  # those of before
            for uid in receivers:
                self._deliver(uid, Parcel(message))
            self._frames_from[source.worker] += 1
            self._take_notices()  # those that had to follow
        else:
            self._take_far(peer, receivers, message, nbytes)

    def _take_far(
        self, peer: WorkerId, receivers: tuple[int, ...], message: Message, nbytes: int
    ) -> None:
        """From another machine, which is told when it has been consumed."""
        assert self.links is not None and self.links.wire is not None
        wire, sender = self.links.wire, message.sender
        consumed = Reference(len(receivers), lambda: wire.consumed(peer, sender, nbytes))
        for uid in receivers:
            self._deliver(uid, Parcel(message, consumed))

    def _mine(self, uids: tuple[int, ...]) -> tuple[int, ...]:
        mine = self.placement.uids(self.me)
        if not all(uid in mine for uid in uids):
            raise MessageError(f"a message for nodes {uids}, which are not here")
        return uids


def _first(receivers: Sequence[int]) -> bytes:
    return b"M" + struct.pack(f"<{len(receivers)}q", *receivers)


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
