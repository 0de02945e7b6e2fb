"""What every kind of place answers: what it offers, what it reserves, and how it frees it.

A `Reservation` is machines that are ours until they are released; it can be written down, and found
again by its name. What runs on them is an `Execution` (`orchestrator.running.execution`): one
reservation may carry many.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from decentralizepy.runfolder import RunFolder
from orchestrator.backends.ports import Claims
from orchestrator.config import Config
from orchestrator.errors import RefusedError
from orchestrator.hosts.base import Host
from orchestrator.planning.data import Data
from orchestrator.planning.placed import Place, Placed
from orchestrator.planning.plan import Plan
from orchestrator.planning.site import Site

#: OAR cuts nothing: a longer name is refused.
MOST_NAME: Final = 100


@dataclass(frozen=True)
class Check:
    """One thing that must hold before a start, whether it does, and what to do if not."""

    name: str
    ok: bool
    message: str


@dataclass(frozen=True)
class Request:
    """What is asked for, under a name that any process computes again from the same request.

    ``values`` are all that a reservation depends on; ``run`` tells equal requests apart. ``more``
    has what another process may compute otherwise.
    """

    job_name: str
    run: str
    values: Mapping[str, Any]
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        told = json.dumps([self.run, dict(self.values)], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """At most `MOST_NAME` characters, of a kind that every scheduler takes."""
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_"
                        for c in self.job_name)  # fmt: skip
        return f"{plain[: MOST_NAME - 17]}-{self.digest}"


@dataclass(frozen=True)
class Reservation:
    """Machines that are ours until ``deadline`` (seconds since the epoch; None: for good).

    ``ids`` are what the scheduler calls it, ``hosts`` the machines once they are granted.
    """

    name: str
    backend: str
    ids: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    deadline: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reservation:
        """What `as_dict` gave, from a ledger; what later versions add is left out."""
        known = {key: value[key] for key in cls.__dataclass_fields__ if key in value}
        return cls(**known | {key: tuple(known.get(key, ())) for key in ("ids", "hosts")})


#: Told of a reservation as soon as anything of it is known, and again when there is more.
Note = Callable[[Reservation], None]


class Backend(Protocol):
    """A kind of place.

    ``release`` may be called at any time, more than once, also for what is gone already.
    """

    @property
    def name(self) -> str:
        """As BACKEND names it."""

    @property
    def remote(self) -> bool:
        """Whether what runs there goes on without this computer."""

    @property
    def grace_s(self) -> float:
        """Seconds that a command has to end by itself, once it is asked to."""

    @property
    def claims(self) -> Claims:
        """Ports that its runs were given."""

    def site(self, config: Config) -> Site:
        """What this place offers for an experiment; asks nobody and reserves nothing."""

    def preview(
        self, plan: Plan, folder: RunFolder, former: int | None = None
    ) -> tuple[list[Place], int]:
        """Places and first port as far as they are known before anything is reserved.

        ``former`` is the first port of an earlier start, which is taken again if it is free.
        """

    def check(self, plan: Placed) -> list[Check]:
        """What must hold before anything is started, row by row."""

    def shows(self, plan: Placed, folder: RunFolder) -> Mapping[str, str]:
        """What ``--dry-run`` shows beside the plan's files: name -> text, as a job's script."""

    def request(self, plan: Plan, run: str) -> Request:
        """What would be reserved for the run of this name."""

    def find(self, request: Request) -> Reservation | None:
        """The live reservation of a request, also one that is still waiting."""

    def reserve(self, request: Request, plan: Plan, note: Note) -> Reservation:
        """Get the machines: the live reservation of this name, else a new one; waits until they are
        granted. Raises `ReservationError`, then with nothing left reserved."""

    def hosts(self, reservation: Reservation, plan: Plan, hold: int | None) -> list[Host]:
        """How the machines are reached, one host for each."""

    def place(
        self, plan: Plan, hosts: Sequence[Host], folder: RunFolder, former: int | None
    ) -> tuple[list[Place], int]:
        """Where each machine of a run is, and the first port, now that the hosts can be asked."""

    def stage(self, host: Host, plan: Placed, machine: int) -> None:
        """Put on a host what every run needs there, beside its own files."""

    def environment(self, plan: Placed, machine: int) -> dict[str, str]:
        """What a machine's command sees, beside what its host gives."""

    def examine(self, config: Config, data: Data | None = None) -> Iterable[Check]:
        """What `doctor` asks: whether a run of this configuration, with these data sets, could
        begin."""

    def deposits(self, places: Sequence[Place], config: Config) -> list[Host]:
        """Hosts at which what machines have deposited can be had, one for each; none if there are
        no deposits."""

    def release(self, reservation: Reservation) -> None:
        """Give the machines back."""


def require(checks: Sequence[Check]) -> None:
    """Raise one `RefusedError` with everything that does not hold."""
    failed = [f"{check.name}: {check.message}" for check in checks if not check.ok]
    if failed:
        raise RefusedError("\n".join(failed))
