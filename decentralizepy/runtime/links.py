"""Sockets of a worker to the other workers: Unix ones on its machine, TCP to other machines.

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

from decentralizepy.communication import ports
from decentralizepy.errors import ConfigError
from decentralizepy.runtime.placement import WorkerId

FLUSH_BYTES: Final = 1 << 20
#: frames below this are copied: cheaper than to keep track of them
COPY_BYTES: Final = 1 << 16

Frame = bytes | memoryview


def framed(nbytes: int) -> int:
    """Bytes that ZMTP 3 makes of one frame: flags, a length of 1 or 8 bytes, the frame."""
    return nbytes + (2 if nbytes < 256 else 9)


@dataclass
class _Outbox:
    socket: zmq.Socket[bytes]
    frames: list[Frame] = field(default_factory=list)
    nbytes: int = 0


class Links:
    """All sockets of one worker."""

    def __init__(self, me: WorkerId, folder: str, addresses: Sequence[str], offset: int) -> None:
        self.me, self._folder, self._addresses, self._offset = me, folder, addresses, offset
        self._context = zmq.Context()
        if ports.has_ipv6(addresses):
            self._context.setsockopt(zmq.IPV6, 1)
        self._inbox: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._inbox.set_hwm(0)
        self._inbox.linger = 0
        self._inbox.bind(self._endpoint(me, me.machine))
        if len(addresses) > 1:
            self._listen()
        self._copy = len(addresses) == 1  # on one machine frames are small: rows go by reference
        self._out: dict[WorkerId, _Outbox] = {}
        self._bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._bell.bind(self._bell_of(me.worker))
        self.poller = zmq.Poller()
        self.poller.register(self._inbox, zmq.POLLIN)
        self.poller.register(self._bell, zmq.POLLIN)

    def _endpoint(self, worker: WorkerId, seen_from: int) -> str:
        if worker.machine == seen_from:
            return f"ipc://{self._folder}/{worker.worker}"
        port = ports.worker_port(self._addresses, self._offset, worker.machine, worker.worker)
        return ports.endpoint(self._addresses[worker.machine], port)

    def _listen(self) -> None:
        port = ports.worker_port(self._addresses, self._offset, self.me.machine, self.me.worker)
        address = ports.listening(self._addresses[self.me.machine])
        try:
            self._inbox.bind(ports.endpoint(address, port))
        except zmq.ZMQError:
            self._context.destroy(linger=0)
            raise ConfigError(ports.refusal(address, port, self._offset)) from None

    def _bell_of(self, worker: int) -> str:
        return f"{self._folder}/{worker}.bell"

    def ring(self, worker: int) -> None:
        """Wake a worker of this machine that sleeps in `sleep`."""
        with contextlib.suppress(OSError):  # full: it will wake; gone: the supervisor knows
            self._bell.sendto(b"", self._bell_of(worker))

    def sleep(self, milliseconds: int) -> None:
        """Wait for a message or the bell."""
        self.poller.poll(milliseconds)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._bell.recv(1)

    def _outbox(self, peer: WorkerId) -> _Outbox:
        if peer not in self._out:
            dealer: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
            dealer.set_hwm(0)
            dealer.linger = 0
            dealer.connect(self._endpoint(peer, self.me.machine))
            self._out[peer] = _Outbox(dealer)
        return self._out[peer]

    def send(self, peer: WorkerId, frames: Sequence[Frame]) -> int:
        """Queue one message; returns the bytes that it takes on the wire.

        Frames are sent later, so views of memory that is written again must be copied before.
        """
        box = self._outbox(peer)
        box.frames += frames
        wire = sum(framed(len(frame)) for frame in frames)
        box.nbytes += wire
        if box.nbytes >= FLUSH_BYTES:
            self._flush(box)
        return wire

    def forget(self, peer: WorkerId) -> None:
        """Drop what is queued for a worker that is dead."""
        box = self._out.pop(peer, None)
        if box is not None:
            box.socket.close(linger=0)

    def flush(self) -> None:
        """Let go what is queued."""
        for box in self._out.values():
            if box.frames:
                self._flush(box)

    @staticmethod
    def _flush(box: _Outbox) -> None:
        frames, box.frames, box.nbytes = box.frames, [], 0
        box.socket.send_multipart(frames, copy=max(map(len, frames)) < COPY_BYTES)

    def receive(self) -> Iterator[list[memoryview]]:
        """All messages that have arrived: the frames of several, in the order of each sender."""
        while int(self._inbox.get(zmq.EVENTS)) & zmq.POLLIN:  # cheaper than an exception
            if self._copy:
                yield [memoryview(part) for part in self._inbox.recv_multipart()[1:]]
            else:
                yield [part.buffer for part in self._inbox.recv_multipart(copy=False)[1:]]

    def close(self) -> None:
        """Close all sockets."""
        self._bell.close()
        self._context.destroy(linger=0)
