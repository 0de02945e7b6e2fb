"""What a worker sends to workers of other machines: a DEALER and a session for each of them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from decentralizepy.communication import batch as batches
from decentralizepy.communication import ports
from decentralizepy.communication.acknowledgement import Acknowledgement
from decentralizepy.communication.credits import Window
from decentralizepy.communication.reliable import Batch, Outgoing
from decentralizepy.communication.secure import (
    PREFIX_BYTES,
    TAG,
    WELCOME_START,
    Buffer,
    Initiator,
    Party,
    RefusedError,
    RunKey,
    Session,
)
from decentralizepy.errors import RunError
from decentralizepy.runtime import sockets
from decentralizepy.runtime.placement import WorkerId

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


@dataclass
class _Link:
    """What this worker sends to one other: socket, session, and all that is not acknowledged."""

    peer: WorkerId
    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    initiator: Initiator
    window: Window
    heard: float
    greeted: float
    out: Outgoing = field(default_factory=Outgoing)
    frames: list[Buffer] = field(default_factory=list)
    done: list[Callable[[], None]] = field(default_factory=list)
    nbytes: int = 0
    transmitted: int = 0
    session: Session | None = None
    life: bytes = b""
    up: bool = False
    since: float = 0.0
    reopen: float | None = None


class Outbound:
    """The links of one worker. A connection that breaks is replaced by a fresh socket with a fresh
    session, and what the peer has not acknowledged is sent again."""

    def __init__(
        self,
        me: Party,
        addresses: Sequence[str],
        offset: int,
        context: zmq.Context[Any],
        poller: zmq.Poller,
        key: RunKey | None,
        timeout: float,
        counts: Counter[str],
    ) -> None:
        self._me, self._addresses, self._offset = me, addresses, offset
        self._context, self._poller = context, poller
        self._key, self._timeout, self._counts = key, timeout, counts
        self.window, self.give_up = 1 << 30, timeout
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
        return wire_bytes(sizes, self._key is not None)

    def may_send(self, peer: WorkerId, uid: int) -> bool:
        """Whether the peer has room for another message of node ``uid``."""
        link = self.links.get(peer)
        if link is None or link.window.open(uid):
            return True
        self._counts["held"] += 1
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
        if link.session is not None:
            self._transmit(link, batch)

    @staticmethod
    def _transmit(link: _Link, batch: Batch) -> None:
        """Small frames travel with the next one, large ones end a ZeroMQ message: the peer opens
        one while the next is on its way."""
        assert link.session is not None
        link.transmitted = max(link.transmitted, batch.number)
        sealer, chunks = link.session.sealer, batches.chunks(batch.frames)
        head = sealer.head(batches.head(batch.number, batch.frames), len(chunks))
        link.socket.send(head, zmq.SNDMORE if chunks else 0)
        for at, chunk in enumerate(chunks, 1):
            more = at < len(chunks) and len(chunk) < batches.SMALL
            link.socket.send(sealer.chunk(chunk), zmq.SNDMORE if more else 0, copy=False)

    def _link(self, peer: WorkerId) -> _Link:
        if peer not in self.links:
            now = monotonic()
            link = _Link(peer, *self._connect(peer), Window(self.window), now, now)
            self.links[peer] = link
        return self.links[peer]

    def _connect(self, peer: WorkerId) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes], Initiator]:
        """A fresh socket that has said hello."""
        socket: zmq.Socket[bytes] = sockets.make(self._context, zmq.DEALER, self._timeout)
        monitor = socket.get_monitor_socket(_EVENTS)
        port = ports.worker_port(self._addresses, self._offset, *peer)
        socket.connect(ports.endpoint(self._addresses[peer.machine], port))
        initiator = Initiator(self._key, self._me, (peer.machine, peer.worker))
        socket.send(initiator.hello)
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(monitor, zmq.POLLIN)
        return socket, monitor, initiator

    def _disconnect(self, link: _Link) -> None:
        for socket in (link.socket, link.monitor):
            with contextlib.suppress(KeyError):
                self._poller.unregister(socket)
        link.socket.disable_monitor()
        link.socket.close(linger=0)

    def _reconnect(self, link: _Link) -> None:
        """Replace a connection; all that is not acknowledged goes out again with a new session."""
        self._disconnect(link)
        self._counts["reconnects"] += 1
        link.socket, link.monitor, link.initiator = self._connect(link.peer)
        link.session, link.up, link.reopen, link.greeted = None, False, None, monotonic()

    def service(self, now: float) -> bool:
        """Look at answers and broken connections; True if a peer gave credit."""
        for link in self.links.values():
            self._watch(link, now)
            self._hear(link, now)
        credit, self._credit = self._credit, False
        return credit

    def _watch(self, link: _Link, now: float) -> None:
        while int(link.monitor.get(zmq.EVENTS)) & zmq.POLLIN:
            if recv_monitor_message(link.monitor)["event"] == zmq.EVENT_DISCONNECTED:
                self._reconnect(link)
                return
            link.up = True
        if link.reopen is not None and now >= link.reopen:
            self._reconnect(link)
        elif link.session is None and link.up and now - link.greeted > _HELLO_AGAIN_S:
            link.greeted = now
            link.socket.send(link.initiator.hello)
        if link.up or not (link.out or link.frames):
            return
        silent = now - max(link.heard, link.since)
        if silent > self.give_up:
            raise RunError(
                f"machine {link.peer.machine} is gone: its worker {link.peer.worker} could not be "
                f"reached for {silent:.0f} s (peer_timeout = {self._timeout:g})"
            )

    def _hear(self, link: _Link, now: float) -> None:
        socket = link.socket
        while socket is link.socket and int(socket.get(zmq.EVENTS)) & zmq.POLLIN:
            frames = socket.recv_multipart()
            try:
                if len(frames) != 1:
                    raise RefusedError("malformed", "an answer of several frames")
                self._answered(link, frames[0])
                link.heard = now
            except RefusedError as error:
                self._counts[f"refused_{error.kind}"] += 1
                if link.session is None:
                    link.reopen = now + _REOPEN_S

    def _answered(self, link: _Link, frame: bytes) -> None:
        if frame.startswith(WELCOME_START):
            if link.session is None:
                self._welcomed(link, *link.initiator.finish(frame))
            return
        if link.session is None:
            raise RefusedError("foreign", "an answer before the welcome")
        news = Acknowledgement.decode(link.session.opener.head(frame)[0])
        self._acknowledged(link, news.received)
        link.window.take(news.report)
        self._credit = True
        if news.reset:
            self._reconnect(link)

    def _welcomed(self, link: _Link, session: Session, peer: Party, received: int) -> None:
        if link.life not in (b"", peer.life):
            raise RunError(f"{link.peer} was started anew in the middle of the run")
        link.life, link.session = peer.life, session
        self._acknowledged(link, received)
        link.socket.send(session.sealer.head(b"", 0))  # proves that we are no replay
        for batch in link.out.waiting():
            self._counts["resent"] += batch.number <= link.transmitted
            self._transmit(link, batch)

    def _acknowledged(self, link: _Link, number: int) -> None:
        if link.out.acknowledged(number):
            link.since = monotonic()

    def close(self) -> None:
        """Stop watching; the context closes the sockets."""
        for link in self.links.values():
            if not link.socket.closed:
                link.socket.disable_monitor()
