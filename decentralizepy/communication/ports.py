"""Which TCP port is whose: a rule of (machine, worker) alone, the same on every machine.

========================================== ================================================
port                                       whose
========================================== ================================================
``offset - 1``                             rank -1, the server, on its machine
``offset``                                 the supervisor of machine 0, which coordinates
``offset + 2 * worker + 1``                a worker of a machine with an address of its own
``offset + 2 * (BLOCK * j + worker) + 1``  a worker of the machine that comes after j others
                                           of the same address in ip.json
========================================== ================================================

Addresses are equal when ip.json spells them equally: names may resolve differently elsewhere.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import Final

from decentralizepy.errors import ConfigError

#: workers that a machine may have where another one has the same address
BLOCK: Final = 128
HIGHEST: Final = 65_535


def control_port(offset: int) -> int:
    """Port on which machine 0's supervisor coordinates."""
    return offset


def worker_port(addresses: Sequence[str], offset: int, machine: int, worker: int) -> int:
    """Port of a worker, on the address of its machine."""
    before = list(addresses[:machine]).count(addresses[machine])
    return offset + 2 * (BLOCK * before + worker) + 1


def own_ports(addresses: Sequence[str], offset: int, machine: int, workers: int) -> list[int]:
    """The ports on which a machine listens; none if it is alone."""
    if len(addresses) == 1:
        return []
    found = [worker_port(addresses, offset, machine, worker) for worker in range(workers)]
    return [control_port(offset), *found] if machine == 0 else found


def check_range(addresses: Sequence[str], offset: int, machine: int, workers: int) -> None:
    """Raise `ConfigError` unless a machine's workers fit into their block and below 65,536."""
    if len(addresses) == 1:
        return
    if list(addresses).count(addresses[machine]) > 1 and workers > BLOCK:
        raise ConfigError(
            f"--workers {workers}: machines that share an address ({addresses[machine]}) may have "
            f"{BLOCK} each, as their ports would collide"
        )
    last = worker_port(addresses, offset, machine, workers - 1)
    if offset < 1 or last > HIGHEST:
        raise ConfigError(
            f"[COMMUNICATION] offset = {offset}: machine {machine} with {workers} workers needs "
            f"the ports up to {last}; they end at {HIGHEST} and begin at 1: take another offset"
        )


def url(address: str, port: int) -> str:
    """The URL ``tcp://address:port`` for ZeroMQ; IPv6 addresses stand in brackets."""
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"


def has_ipv6(addresses: Iterable[str]) -> bool:
    """Whether sockets must be told to take IPv6 addresses."""
    return any(":" in reaching(address) for address in addresses)


def resolved(address: str) -> list[str]:
    """The IP addresses of a name, or the address itself; none if nobody knows the name."""
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def listening(address: str) -> str:
    """What to bind for an entry of ip.json: ZeroMQ binds no names.

    A name may stand for several addresses: IPv4 comes first, as in `reaching`, and a loopback one,
    which no other machine reaches, last. What is not ours stays as it is, so that binding it gives
    the error.
    """
    ours = [ip for ip in resolved(address) if can_bind(ip)]
    return min(ours, key=_preference, default=address)


def _preference(ip: str) -> tuple[bool, bool]:
    return ip == "::1" or ip.startswith("127."), ":" in ip


def reaching(address: str) -> str:
    """What to connect to for an entry of ip.json: the first IPv4 address of a name, if it has one.

    A name that nobody knows stays as it is: it may be known later.
    """
    if is_ip(address):
        return address
    found = sorted(resolved(address), key=lambda ip: ":" in ip)
    return found[0] if found else address


def is_ip(address: str) -> bool:
    """Whether this is an IP address, not a name."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def can_bind(address: str) -> bool:
    """Whether an IP address is one of this machine's."""
    return is_free(address, 0)


def is_free(address: str, port: int) -> bool:
    """Whether a TCP port of an IP address can be listened on, just now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError, OverflowError), socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ does
        probe.bind((address, port))
        return True
    return False


def require_free(addresses: Sequence[str], offset: int, machine: int, workers: int) -> None:
    """Raise `ConfigError` if a port that a machine will listen on cannot be had."""
    ports = own_ports(addresses, offset, machine, workers)
    own = listening(addresses[machine])
    if ports and not can_bind(own):
        raise ConfigError(
            f"machine {machine} is {addresses[machine]} in ip.json, which is no address of this "
            "machine: correct ip.json, or -mid"
        )
    busy = next((port for port in ports if not is_free(own, port)), None)
    if busy is not None:
        raise ConfigError(refusal(own, busy, offset))


def refusal(address: str, port: int, offset: int) -> str:
    """What to do about a port that cannot be had."""
    return (
        f"port {port} of {address} is taken, perhaps by another run: wait for its end, or set "
        f"another 'offset' than {offset} in [COMMUNICATION], equal on all machines"
    )
