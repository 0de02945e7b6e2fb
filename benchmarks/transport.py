"""Rows from worker to worker over TCP, against a raw loopback socket in the same minute.

    python -m benchmarks.transport                     # all of it
    python -m benchmarks --only transport              # with bounds, beside the other benchmarks

A stream of rows goes from one process to another: through `transport.remote`, as a worker sends and
receives them, and through a bare socket with ``sendall`` into reused buffers. Small rows are those
of 16 nodes, as many places in memory on both sides. Time is from the
first row's start to the arrival of the last one. Repeats are interleaved.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import socket
import statistics
from collections.abc import Callable
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

import zmq

from decentralizepy.mappings.placement import WorkerId

#: (name, bytes of a row, rows in a stream)
CASES = (("45 MB", 45_000_000, 6), ("360 kB", 360_000, 200))
ADDRESSES = ("127.0.0.1", "127.0.0.2")
_WARM = 2
_SENDER, _RECEIVER = WorkerId(0, 0), WorkerId(1, 0)


def free_port() -> int:
    """A port that is free on both addresses, with the next three."""
    while True:
        with socket.socket() as probe:
            probe.bind((ADDRESSES[0], 0))
            first = probe.getsockname()[1]
        if first < 65_000 and all(_free(a, first + i) for a in ADDRESSES for i in range(4)):
            return int(first)


def _free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def places_of(size: int) -> int:
    """How many rows there are to send: those of 16 nodes, if they are small."""
    return max(1, min(16, 50_000_000 // size))


def raw_receiver(port: int, size: int, rows: int, line: Connection) -> None:
    """Reads streams of rows, each into a place of its own, until told to stop."""
    with socket.create_server((ADDRESSES[1], port)) as server:
        line.send("ready")
        peer, _ = server.accept()
        places = [memoryview(bytearray(size)) for _ in range(places_of(size))]
        while line.recv() == "go":
            for t in range(rows):
                got, row = 0, places[t % len(places)]
                while got < size:
                    got += peer.recv_into(row[got:])
            line.send("got")


def raw_sender(port: int, size: int, rows: int, line: Connection) -> None:
    """Sends streams of rows when told to."""
    places = [os.urandom(size) for _ in range(places_of(size))]
    with socket.create_connection((ADDRESSES[1], port)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.send("ready")
        while line.recv() == "go":
            for t in range(rows):
                peer.sendall(places[t % len(places)])


def _wire(me: WorkerId, port: int, key: bytes | None) -> tuple[Any, zmq.Poller]:
    from decentralizepy.engine.process import tune_malloc
    from decentralizepy.transport.remote import RemoteSockets

    tune_malloc()
    poller = zmq.Poller()
    wire = RemoteSockets(me, ADDRESSES, port, zmq.Context(), poller, key=key, peer_timeout=60)
    return wire, poller


def wire_receiver(port: int, size: int, rows: int, key: bytes | None, line: Connection) -> None:
    """Receives as a worker does: each row into a new tensor, released when the next is there."""
    import torch

    from decentralizepy.messages.message import Message
    from decentralizepy.transport.frames import MessageReader

    torch.set_num_threads(1)
    wire, poller = _wire(_RECEIVER, port, key)
    got = 0
    last: list[Message] = []

    def deliver(peer: WorkerId, first: memoryview, message: Message, nbytes: int) -> None:
        nonlocal got
        got += 1
        last[:] = [message]
        wire.inbound.consumed(peer, message.sender, nbytes)

    line.send("ready")
    while line.recv() == "go":
        got = 0
        while got < rows:
            if not wire.inbound.receive(lambda peer: MessageReader(peer, deliver)):
                wire.service(idle=True)
                poller.poll(wire.patience(100))
        line.send("got")
        while wire.inbound.owes:
            wire.service(idle=True)


def wire_sender(port: int, size: int, rows: int, key: bytes | None, line: Connection) -> None:
    """Sends as a worker does: from the row's own memory."""
    import torch

    from decentralizepy.messages.message import Message
    from decentralizepy.transport.frames import to_frames

    torch.set_num_threads(1)
    wire, poller = _wire(_SENDER, port, key)
    places = [
        torch.frombuffer(bytearray(os.urandom(size)), dtype=torch.float32)
        for _ in range(places_of(size))
    ]
    line.send("ready")
    while line.recv() == "go":
        held = 0

        def done() -> None:
            nonlocal held
            held -= 1

        for t in range(rows):
            header, payload = to_frames(Message({"params": places[t % len(places)]}, {}, 0, (t, 0)))
            held += 1
            wire.outbound.send(_RECEIVER, [b"M" + bytes(8), header, *payload], 0, done)
            wire.service()
        wire.outbound.flush()
        wire.service(idle=True)
        while held:
            poller.poll(100)
            wire.service(idle=True)


class Pair:
    """A sender and a receiver, each a process; `seconds` is the time of one stream."""

    def __init__(self, receiver: Callable[..., None], sender: Callable[..., None], *args: Any):
        context = multiprocessing.get_context("spawn")
        self._lines, self._processes = [], []
        for target in (receiver, sender):
            ours, theirs = context.Pipe()
            process = context.Process(target=target, args=(*args, theirs), daemon=True)
            process.start()
            ours.recv()
            self._lines.append(ours)
            self._processes.append(process)
        for _ in range(_WARM):
            self.seconds()

    def seconds(self) -> float:
        receiver, sender = self._lines
        receiver.send("go")
        started = perf_counter()
        sender.send("go")
        receiver.recv()
        return perf_counter() - started

    def close(self) -> None:
        for line, process in zip(self._lines, self._processes, strict=True):
            line.send("stop")
            process.join(5)
            process.kill()


def measure(size: int, rows: int, repeats: int) -> dict[str, float]:
    """Median seconds of a row: through a raw socket, in the clear, and sealed."""
    pairs = {
        "raw": Pair(raw_receiver, raw_sender, free_port(), size, rows),
        "plain": Pair(wire_receiver, wire_sender, free_port(), size, rows, None),
        "sealed": Pair(
            wire_receiver, wire_sender, free_port(), size, rows, secrets.token_bytes(32)
        ),
    }
    try:
        found: dict[str, list[float]] = {name: [] for name in pairs}
        for _ in range(repeats):
            for name, pair in pairs.items():
                found[name].append(pair.seconds() / rows)
        return {name: statistics.median(values) for name, values in found.items()}
    finally:
        for pair in pairs.values():
            pair.close()


def main() -> None:
    """Print what every way takes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transport", description=__doc__)
    parser.add_argument("--repeats", type=int, default=21)
    args = parser.parse_args()
    for name, size, rows in CASES:
        found = measure(size, rows, args.repeats)
        for way, seconds in found.items():
            print(
                f"{name:>7} {way:<7} {1e3 * seconds:8.3f} ms a row {size / seconds / 1e9:6.2f} GB/s"
                f"  {found['raw'] / seconds:5.2f} of raw"
            )


if __name__ == "__main__":
    main()
