"""Two hosts for runs by hand: network namespaces that are joined by a cable."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Namespace:
    """A host with a network of its own; ``address`` is its only one beside the loopback."""

    name: str
    address: str

    def __call__(self, *command: object) -> list[str]:
        """A command as it is run there."""
        return ["ip", "netns", "exec", self.name, *map(str, command)]


@contextmanager
def two_hosts() -> Iterator[list[Namespace]]:
    """The hosts, as long as the block lasts."""
    number = os.getpid()
    hosts = [Namespace(f"dlz{number}_{m}", f"10.213.77.{m + 1}") for m in range(2)]
    made: list[Namespace] = []
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
            made.append(host)
        ends = [("name", "eth0", "netns", host.name) for host in hosts]
        _ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for host in hosts:
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", host.name, "link", "set", device, "up")
        yield hosts
    finally:
        for host in made:
            _ip("netns", "delete", host.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
