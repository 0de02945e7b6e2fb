"""Measures what a machine's host sends to others, which run this program at the same time.

``python3 - REQUEST`` with a JSON of ``port`` (and the next one), ``clients`` (how many others
measure what they send to us), ``limit_s`` and ``links``: for each its ``address``, ``rate`` (bits
per second, or null) and ``datagrams``. Prints a JSON. Needs nothing but Python 3.8.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

ECHOES = 8
#: A transfer takes about so long at the rate that is asked for, and so many round trips at least.
BULK_S = 0.5
ROUND_TRIPS = 10
LEAST_BYTES = 1 << 16
MOST_BYTES = 1 << 26
PAUSE_S = 0.0005
CONNECT_S = 30.0
TOKEN = b"decentralizepy probe"
CHUNK = bytes(1 << 16)


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Line:
    """A connection on which both sides say lines in turn."""

    def __init__(self, link: socket.socket) -> None:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.link, self.file = link, link.makefile("rb")

    def say(self, text: str) -> None:
        self.link.sendall(text.encode() + b"\n")

    def hear(self) -> str:
        return self.file.readline().decode().strip()

    def ask(self, text: str) -> str:
        self.say(text)
        return self.hear()


# ---------------------------------------------------------------------- being measured


class Server:
    """Answers one client after the other."""

    def __init__(self, address: str, port: int) -> None:
        kind = family(address)
        self.calls = socket.create_server((address, port), family=kind)
        self.bulks = socket.create_server((address, port + 1), family=kind)
        self.datagrams = socket.socket(kind, socket.SOCK_DGRAM)
        self.datagrams.bind((address, port))

    def serve(self, clients: int) -> None:
        for _ in range(clients):
            link, _ = self.calls.accept()
            with link:
                self.attend(Line(link))

    def attend(self, line: Line) -> None:
        line.say("hello")
        while words := line.hear().split():
            if words[0] == "bulk":
                self.take(line, int(words[1]), float(words[2]))
            elif words[0] == "count":
                self.count(line)
            else:
                line.say("echo")

    def take(self, line: Line, wanted: int, limit_s: float) -> None:
        """Say how many bytes came within which time since we were ready."""
        line.say("go")
        begin = time.monotonic()
        link, _ = self.bulks.accept()
        count = 0
        with link:
            while count < wanted and time.monotonic() - begin < limit_s:
                if select.select([link], [], [], 0.05)[0]:
                    data = link.recv(1 << 20)
                    count += len(data)
                    if not data:
                        break
            line.say(f"{count} {time.monotonic() - begin}")

    def count(self, line: Line) -> None:
        """Say how many datagrams have come until the client has sent all, and a little later."""
        line.say("go")
        count, until = 0, float("inf")
        while time.monotonic() < until:
            ready = select.select([line.link, self.datagrams], [], [], 0.1)[0]
            if self.datagrams in ready:
                count += self.datagrams.recv(64) == TOKEN
            elif line.link in ready and until == float("inf"):
                line.hear()
                until = time.monotonic() + 0.5
        line.say(str(count))


# ---------------------------------------------------------------------- measuring


def measured(address: str, port: int, rate: float | None, datagrams: int) -> dict[str, Any]:
    """What is sent to an address: round trips, the rate of a transfer, and what is lost."""
    with connected(address, port) as link:
        line = Line(link)
        line.hear()
        trip = min(round_trip(line) for _ in range(ECHOES))
        reached = None if rate is None else reached_rate(line, address, port + 1, rate, trip)
        arrived = counted(line, address, port, datagrams) if datagrams else 0
    told = {"round_trip_ms": 1000 * trip, "rate": reached}
    return {**told, "datagrams": datagrams, "arrived": arrived}


def connected(address: str, port: int) -> socket.socket:
    """Waits for the other side to begin."""
    until = time.monotonic() + CONNECT_S
    while True:
        try:
            return socket.create_connection((address, port), timeout=CONNECT_S)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def round_trip(line: Line) -> float:
    begin = time.monotonic()
    line.ask("echo")
    return time.monotonic() - begin


def reached_rate(line: Line, address: str, port: int, rate: float, trip: float) -> float:
    """Bits per second of a transfer; what it waits for before its first byte does not count."""
    seconds = max(BULK_S, ROUND_TRIPS * trip)
    size = int(min(max(rate / 8 * seconds, LEAST_BYTES), MOST_BYTES))
    line.ask(f"bulk {size} {4 * seconds}")
    left = size
    with contextlib.suppress(OSError), connected(address, port) as link:
        while left > 0:
            left -= link.send(CHUNK[:left])
        link.shutdown(socket.SHUT_WR)
    count, took = line.hear().split()
    # ready, two packets to connect, and the first data: two round trips at least
    return 8 * int(count) / max(float(took) - 1.8 * trip, 1e-6)


def counted(line: Line, address: str, port: int, datagrams: int) -> int:
    """How many of so many datagrams arrive."""
    line.ask("count")
    with socket.socket(family(address), socket.SOCK_DGRAM) as sender:
        for _ in range(datagrams):
            sender.sendto(TOKEN, (address, port))
            time.sleep(PAUSE_S)
    return int(line.ask("counted"))


# ---------------------------------------------------------------------- queues of the kernel


def queues() -> list[str]:
    """The kernel's queueing disciplines by kind, one for each that there is."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        ["tc", "qdisc", "show"], stdout=subprocess.PIPE, env=environment, check=True
    )
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    return [words[1] for words in lines if words[:1] == ["qdisc"] and len(words) > 1]


def main() -> None:
    request = json.loads(sys.argv[1])
    signal.alarm(int(request["limit_s"]))
    server = Server(request["address"], request["port"])
    serving = threading.Thread(target=server.serve, args=(request["clients"],))
    serving.start()
    links = [
        measured(link["address"], request["port"], link["rate"], link["datagrams"])
        for link in request["links"]
    ]
    serving.join()
    print(json.dumps({"links": links, "queues": queues()}))


if __name__ == "__main__":
    main()
