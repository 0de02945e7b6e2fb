"""Which machine of ip.json this one is, by its addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from decentralizepy.communication.ports import can_bind, resolved
from decentralizepy.errors import ConfigError

_ROUTES: Final = Path("/proc/net/fib_trie")
_ADDRESSES_6: Final = Path("/proc/net/if_inet6")


def this_machine(addresses: Sequence[str], path: Path) -> int:
    """The machine whose address is one of ours; raises `ConfigError` if it is none or several.

    An address is ours if a socket can be bound to it: of any interface, IPv4 or IPv6, all of
    127.0.0.0/8 included. Names are resolved first. ``path`` names ip.json in messages.
    """
    known = [resolved(address) for address in addresses]
    ours = [machine for machine, ips in enumerate(known) if any(map(can_bind, ips))]
    if len(ours) == 1:
        return ours[0]
    if ours:
        listed = ", ".join(f"{machine} ({addresses[machine]})" for machine in ours)
        raise ConfigError(
            f"{path}: machines {listed} all have an address of this one: choose one with -mid"
        )
    nobody = [address for address, ips in zip(addresses, known, strict=True) if not ips]
    unknown = f"; cannot resolve {', '.join(nobody[:8])}" if nobody else ""
    here = ", ".join(local_addresses()[:32]) or "unknown"
    raise ConfigError(
        f"{path}: no machine has an address of this one, which are {here}{unknown}: "
        "correct the file, or say which machine it is by -mid"
    )


def local_addresses() -> list[str]:
    """This machine's addresses as Linux lists them, for messages; empty elsewhere."""
    return [*_listed(_ROUTES, _ipv4), *_listed(_ADDRESSES_6, _ipv6)]


def _listed(path: Path, parse: Callable[[str], list[str]]) -> list[str]:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return []
    return list(dict.fromkeys(parse(text)))


def _ipv4(text: str) -> list[str]:
    """Addresses with a route of the kind "host LOCAL"."""
    return re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", text)


def _ipv6(text: str) -> list[str]:
    words = (line.split()[0] for line in text.splitlines() if line.strip())
    return [str(ipaddress.IPv6Address(int(word, 16))) for word in words]
