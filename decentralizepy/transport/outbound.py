"""What a worker sends to workers of other machines: a DEALER and a session for each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from decentralizepy.communication import ports
from decentralizepy.errors import RunError
from decentralizepy.mappings.placement import WorkerId
from decentralizepy.transport import batch as batches
from decentralizepy.transport.acknowledgement import Acknowledgement
from decentralizepy.transport.credits import Window
from decentralizepy.transport.endpoint import Net, too_many
from decentralizepy.transport.reliable import Batch, Outgoing
from decentralizepy.transport.secure import (
    PREFIX_BYTES,
    TAG,
    WELCOME_START,
    Buffer,
    Initiator,
    Party,
    RefusedError,
    Session,
)

FLUSH_BYTES: Final = 1 << 20
_FLUSH_FRAMES: Final = 1 << 14
_HELLO_AGAIN_S: Final = 5.0
_REOPEN_S: Final = 0.5
_EVENTS: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


def framed(nbytes: int) -> int:
    """Bytes that ZMTP 3 makes of one frame: flags, a length of 1 or 8 bytes, the frame."""
    return nbytes + (2 if nbytes < 256 else 9)


def wire_bytes(sizes: Sequence[int], sealed: bool) -> int:
    """Bytes that a message of frames of these sizes takes when it travels alone."""
    tag = TAG if sealed else 0
    total = framed(PREFIX_BYTES + 8 + 4 * len(sizes) + tag)
    for members in batches.plan(sizes):
        total += framed(sum(sizes[members.start : members.stop]) + tag)
    return total


@dataclass(eq=False)
class _Connection:
    """One attempt to reach a peer: a fresh socket that has said hello, and its session."""

    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    initiator: Initiator
    #: when hello was said last, or the welcome came
    greeted: float
    session: Session | None = None
    confirmed: bool = False
    up: bool = False
    reopen: float | None = None


@dataclass(eq=False)
class _Link:
    """What this worker sends to one other: a connection, and all that is not acknowledged.

    ``heard``, ``since`` and ``down`` are times: when the peer last said something, when what it
    owes began to wait or was last acknowledged, when it could last be reached.
    """

    peer: WorkerId
    connection: _Connection
    window: Window
    heard: float
    out: Outgoing = field(default_factory=Outgoing)
    frames: list[Buffer] = field(default_factory=list)
    done: list[Callable[[], None]] = field(default_factory=list)
    nbytes: int = 0
    transmitted: int = 0
    life: bytes = b""
    since: float = 0.0
    down: float = 0.0


class Outbound:
    """The links of one worker. A connection that breaks is replaced by a fresh socket with a fresh
    session, and what the peer has not acknowledged is sent again."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self.window, self.give_up = 1 << 30, net.peer_timeout
        self.links: dict[WorkerId, _Link] = {}
        self._credit = False

    def send(
        self,
        peer: WorkerId,
        frames: Sequence[Buffer],
        uid: int | None = None,
        done: Callable[[], None] | None = None,
    ) -> int:
        """Queue one message of node ``uid``; returns the bytes that it takes on the wire.

        The frames' memory must not change until ``done`` is called: when the peer has all.
        """
        link = self._link(peer)
        sizes = [len(frame) for frame in frames]
        nbytes = sum(sizes)
        if uid is not None:
            link.window.sent(uid, nbytes)
        link.frames += frames
        if done is not None:
            link.done.append(done)
        link.nbytes += nbytes
        if link.nbytes >= FLUSH_BYTES or len(link.frames) >= _FLUSH_FRAMES:
            self._flush(link)
        return wire_bytes(sizes, self._net.key is not None)

    def may_send(self, peer: WorkerId, uid: int) -> bool:
        """Whether the peer has room for another message of node ``uid``."""
        link = self.links.get(peer)
        if link is None or link.window.open(uid):
            return True
        self._net.counts["held"] += 1
        return False

    def forget(self, peer: WorkerId) -> None:
        """Drop all that is queued or kept for a worker that is dead."""
        link = self.links.pop(peer, None)
        if link is not None:
            self._disconnect(link)
            link.out.drop()
            for call in link.done:
                call()

    def flush(self) -> None:
        """Let go what is queued."""
        for link in self.links.values():
            if link.frames:
                self._flush(link)

    def _flush(self, link: _Link) -> None:
        if not link.out:
            link.since = monotonic()
        batch = link.out.keep(link.frames, link.done)
        link.frames, link.done, link.nbytes = [], [], 0
        if link.connection.session is not None:
            self._transmit(link, link.connection.session, batch)

    @staticmethod
    def _transmit(link: _Link, session: Session, batch: Batch) -> None:
        """Small frames travel with the next one, large ones end a ZeroMQ message: the peer opens
        one while the next is on its way."""
        link.transmitted = max(link.transmitted, batch.number)
        socket, sealer = link.connection.socket, session.sealer
        chunks = batches.chunks(batch.frames)
        head = sealer.head(batches.head(batch.number, batch.frames), len(chunks))
        socket.send(head, zmq.SNDMORE if chunks else 0)
        for at, chunk in enumerate(chunks, 1):
            more = at < len(chunks) and len(chunk) < batches.SMALL
            socket.send(sealer.chunk(chunk), zmq.SNDMORE if more else 0, copy=False)

    def _link(self, peer: WorkerId) -> _Link:
        if peer not in self.links:
            link = _Link(peer, self._connect(peer), Window(self.window), monotonic())
            self.links[peer] = link
        return self.links[peer]

    # -------------------------------------------------------------- connections

    def _connect(self, peer: WorkerId) -> _Connection:
        net = self._net
        socket = net.socket(zmq.DEALER)
        try:
            monitor = socket.get_monitor_socket(_EVENTS)
            address = ports.reaching(net.addresses[peer.machine])
            socket.connect(ports.endpoint(address, net.port(peer)))
        except zmq.ZMQError as error:
            raise too_many(error) from None
        initiator = Initiator(net.key, net.me, (peer.machine, peer.worker))
        socket.send(initiator.hello)
        net.poller.register(socket, zmq.POLLIN)
        net.poller.register(monitor, zmq.POLLIN)
        return _Connection(socket, monitor, initiator, monotonic())

    def _disconnect(self, link: _Link) -> None:
        for socket in (link.connection.socket, link.connection.monitor):
            with contextlib.suppress(KeyError):
                self._net.poller.unregister(socket)
        link.connection.socket.disable_monitor()
        link.connection.socket.close(linger=0)

    def _reconnect(self, link: _Link) -> None:
        """Replace a connection; all that is not acknowledged goes out again with a new session."""
        if link.connection.up:
            link.down = monotonic()
        self._disconnect(link)
        self._net.counts["reconnects"] += 1
        link.connection = self._connect(link.peer)

    def service(self, now: float) -> bool:
        """Look at answers and broken connections; True if a peer gave credit."""
        for link in self.links.values():
            if self._is_broken(link.connection, now):
                self._reconnect(link)
            self._greet_again(link.connection, now)
            self._check_reach(link, now)
            self._hear(link, now)
        credit, self._credit = self._credit, False
        return credit

    def _is_broken(self, connection: _Connection, now: float) -> bool:
        """Whether to start anew: it was cut, or what came is not to be trusted, or our welcome
        was, and nothing comes."""
        while int(connection.monitor.get(zmq.EVENTS)) & zmq.POLLIN:
            if recv_monitor_message(connection.monitor)["event"] == zmq.EVENT_DISCONNECTED:
                return True
            connection.up = True
        if connection.reopen is not None:
            return now >= connection.reopen
        doubtful = connection.session is not None and not connection.confirmed and connection.up
        return doubtful and now - connection.greeted > self._net.peer_timeout

    @staticmethod
    def _greet_again(connection: _Connection, now: float) -> None:
        waits = connection.session is None and connection.up
        if waits and now - connection.greeted > _HELLO_AGAIN_S:
            connection.greeted = now
            connection.socket.send(connection.initiator.hello)

    def _check_reach(self, link: _Link, now: float) -> None:
        """Raise `RunError` if a peer that owes an acknowledgement was out of reach for too long."""
        if link.connection.up or not (link.out or link.frames):
            return
        silent = now - max(link.heard, link.since, link.down)
        if silent > self.give_up:
            raise RunError(
                f"machine {link.peer.machine} is gone: its worker {link.peer.worker} could not be "
                f"reached for {silent:.0f} s (peer_timeout = {self._net.peer_timeout:g})"
            )

    # ------------------------------------------------------------------ answers

    def _hear(self, link: _Link, now: float) -> None:
        connection = link.connection
        socket = connection.socket
        while connection is link.connection and int(socket.get(zmq.EVENTS)) & zmq.POLLIN:
            frames = socket.recv_multipart()
            try:
                if len(frames) != 1:
                    raise RefusedError("malformed", "an answer of several frames")
                self._answered(link, frames[0])
                link.heard = now
            except RefusedError as error:
                self._net.refuse(error)
                if not error.harmless and connection.reopen is None:
                    connection.reopen = now + _REOPEN_S

    def _answered(self, link: _Link, frame: bytes) -> None:
        connection = link.connection
        if frame.startswith(WELCOME_START):
            if connection.session is None:
                self._welcomed(link, *connection.initiator.finish(frame))
            return
        if connection.session is None:
            raise RefusedError("foreign", "an answer before the welcome")
        news = Acknowledgement.decode(connection.session.opener.head(frame)[0])
        connection.confirmed = True
        self._acknowledged(link, news.received)
        link.window.take(news.report)
        self._credit = True
        if news.reset:
            self._reconnect(link)

    def _welcomed(self, link: _Link, session: Session, peer: Party, received: int) -> None:
        if link.life not in (b"", peer.life):
            raise RunError(f"{link.peer} was started anew in the middle of the run")
        connection = link.connection
        link.life, connection.session, connection.greeted = peer.life, session, monotonic()
        self._acknowledged(link, received)
        connection.socket.send(session.sealer.head(b"", 0))  # proves that we are no replay
        for batch in link.out.waiting():
            self._net.counts["resent"] += batch.number <= link.transmitted
            self._transmit(link, session, batch)

    def _acknowledged(self, link: _Link, number: int) -> None:
        if link.out.acknowledged(number):
            link.since = monotonic()

    def close(self) -> None:
        """Stop watching; the context closes the sockets."""
        for link in self.links.values():
            if not link.connection.socket.closed:
                link.connection.socket.disable_monitor()
