"""Carries messages from a worker's nodes to nodes anywhere, and counts their bytes.

On its own worker a message is passed by reference. Another worker of the machine gets a notice
through a ring (`rings`) and reads where the bytes lie: rows and parts of rows in place, all else in
a spare row that it was copied to. One notice may also tell of many rows (`announce`). Other
machines (`remote`), and what finds no spare row, get frames; a large row is sent from where it
lies. Frames carry several kinds of message, told apart by the first byte of their first frame:

==== ============================== ========================================
kind first frame                    frames after it
==== ============================== ========================================
M    receivers (8 B each)           header, payload
S    nothing                        header, payload: a sum for an evaluation
A    nothing                        header, payload: a mean
Q    nothing                        header: is the run at rest (`engine.rest`)
R    nothing                        header, payload: a row (`engine.averaging`)
==== ============================== ========================================

Equal messages take equal bytes and give equal bits whichever way they go.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory.arena import Arena
from decentralizepy.memory.rows import RowPool
from decentralizepy.messages.header import Header, MessageError, TensorInfo, decode, padded
from decentralizepy.messages.message import TORCH_DTYPES, Message, check_size
from decentralizepy.messages.meta import check_meta
from decentralizepy.transport.batches import SMALL, Part
from decentralizepy.transport.frames import MessageReader, to_frames
from decentralizepy.transport.local import LocalSockets
from decentralizepy.transport.rings import Rings, fence

_WORD: Final = 8
#: routes that are remembered, at least; with more nodes, two of each
_KEPT_ROUTES: Final = 1024
_KEPT_SIZES: Final = 4096
#: notices: a whole row named ``params``, anything else, or where rows of a round lie
_ROW, _PARTS, _TABLE = 0, 1, 2
#: words of a notice before the rest: kind, sender, iteration, averaging round
_HEAD_WORDS: Final = 4
_PART_WORDS: Final = 3
#: words of a notice of parts beside parts, header and receivers: what goes before, head, two counts
_LEAST_WORDS: Final = 1 + _HEAD_WORDS + 2
_ALIGN: Final = 64


@dataclass(slots=True)
class Traffic:
    """Bytes a node has sent: payload and headers per neighbour, and what crossed machines."""

    data: int = 0
    meta: int = 0
    wire: int = 0


#: where a tensor lies: row, first byte, bytes
Extent = tuple[int, int, int]
#: takes a round, and which nodes' rows lie where
Announced = Callable[[tuple[int, int], Sequence[int], Sequence[int]], None]
#: takes a message for some nodes of this worker
Deliver = Callable[[Sequence[int], Message], None]


class Router:
    """Sends for the nodes of one worker, and takes in what arrives for them."""

    def __init__(
        self,
        me: WorkerId,
        placement: Placement,
        arena: Arena,
        pool: RowPool,
        deliver: Deliver,
        sockets: LocalSockets | None = None,
    ) -> None:
        self.me, self.placement = me, placement
        self.arena, self.pool, self.sockets = arena, pool, sockets
        self._deliver = deliver
        self._here = frozenset(placement.uids(me))
        self._n_rows = sum(arena.plan.rows)
        self.rings = Rings(arena.memory, arena.plan, me.worker)
        # messages by socket to and from each worker of the machine: what notices have to follow
        self._frames_to: Counter[int] = Counter()
        self._frames_from: Counter[int] = Counter()
        #: messages of nodes to and from each other worker, so that a run at rest can be told
        self.sent: Counter[WorkerId] = Counter()
        self.received: Counter[WorkerId] = Counter()
        self._gone: set[int] = set()
        self._routes: dict[tuple[int, ...], dict[WorkerId, list[int]]] = {}
        #: of alike messages: bytes of the header but for sender and round, and of the tensors
        self._sizes: dict[object, tuple[int, int]] = {}
        self.collective: Callable[[str, Message], None] = lambda kind, message: None
        self.announced: Announced = lambda round_, uids, rows: None

    # ---------------------------------------------------------------- outgoing

    def send(self, uids: Sequence[int], message: Message, traffic: Traffic) -> None:
        """Give ``message``, stamped with its sender, to the nodes ``uids``."""
        if self._gone:
            uids = [uid for uid in uids if uid not in self._gone]
        self.count(message, len(uids), traffic)
        near: dict[int, list[int]] = {}
        for worker, receivers in self._by_worker(uids).items():
            if worker == self.me:
                self._send_here(receivers, message)
                continue
            message = message.made()
            self.sent[worker] += 1
            if worker.machine == self.me.machine:
                near[worker.worker] = receivers
            else:
                traffic.wire += self._send_far(worker, receivers, message)
        if near:
            self._send_near(near, message)

    def leave(self, uids: Iterable[int], dead: Iterable[WorkerId]) -> None:
        """Nodes have left: nothing more is sent to them, and dead workers hold no rows."""
        self._gone |= set(uids)
        for worker in dead:
            if worker.machine == self.me.machine:
                self.pool.forgive(worker.worker)
            if self.sockets is not None:
                self.sockets.forget(worker)

    def _by_worker(self, uids: Sequence[int]) -> dict[WorkerId, list[int]]:
        """Receivers by worker; a node mostly speaks to the same ones, so that is remembered."""
        key = tuple(uids)
        found = self._routes.get(key)
        if found is None:
            if len(self._routes) >= max(_KEPT_ROUTES, 2 * len(self._here)):
                self._routes.clear()
            found = self._routes[key] = {}
            for uid in key:
                found.setdefault(self.placement.owner(uid), []).append(uid)
        return found

    def count(self, message: Message, receivers: int, traffic: Traffic) -> int:
        """Note what a message to so many nodes takes; returns the bytes of one."""
        header_bytes, payload = self.size(message)
        traffic.data += payload * receivers
        traffic.meta += header_bytes * receivers
        return header_bytes + payload

    def size(self, message: Message) -> tuple[int, int]:
        """(header, payload) bytes; those of alike messages without meta are remembered."""
        if message.meta or message.asks:
            return _size(message)
        key = tuple([(name, t.dtype, t.layout, t.shape) for name, t in message.like.items()])
        digits = len(f"{message.sender}{message.round[0]}{message.round[1]}")
        found = self._sizes.get(key)
        if found is None:
            header, payload = _size(message)
            if len(self._sizes) < _KEPT_SIZES:
                self._sizes[key] = len(message.encoded().rstrip()) - digits, payload
            return header, payload
        return padded(found[0] + digits), found[1]

    # ------------------------------------------------- to nodes of the same worker

    def _send_here(self, receivers: Sequence[int], message: Message) -> None:
        self._deliver(receivers, self.kept(message).delivered(len(receivers)))

    def kept(self, message: Message) -> Message:
        """The message as one that may wait: rows are values, all else is copied. What gradients
        its sender takes is nobody else's concern."""
        if message.is_deferred:
            return message
        keeps, tensors = self.pool.keeps, message.tensors
        others: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if not keeps(tensor):
                others[name] = tensor.detach().clone()
            elif tensor.requires_grad:
                others[name] = tensor.detach()
        return message.carrying({**tensors, **others}) if others else message

    # ----------------------------------------------------- to workers of this machine

    def _send_near(self, receivers: Mapping[int, list[int]], message: Message) -> None:
        tensors = message.tensors
        places = [self.pool.place(tensor) for tensor in tensors.values()]
        plain = not message.meta and not message.asks
        if plain and None not in places and list(tensors) == ["params"]:
            place = places[0]
            assert place is not None
            said, whole = tensors["params"], 4 * self.arena.plan.length
            if place[2] == whole and said.dim() == 1 and said.dtype == torch.float32:
                self._send_row(receivers, message, place[0])
                return
        short = self._is_short(receivers, message)
        spilled = self._spill(list(tensors.values()), places) if short else None
        if spilled is None:
            for worker, uids in receivers.items():
                self._send_frames(worker, uids, message)
            return
        self._send_parts(receivers, message, [place for place in places if place is not None])
        for row in spilled:  # comes back once it has been read
            self.pool.retire_shared(row)

    def _is_short(self, receivers: Mapping[int, list[int]], message: Message) -> bool:
        """Whether a notice of it fits into the rings; a header may have up to 1 MB."""
        words = len(message.encoded()) // _WORD + _PART_WORDS * len(message.tensors)
        most = max(map(len, receivers.values()))
        return words + most + _LEAST_WORDS <= self.rings.longest

    def _send_row(self, receivers: Mapping[int, list[int]], message: Message, row: int) -> None:
        self.pool.publish(row, receivers)
        for worker, uids in receivers.items():
            before = self._frames_to[worker]
            self.rings.send(worker, (before, _ROW, message.sender, *message.round, row, *uids))
            self._wake(worker)

    def announce(self, worker: int, round_: tuple[int, int], pairs: Sequence[int]) -> None:
        """Tell a worker of this machine where rows of a round lie: ``pairs`` of node and row. It
        releases each of them once."""
        self.pool.publish_all(pairs[1::2], worker)
        self.sent[WorkerId(self.me.machine, worker)] += 1
        before = self._frames_to[worker]
        self.rings.send(worker, (before, _TABLE, len(pairs) // 2, *round_, *pairs))
        self._wake(worker)

    def _spill(self, tensors: Sequence[Tensor], places: list[Extent | None]) -> list[int] | None:
        """Copy what is no row to spare rows and note the places; returns these rows, or None if
        there is no room: one tensor is never cut."""
        row_bytes, end = self.arena.plan.row_bytes, 0
        rows: list[int] = []
        for at, tensor in enumerate(tensors):
            if places[at] is None and not tensor.nbytes:
                places[at] = -1, 0, 0
            if places[at] is not None:
                continue
            if not rows or end + tensor.nbytes > row_bytes:
                row = self.pool.acquire_shared() if tensor.nbytes <= row_bytes else None
                if row is None:
                    for taken in rows:
                        self.pool.retire_shared(taken)
                    return None
                rows.append(row)
                end = 0
            if tensor.is_meta:
                raise MessageError("a tensor is on the device meta: it has no data")
            source = tensor.detach() if tensor.requires_grad else tensor
            self.arena.part(rows[-1], end, tensor).copy_(source)
            places[at] = rows[-1], end, tensor.nbytes
            end += -(-tensor.nbytes // _ALIGN) * _ALIGN
        return rows

    def _send_parts(
        self, receivers: Mapping[int, list[int]], message: Message, places: Sequence[Extent]
    ) -> None:
        """A notice of the header, and of where each tensor lies."""
        header = message.encoded()
        words = struct.unpack(f"<{len(header) // _WORD}q", header)
        parts = [word for place in places for word in place]
        head = (_PARTS, message.sender, *message.round, len(places), len(words))
        for row in {row for row, _, _ in places if row >= 0}:
            self.pool.publish(row, receivers)
        for worker, uids in receivers.items():
            entry = (self._frames_to[worker], *head, *parts, *words, *uids)
            self.rings.send(worker, entry)
            self._wake(worker)

    def _wake(self, worker: int) -> None:
        fence()  # either it sees the notice before it sleeps, or we see that it sleeps
        if self.sockets is not None and self.arena.counters.idle(worker):
            self.arena.counters.set_idle(worker, False)  # one ring is enough
            self.sockets.ring(worker)

    def _send_frames(self, worker: int, receivers: Sequence[int], message: Message) -> None:
        assert self.sockets is not None
        header, payload = to_frames(message)
        to = WorkerId(self.me.machine, worker)
        self.sockets.send(to, [_first(receivers), header, *map(bytes, payload)])
        self._frames_to[worker] += 1

    # ------------------------------------------------------------ to other machines

    def _send_far(self, worker: WorkerId, receivers: Sequence[int], message: Message) -> int:
        """Returns the bytes on the wire; a large row is held until it has arrived."""
        assert self.sockets is not None and self.sockets.wire is not None
        places = [self.pool.place(tensor) for tensor in message.tensors.values()]
        rows = {place[0] for place in places if place is not None}
        large = sum(tensor.nbytes for tensor in message.tensors.values()) >= SMALL
        header, payload = to_frames(message)
        if None in places or not large:
            frames = [_first(receivers), header, *map(bytes, payload)]
            return self.sockets.wire.outbound.send(worker, frames, message.sender)
        for row in rows:
            self.pool.publish(row, (self.me.worker,))
        releases = [self.pool.releaser(row) for row in rows]
        return self.sockets.wire.outbound.send(
            worker, [_first(receivers), header, *payload], message.sender, _all(releases)
        )

    def may_send(self, uid: int, uids: Sequence[int]) -> bool:
        """Whether workers on other machines have room for a message of node ``uid``."""
        wire = self.sockets.wire if self.sockets is not None else None
        return wire is None or all(
            wire.outbound.may_send(worker, uid)
            for worker in self._by_worker(uids)
            if worker.machine != self.me.machine
        )

    def send_collective(self, worker: WorkerId, kind: str, message: Message) -> None:
        """Send what is for a worker, not for nodes (``S``, ``A``, ``Q``, ``R``)."""
        assert self.sockets is not None
        header, payload = to_frames(message)
        frames = [kind.encode(), header, *map(bytes, payload)]
        if worker.machine == self.me.machine:
            self.sockets.send(worker, frames)
        else:
            assert self.sockets.wire is not None
            self.sockets.wire.outbound.send(worker, frames)

    # ---------------------------------------------------------------- incoming

    def take_in(self, idle: bool = False) -> bool:
        """Deliver all that has arrived; True if there was anything, or room to send again.

        ``idle`` says that there is no other work: then other machines are answered at once.
        """
        if self.sockets is None:
            return False
        for worker in self.rings.catch_up():
            self._wake(worker)
        arrived = self._take_notices()
        for frames in self.sockets.receive():
            arrived = True
            reader = self._reader(self.me)
            for frame in frames:
                reader.frame(Part(frame))
            reader.deliver()
        wire = self.sockets.wire
        if wire is not None:
            arrived = wire.inbound.receive(self._reader) or arrived
            arrived = wire.service(idle and not arrived) or arrived
        return arrived

    def _reader(self, peer: WorkerId) -> MessageReader:
        return MessageReader(peer, self._take_message)

    def _take_notices(self) -> bool:
        """Deliver what is announced in rings."""
        arrived = False
        for worker in self.rings.workers:
            source = WorkerId(self.me.machine, worker)
            while (words := self.rings.take(worker, self._frames_from[worker])) is not None:
                arrived = True
                self.received[source] += 1
                self._take_notice(words)
        return arrived

    def _take_notice(self, words: tuple[int, ...]) -> None:
        if len(words) <= _HEAD_WORDS + 1:
            raise MessageError("a notice without receivers")
        kind, sender, t, k = words[:_HEAD_WORDS]
        if kind == _TABLE:
            rows = words[_HEAD_WORDS + 1 :: 2]
            self._checked_row(min(rows))
            self._checked_row(max(rows))
            self.announced((t, k), words[_HEAD_WORDS::2], rows)
            return
        if kind == _ROW:
            row = self._checked_row(words[_HEAD_WORDS])
            message = Message({"params": self.pool.reading(row)}, None, sender, (t, k))
            receivers = words[_HEAD_WORDS + 1 :]
        else:
            message, receivers = self._read_parts(words[_HEAD_WORDS:])
        self._deliver(self._mine(receivers), message)

    def _read_parts(self, words: tuple[int, ...]) -> tuple[Message, tuple[int, ...]]:
        n_parts, n_words, *rest = words
        stop = _PART_WORDS * n_parts
        text = struct.pack(f"<{n_words}q", *rest[stop : stop + n_words])
        header = decode(text)
        buffers: dict[int, Any] = {}
        tensors = {}
        for at, info in enumerate(header.tensors):
            row, start, nbytes = rest[_PART_WORDS * at : _PART_WORDS * (at + 1)]
            if row >= 0 and row not in buffers:
                self._checked_row(row)
                buffers[row] = self.arena.lease(row, self.pool.releaser(row))
            if nbytes != info.nbytes or start + nbytes > self.arena.plan.row_bytes:
                raise MessageError(f"a part of {nbytes} bytes at {start}, not {info.nbytes}")
            tensors[info.name] = _tensor(buffers.get(row), start, info, nbytes)
        return _message(header, tensors), tuple(rest[stop + n_words :])

    def _checked_row(self, row: int) -> int:
        if not 0 <= row < self._n_rows:
            raise MessageError(f"no row {row}")
        return row

    def _take_message(
        self, peer: WorkerId, first: memoryview, message: Message, nbytes: int
    ) -> None:
        if first[:1] != b"M":
            self.collective(bytes(first[:1]).decode(), message)
            return
        if not self.placement.has(message.sender):
            raise MessageError(f"a message of node {message.sender}, which there is not")
        receivers = self._mine(_words(first))
        source = self.placement.owner(message.sender)
        if source.machine != peer.machine:
            raise MessageError(f"{peer} speaks for node {message.sender}, which is elsewhere")
        if source.machine == self.me.machine:
            self._take_notices()  # those of before
            self._take_near(source, receivers, message)
            self._take_notices()  # those that had to follow
        else:
            self._take_far(peer, receivers, message, nbytes)
            self.received[source] += 1

    def _take_near(self, source: WorkerId, receivers: Sequence[int], message: Message) -> None:
        self.received[source] += 1
        self._deliver(receivers, message)
        self._frames_from[source.worker] += 1

    def _take_far(
        self, peer: WorkerId, receivers: Sequence[int], message: Message, nbytes: int
    ) -> None:
        """From another machine, which is told once nobody here has yet to hear the message."""
        assert self.sockets is not None and self.sockets.wire is not None
        wire, sender = self.sockets.wire, message.sender
        message.lease = Lease(lambda: wire.inbound.consumed(peer, sender, nbytes))
        self._deliver(receivers, message)
        message.lease = None  # mailboxes have it: who keeps what it has heard keeps nobody waiting

    def _mine(self, uids: tuple[int, ...]) -> tuple[int, ...]:
        if not self._here.issuperset(uids):
            raise MessageError(f"a message for nodes {uids}, which are not here")
        return uids


class Lease:
    """Calls ``release`` when nobody has it any more."""

    __slots__ = ("_release",)

    def __init__(self, release: Callable[[], object]) -> None:
        self._release = release

    def __del__(self) -> None:
        self._release()


def _all(calls: Sequence[Callable[[], object]]) -> Callable[[], None]:
    def call() -> None:
        for one in calls:
            one()

    return call


def _size(message: Message) -> tuple[int, int]:
    """Raises `MessageError` for what does not survive the way to another worker."""
    check_meta(message.meta)
    check_size(message.like)
    return len(message.encoded()), sum(tensor.nbytes for tensor in message.like.values())


def _tensor(buffer: Any, start: int, info: TensorInfo, nbytes: int) -> Tensor:
    dtype = TORCH_DTYPES[info.dtype]
    if not nbytes:
        return torch.empty(info.shape, dtype=dtype)
    count = nbytes // dtype.itemsize
    flat = torch.frombuffer(buffer, dtype=dtype, count=count, offset=start)
    return flat if len(info.shape) == 1 else flat.view(info.shape)


def _message(header: Header, tensors: dict[str, Tensor]) -> Message:
    return Message(tensors, header.meta, header.sender, header.round, header.asks)


def _first(receivers: Sequence[int]) -> bytes:
    return b"M" + struct.pack(f"<{len(receivers)}q", *receivers)


def _words(frame: memoryview) -> tuple[int, ...]:
    body = frame[1:]
    if len(body) % _WORD:
        raise MessageError("a first frame of odd length")
    return struct.unpack(f"<{len(body) // _WORD}q", body)
