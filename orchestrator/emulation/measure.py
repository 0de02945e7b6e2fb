"""What the links are like once they are emulated, and whether that is what was asked for."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from orchestrator.backends.remote import on_all
from orchestrator.emulation.settings import Link
from orchestrator.hosts.base import Host, HostError
from orchestrator.hosts.ssh import SshHost

#: Of more machines each one measures what it sends to so many of those after it.
MOST_PEERS: Final = 8
LIMIT_S: Final = 300
#: A round trip may be so much shorter than was asked, a rate so much higher.
SHORTER: Final = 0.9
HIGHER: Final = 1.25
#: Of so many lost datagrams expected, none is lost once in e^14 (a million) measurements.
CERTAIN: Final = 14.0
MOST_DATAGRAMS: Final = 2000


@dataclass(frozen=True)
class Measured:
    """One direction; rates are bits per second, None where none was asked."""

    link: Link
    round_trip_ms: float
    rate: float | None
    datagrams: int
    arrived: int

    def as_dict(self) -> dict[str, Any]:
        """As ``network.json`` has it."""
        return {
            "from": self.link.source,
            "to": self.link.target,
            "delay": self.link.delay,
            "rate": self.link.rate,
            "loss": self.link.loss,
            "round_trip_ms": round(self.round_trip_ms, 3),
            "megabits_per_second": None if self.rate is None else round(self.rate / 1e6, 3),
            "datagrams": self.datagrams,
            "lost": self.datagrams - self.arrived,
        }


@dataclass(frozen=True)
class Found:
    """What all machines have measured; ``queues`` are the kinds of the kernel's, by machine."""

    links: tuple[Measured, ...]
    queues: tuple[tuple[str, ...], ...]


# ---------------------------------------------------------------------- measure


def measured(
    hosts: Sequence[Host], addresses: Sequence[str], port: int, links: Sequence[Link]
) -> Found:
    """Measure the links, from all machines at once; raises `RunError`."""
    chosen = [link for link in links if (link.target - link.source) % len(hosts) <= MOST_PEERS]
    asked = dict(zip(map(id, hosts), requests(addresses, port, chosen), strict=True))
    answers = on_all(hosts, lambda host: _told(host, asked[id(host)]))
    return found(answers, chosen)


def requests(addresses: Sequence[str], port: int, links: Sequence[Link]) -> list[dict[str, Any]]:
    """What each machine is asked (`orchestrator.emulation.probe`)."""
    return [
        {
            "address": address,
            "port": port,
            "limit_s": LIMIT_S,
            "clients": sum(link.target == machine for link in links),
            "links": [
                {
                    "address": addresses[link.target],
                    "rate": link.bits_per_second,
                    "datagrams": datagrams(link.lost),
                }
                for link in links
                if link.source == machine
            ],
        }
        for machine, address in enumerate(addresses)
    ]


def datagrams(lost: float) -> int:
    """How many are sent to see that a fraction is lost."""
    return 0 if lost == 0 else min(math.ceil(2 * CERTAIN / lost), MOST_DATAGRAMS)


def found(answers: Sequence[Mapping[str, Any]], links: Sequence[Link]) -> Found:
    """What the machines have answered, in words of ours."""
    by_machine = [iter(answer["links"]) for answer in answers]
    told = [(link, next(by_machine[link.source])) for link in links]
    return Found(
        links=tuple(
            Measured(link, one["round_trip_ms"], one["rate"], one["datagrams"], one["arrived"])
            for link, one in told
        ),
        queues=tuple(tuple(answer["queues"]) for answer in answers),
    )


def _told(host: Host, request: Mapping[str, Any]) -> dict[str, Any]:
    assert isinstance(host, SshHost)
    command = f"{host.python} - {shlex.quote(json.dumps(request))}"
    text = host.output(command, probe(), LIMIT_S + 10)
    try:
        return dict(json.loads(text))
    except ValueError:
        raise HostError(f"measuring: an answer that is not understood: {text[:200]!r}") from None


@cache
def probe() -> bytes:
    """The program that measures."""
    return files("orchestrator.emulation").joinpath("probe.py").read_bytes()


# ---------------------------------------------------------------------- judge


def missing(seen: Found, links: Sequence[Link], names: Sequence[str]) -> list[str]:
    """What was asked for and is not there, in words; ``names`` are those of the machines."""
    unable = list(_unable(seen, links, names))
    return unable + [
        f"from {names[one.link.source]} to {names[one.link.target]} {told}"
        for one in seen.links
        for told in _shortfalls(one, links)
    ]


def _unable(seen: Found, links: Sequence[Link], names: Sequence[str]) -> Iterator[str]:
    """Machines whose kernels have silently left something out."""
    for machine, kinds in enumerate(seen.queues):
        ours = [link for link in links if link.source == machine]
        wanted = [what for what in ("delay", "loss") if any(getattr(one, what) for one in ours)]
        if wanted and kinds.count("netem") < len(ours):
            what = " and ".join(wanted)
            yield f"{names[machine]}: the kernel has no netem, so that there is no {what}"
        if ours and "htb" not in kinds:
            yield f"{names[machine]}: the kernel has no htb, so that nothing is emulated"


def _shortfalls(one: Measured, links: Sequence[Link]) -> Iterator[str]:
    link = one.link
    back = next((b for b in links if (b.source, b.target) == (link.target, link.source)), None)
    trip_ms = link.delay_ms + (back.delay_ms if back else 0.0)
    if one.round_trip_ms < SHORTER * trip_ms:
        yield f"a round trip takes {one.round_trip_ms:.3g} ms in place of {trip_ms:g} ms"
    most = link.bits_per_second
    if most is not None and one.rate is not None and one.rate > HIGHER * most:
        yield f"the rate is {one.rate / 1e6:.3g} Mbit/s in place of {most / 1e6:g} Mbit/s"
    if one.arrived == one.datagrams and one.datagrams * link.lost >= CERTAIN:
        yield f"none of {one.datagrams} datagrams is lost in place of {link.loss}"


def slower(seen: Found, names: Sequence[str]) -> list[str]:
    """Links that are much slower than was asked: what is beneath them cannot do more."""
    return [
        f"from {names[one.link.source]} to {names[one.link.target]} only "
        f"{one.rate / 1e6:.3g} of {most / 1e6:g} Mbit/s were reached"
        for one in seen.links
        if one.rate is not None and (most := one.link.bits_per_second) and one.rate < most / 2
    ]
