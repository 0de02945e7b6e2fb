"""What workers of other machines send to a worker: a ROUTER, and a session for each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

import zmq

from decentralizepy.communication import ports
from decentralizepy.errors import ConfigError
from decentralizepy.mappings.placement import WorkerId
from decentralizepy.transport import batches
from decentralizepy.transport.batches import Acknowledgement, Part, Received
from decentralizepy.transport.credits import Consumption
from decentralizepy.transport.endpoint import Endpoint
from decentralizepy.transport.secure import (
    HELLO_START,
    Party,
    RefusedError,
    Session,
    answer,
    read_hello,
)

#: a receiver that is busy acknowledges after so many bytes or seconds
_ACK_BYTES: Final = 4 << 20
_ACK_S: Final = 0.05
#: one that is idle acknowledges sooner, but not each of many small batches
_IDLE_ACK_BYTES: Final = 1 << 20
_IDLE_ACK_S: Final = 0.002
#: connections of one worker that have said hello and nothing else: perhaps it is a replay
_MAX_PENDING: Final = 1024


class Reader(Protocol):
    """Takes the frames of one batch, and delivers its messages when all are there."""

    def frame(self, part: Part) -> None:
        """The next frame."""

    def deliver(self) -> int:
        """Give all messages to their receivers; returns their bytes."""


NewReader = Callable[[WorkerId], Reader]


class _Source:
    """What one other worker sends to this one."""

    def __init__(self, peer: WorkerId) -> None:
        self.peer = peer
        self.received = Received()
        self.consumption = Consumption()
        self.stream: _Stream | None = None
        self.pending: deque[_Stream] = deque()
        self.unacknowledged = 0
        self.since = 0.0

    @property
    def owes(self) -> bool:
        """Whether the sender has not been told of all."""
        return bool(self.unacknowledged) or self.consumption.news

    def born(self, life: bytes) -> None:
        if life != self.received.life:
            self.received.born(life)
            self.consumption = Consumption()


@dataclass(eq=False)
class _Stream:
    """One connection of a source: its session, and the batch that is arriving."""

    identity: bytes
    source: _Source
    sender: Party
    session: Session
    hello: bytes
    batch: batches.ArrivingBatch | None = None
    reader: Reader | None = None
    broken: bool = False


class Inbound:
    """All that arrives at one worker from other machines."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._me = endpoint, endpoint.me
        #: workers of each machine, once they are known
        self.workers: Sequence[int] | None = None
        self.sources: dict[WorkerId, _Source] = {}
        self.streams: dict[bytes, _Stream] = {}
        self._retired: deque[bytes] = deque(maxlen=256)
        self._inbox = endpoint.socket(zmq.ROUTER)
        port = endpoint.port(WorkerId(*endpoint.me.place))
        address = ports.listening(endpoint.addresses[endpoint.me.machine])
        try:
            self._inbox.bind(ports.url(address, port))
        except zmq.ZMQError:
            raise ConfigError(ports.refusal(address, port, endpoint.offset)) from None
        endpoint.poller.register(self._inbox, zmq.POLLIN)

    def receive(self, new_reader: NewReader) -> bool:
        """Deliver all that has arrived; True if there was anything."""
        arrived = False
        while int(self._inbox.get(zmq.EVENTS)) & zmq.POLLIN:  # cheaper than an exception
            identity, *frames = self._inbox.recv_multipart(copy=False)
            arrived = True
            try:
                self._arrived(identity.bytes, [frame.buffer for frame in frames], new_reader)
            except RefusedError as error:
                self._endpoint.refuse(error)
        return arrived

    def _arrived(self, identity: bytes, frames: list[memoryview], new: NewReader) -> None:
        stream = self.streams.get(identity)
        if len(frames) == 1 and bytes(frames[0][: len(HELLO_START)]) == HELLO_START:
            if stream is None:
                self._greeted(identity, frames[0])
            elif stream.hello != frames[0]:
                raise RefusedError("foreign", "another hello on a connection that has a session")
            return
        if stream is None:
            if identity not in self._retired:
                raise RefusedError("foreign", "nobody said hello on this connection")
            return
        for frame in frames:
            if not stream.broken:
                self._frame(stream, frame, new)

    def _greeted(self, identity: bytes, frame: memoryview) -> None:
        greeting = read_hello(self._endpoint.key, self._me, frame)
        sender, peer = greeting.sender, WorkerId(*greeting.sender.place)
        if not self._is_elsewhere(peer):
            raise RefusedError("foreign", f"a hello of {peer}")
        source = self.sources.setdefault(peer, _Source(peer))
        known = sender.life == source.received.life
        session, welcome = answer(
            self._endpoint.key, self._me, greeting, source.received.last if known else 0
        )
        stream = _Stream(identity, source, sender, session, greeting.text)
        source.pending.append(stream)
        if len(source.pending) > _MAX_PENDING:
            self._retire(source.pending.popleft())
        self.streams[identity] = stream
        self._inbox.send_multipart([identity, welcome])

    def _is_elsewhere(self, peer: WorkerId) -> bool:
        """Whether there is such a worker, on another machine."""
        machines = range(len(self._endpoint.addresses))
        if peer.machine not in machines or peer.machine == self._me.machine:
            return False
        return 0 <= peer.worker < (self.workers[peer.machine] if self.workers else ports.HIGHEST)

    def _retire(self, stream: _Stream) -> None:
        if self.streams.get(stream.identity) is stream:
            del self.streams[stream.identity]
            self._retired.append(stream.identity)

    def _frame(self, stream: _Stream, frame: memoryview, new: NewReader) -> None:
        try:
            self._open(stream, frame, new)
        except RefusedError as error:
            self._endpoint.refuse(error)
            if error.harmless and stream.batch is None:
                return
            stream.broken, stream.batch, stream.reader = True, None, None
            last = stream.source.received.last
            self._answer(stream, Acknowledgement(last, True, b""))  # it may not be our peer's

    def _open(self, stream: _Stream, frame: memoryview, new: NewReader) -> None:
        if stream.batch is None:
            body, count = stream.session.opener.head(frame)
            self._promote(stream)
            if not body and not count:
                self._acknowledge(stream.source, everything=True)
                return
            stream.batch = batches.ArrivingBatch(body, count)
            if stream.source.received.is_new(stream.batch.number):
                stream.reader = new(stream.source.peer)
        elif stream.reader is None:
            stream.batch.skip()
        else:
            for part in stream.batch.chunk(frame, stream.session.opener):
                stream.reader.frame(part)
        if stream.batch.complete:
            self._complete(stream)

    def _promote(self, stream: _Stream) -> None:
        """The first thing opened proves that this connection is the peer's, and its newest."""
        source = stream.source
        if source.stream is stream:
            return
        source.born(stream.sender.life)
        if source.stream is not None:
            self._retire(source.stream)
        for other in source.pending:
            if other is not stream:
                self._retire(other)
        source.pending.clear()
        source.stream = stream

    @staticmethod
    def _complete(stream: _Stream) -> None:
        source = stream.source
        assert stream.batch is not None
        number, reader = stream.batch.number, stream.reader
        stream.batch = stream.reader = None
        if not source.owes:
            source.since = monotonic()
        if reader is not None:
            source.received.took(number)
            source.unacknowledged += reader.deliver()
        source.unacknowledged += 1

    def consumed(self, peer: WorkerId, uid: int, nbytes: int) -> None:
        """All receivers here have gone past a message of node ``uid``."""
        source = self.sources[peer]
        if not source.owes:
            source.since = monotonic()
        source.consumption.consumed(uid, nbytes)

    @property
    def owes(self) -> bool:
        """Whether an acknowledgement will soon be due."""
        return any(source.owes for source in self.sources.values())

    def service(self, idle: bool, now: float) -> None:
        """Acknowledge what is due."""
        for source in self.sources.values():
            if self._due(source, idle, now):
                self._acknowledge(source)

    @staticmethod
    def _due(source: _Source, idle: bool, now: float) -> bool:
        if not source.owes:
            return False
        much = max(source.unacknowledged, source.consumption.unreported)
        enough, after = (_IDLE_ACK_BYTES, _IDLE_ACK_S) if idle else (_ACK_BYTES, _ACK_S)
        return much >= enough or now - source.since >= after

    def _acknowledge(self, source: _Source, everything: bool = False) -> None:
        assert source.stream is not None
        report = source.consumption.report(everything)
        self._answer(source.stream, Acknowledgement(source.received.last, False, report))
        source.unacknowledged = 0

    def _answer(self, stream: _Stream, news: Acknowledgement) -> None:
        frame = stream.session.sealer.head(news.encode(), 0)
        self._inbox.send_multipart([stream.identity, frame])
