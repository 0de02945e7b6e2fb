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
from decentralizepy.transport import batches
from decentralizepy.transport.batches import Acknowledgement, Batch, Unacknowledged
from decentralizepy.transport.credits import SendWindow
from decentralizepy.transport.endpoint import Endpoint, too_many
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
#: chunks below this are copied: the memory of others is given back by a thread of pyzmq's, which
#: has to be woken, and then holds Python's lock
_COPIED_BYTES: Final = 1 << 20
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
class _Peer:
    """What this worker sends to one other: a connection, and all that is not acknowledged.

    ``heard``, ``since`` and ``down`` are times: when the peer last said something, when what it
    owes began to wait or was last acknowledged, when it could last be reached.
    """

    worker: WorkerId
    connection: _Connection
    window: SendWindow
    heard: float
    out: Unacknowledged = field(default_factory=Unacknowledged)
    frames: list[Buffer] = field(default_factory=list)
    done: list[Callable[[], None]] = field(default_factory=list)
    nbytes: int = 0
    transmitted: int = 0
    life: bytes = b""
    since: float = 0.0
    down: float = 0.0


class Outbound:
    """The peers of one worker. A connection that breaks is replaced by a fresh socket with a fresh
    session, and what the peer has not acknowledged is sent again."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.window, self.give_up = 1 << 30, endpoint.peer_timeout
        self.peers: dict[WorkerId, _Peer] = {}
        self._credit = False

    def send(
        self,
        worker: WorkerId,
        frames: Sequence[Buffer],
        uid: int | None = None,
        done: Callable[[], None] | None = None,
    ) -> int:
        """Queue one message of node ``uid``; returns the bytes that it takes on the wire.

        The frames' memory must not change until ``done`` is called: when the peer has all.
        """
        peer = self._peer(worker)
        sizes = [len(frame) for frame in frames]
        nbytes = sum(sizes)
        if uid is not None:
            peer.window.sent(uid, nbytes)
        peer.frames += frames
        if done is not None:
            peer.done.append(done)
        peer.nbytes += nbytes
        if peer.nbytes >= FLUSH_BYTES or len(peer.frames) >= _FLUSH_FRAMES:
            self._flush(peer)
        return wire_bytes(sizes, self._endpoint.key is not None)

    def may_send(self, worker: WorkerId, uid: int) -> bool:
        """Whether the peer has room for another message of node ``uid``."""
        peer = self.peers.get(worker)
        if peer is None or peer.window.open(uid):
            return True
        self._endpoint.counts["held"] += 1
        return False

    def forget(self, worker: WorkerId) -> None:
        """Drop all that is queued or kept for a worker that is dead."""
        peer = self.peers.pop(worker, None)
        if peer is not None:
            self._disconnect(peer)
            peer.out.drop()
            for call in peer.done:
                call()

    def flush(self) -> None:
        """Let go what is queued."""
        for peer in self.peers.values():
            if peer.frames:
                self._flush(peer)

    def _flush(self, peer: _Peer) -> None:
        if not peer.out:
            peer.since = monotonic()
        batch = peer.out.keep(peer.frames, peer.done)
        peer.frames, peer.done, peer.nbytes = [], [], 0
        if peer.connection.session is not None:
            self._transmit(peer, peer.connection.session, batch)

    @staticmethod
    def _transmit(peer: _Peer, session: Session, batch: Batch) -> None:
        """Small frames travel with the next one, large ones end a ZeroMQ message: the peer opens
        one while the next is on its way."""
        peer.transmitted = max(peer.transmitted, batch.number)
        socket, sealer = peer.connection.socket, session.sealer
        chunks = batches.chunks(batch.frames)
        head = sealer.head(batches.head(batch.number, batch.frames), len(chunks))
        socket.send(head, zmq.SNDMORE if chunks else 0)
        for at, chunk in enumerate(chunks, 1):
            more = at < len(chunks) and len(chunk) < batches.SMALL
            socket.send(sealer.chunk(chunk), zmq.SNDMORE if more else 0, copy=False)

    def _peer(self, worker: WorkerId) -> _Peer:
        if worker not in self.peers:
            peer = _Peer(worker, self._connect(worker), SendWindow(self.window), monotonic())
            self.peers[worker] = peer
        return self.peers[worker]

    # -------------------------------------------------------------- connections

    def _connect(self, worker: WorkerId) -> _Connection:
        endpoint = self._endpoint
        socket = endpoint.socket(zmq.DEALER)
        try:
            monitor = socket.get_monitor_socket(_EVENTS)
            address = ports.reaching(endpoint.addresses[worker.machine])
            socket.connect(ports.url(address, endpoint.port(worker)))
            socket.copy_threshold = _COPIED_BYTES
        except zmq.ZMQError as error:
            raise too_many(error) from None
        initiator = Initiator(endpoint.key, endpoint.me, (worker.machine, worker.worker))
        socket.send(initiator.hello)
        endpoint.poller.register(socket, zmq.POLLIN)
        endpoint.poller.register(monitor, zmq.POLLIN)
        return _Connection(socket, monitor, initiator, monotonic())

    def _disconnect(self, peer: _Peer) -> None:
        for socket in (peer.connection.socket, peer.connection.monitor):
            with contextlib.suppress(KeyError):
                self._endpoint.poller.unregister(socket)
        peer.connection.socket.disable_monitor()
        peer.connection.socket.close(linger=0)

    def _reconnect(self, peer: _Peer) -> None:
        """Replace a connection; all that is not acknowledged goes out again with a new session."""
        if peer.connection.up:
            peer.down = monotonic()
        self._disconnect(peer)
        self._endpoint.counts["reconnects"] += 1
        peer.connection = self._connect(peer.worker)

    def service(self, now: float) -> bool:
        """Look at answers and broken connections; True if a peer gave credit."""
        for peer in self.peers.values():
            if self._is_broken(peer.connection, now):
                self._reconnect(peer)
            self._greet_again(peer.connection, now)
            self._check_reach(peer, now)
            self._hear(peer, now)
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
        return doubtful and now - connection.greeted > self._endpoint.peer_timeout

    @staticmethod
    def _greet_again(connection: _Connection, now: float) -> None:
        waits = connection.session is None and connection.up
        if waits and now - connection.greeted > _HELLO_AGAIN_S:
            connection.greeted = now
            connection.socket.send(connection.initiator.hello)

    def _check_reach(self, peer: _Peer, now: float) -> None:
        """Raise `RunError` if a peer that owes an acknowledgement was out of reach for too long."""
        if peer.connection.up or not (peer.out or peer.frames):
            return
        silent = now - max(peer.heard, peer.since, peer.down)
        if silent > self.give_up:
            raise RunError(
                f"machine {peer.worker.machine} is gone: its worker {peer.worker.worker} could not "
                f"be reached for {silent:.0f} s (peer_timeout = {self._endpoint.peer_timeout:g})"
            )

    # ------------------------------------------------------------------ answers

    def _hear(self, peer: _Peer, now: float) -> None:
        connection = peer.connection
        socket = connection.socket
        while connection is peer.connection and int(socket.get(zmq.EVENTS)) & zmq.POLLIN:
            frames = socket.recv_multipart()
            try:
                if len(frames) != 1:
                    raise RefusedError("malformed", "an answer of several frames")
                self._answered(peer, frames[0])
                peer.heard = now
            except RefusedError as error:
                self._endpoint.refuse(error)
                if not error.harmless and connection.reopen is None:
                    connection.reopen = now + _REOPEN_S

    def _answered(self, peer: _Peer, frame: bytes) -> None:
        connection = peer.connection
        if frame.startswith(WELCOME_START):
            if connection.session is None:
                self._welcomed(peer, *connection.initiator.finish(frame))
            return
        if connection.session is None:
            raise RefusedError("foreign", "an answer before the welcome")
        news = Acknowledgement.decode(connection.session.opener.head(frame)[0])
        connection.confirmed = True
        self._acknowledged(peer, news.received)
        peer.window.take(news.report)
        self._credit = True
        if news.reset:
            self._reconnect(peer)

    def _welcomed(self, peer: _Peer, session: Session, party: Party, received: int) -> None:
        if peer.life not in (b"", party.life):
            raise RunError(f"{peer.worker} was started anew in the middle of the run")
        connection = peer.connection
        peer.life, connection.session, connection.greeted = party.life, session, monotonic()
        self._acknowledged(peer, received)
        connection.socket.send(session.sealer.head(b"", 0))  # proves that we are no replay
        for batch in peer.out.waiting():
            self._endpoint.counts["resent"] += batch.number <= peer.transmitted
            self._transmit(peer, session, batch)

    def _acknowledged(self, peer: _Peer, number: int) -> None:
        if peer.out.acknowledged(number):
            peer.since = monotonic()

    def close(self) -> None:
        """Stop watching; the context closes the sockets."""
        for peer in self.peers.values():
            if not peer.connection.socket.closed:
                peer.connection.socket.disable_monitor()
