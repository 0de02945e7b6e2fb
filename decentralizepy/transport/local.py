"""Sockets of a worker to the other workers: Unix ones on its machine; `wire` to other machines.

Messages for a worker are collected and leave together: waking ZeroMQ's thread costs more than a
small message. Nothing is dropped: queues have no high-water mark, and sockets are always drained.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import zmq

from decentralizepy.mappings.placement import WorkerId
from decentralizepy.transport.endpoint import make_context
from decentralizepy.transport.remote import RemoteSockets

FLUSH_BYTES: Final = 1 << 20
#: frames below this are copied: cheaper than to keep track of them
COPY_BYTES: Final = 1 << 16

Frame = bytes | memoryview


@dataclass
class _Outbox:
    socket: zmq.Socket[bytes]
    frames: list[Frame] = field(default_factory=list)
    nbytes: int = 0


class LocalSockets:
    """All sockets of one worker; ``wire`` is None on a machine that is alone."""

    def __init__(
        self,
        me: WorkerId,
        folder: str,
        addresses: Sequence[str],
        offset: int,
        *,
        key: bytes | None = None,
        peer_timeout: float = 60.0,
        give_up: float | None = None,
    ) -> None:
        self.me, self._folder = me, folder
        self._context = make_context(addresses)
        self._inbox: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._inbox.set_hwm(0)
        self._inbox.linger = 0
        self._inbox.bind(self._url(me))
        self._out: dict[WorkerId, _Outbox] = {}
        self._bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._bell.bind(self._bell_of(me.worker))
        self.poller = zmq.Poller()
        self.poller.register(self._inbox, zmq.POLLIN)
        self.poller.register(self._bell, zmq.POLLIN)
        self.wire: RemoteSockets | None = None
        if len(addresses) > 1:
            self.wire = RemoteSockets(
                me, addresses, offset, self._context, self.poller,
                key=key, peer_timeout=peer_timeout, give_up=give_up,
            )  # fmt: skip

    def _url(self, worker: WorkerId) -> str:
        assert worker.machine == self.me.machine, "what leaves the machine goes by wire"
        return f"ipc://{self._folder}/{worker.worker}"

    def _bell_of(self, worker: int) -> str:
        return f"{self._folder}/{worker}.bell"

    def ring(self, worker: int) -> None:
        """Wake a worker of this machine that sleeps in `sleep`."""
        with contextlib.suppress(OSError):  # full: it will wake; gone: the supervisor knows
            self._bell.sendto(b"", self._bell_of(worker))

    def sleep(self, milliseconds: int) -> None:
        """Wait for a message or the bell."""
        if self.wire is not None:
            milliseconds = self.wire.patience(milliseconds)
        self.poller.poll(milliseconds)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._bell.recv(1)

    def _outbox(self, peer: WorkerId) -> _Outbox:
        if peer not in self._out:
            dealer: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
            dealer.set_hwm(0)
            dealer.linger = 0
            dealer.connect(self._url(peer))
            self._out[peer] = _Outbox(dealer)
        return self._out[peer]

    def send(self, peer: WorkerId, frames: Sequence[Frame]) -> None:
        """Queue one message to a worker of this machine.

        Frames are sent later, so views of memory that is written again must be copied before.
        """
        box = self._outbox(peer)
        box.frames += frames
        box.nbytes += sum(len(frame) for frame in frames)
        if box.nbytes >= FLUSH_BYTES:
            self._flush(box)

    def forget(self, peer: WorkerId) -> None:
        """Drop what is queued for a worker that is dead."""
        box = self._out.pop(peer, None)
        if box is not None:
            box.socket.close(linger=0)
        if self.wire is not None:
            self.wire.outbound.forget(peer)

    def flush(self) -> None:
        """Let go what is queued."""
        for box in self._out.values():
            if box.frames:
                self._flush(box)
        if self.wire is not None:
            self.wire.outbound.flush()

    @staticmethod
    def _flush(box: _Outbox) -> None:
        frames, box.frames, box.nbytes = box.frames, [], 0
        box.socket.send_multipart(frames, copy=max(map(len, frames)) < COPY_BYTES)

    def receive(self) -> Iterator[list[memoryview]]:
        """All messages that have arrived from workers of this machine, in the order of each."""
        while int(self._inbox.get(zmq.EVENTS)) & zmq.POLLIN:  # cheaper than an exception
            yield [memoryview(part) for part in self._inbox.recv_multipart()[1:]]

    def close(self) -> None:
        """Close all sockets."""
        self._bell.close()
        if self.wire is not None:
            self.wire.close()
        self._context.destroy(linger=0)
