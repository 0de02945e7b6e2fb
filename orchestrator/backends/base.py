"""The six calls that every kind of place answers, and how one is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from decentralizepy.errors import ConfigError
from decentralizepy.runfolder import RunFolder
from orchestrator.config import Config
from orchestrator.planning.plan import Plan
from orchestrator.planning.site import Site
from orchestrator.status import Status

#: Called about twice a second with the status of every machine.
Watch = Callable[[Sequence[Status]], None]


@dataclass(frozen=True)
class Check:
    """One thing that must hold before a start, whether it does, and what to do if not."""

    name: str
    ok: bool
    message: str


@dataclass(frozen=True)
class Loss:
    """A machine that ended early, and what was done: started again, or gone on without."""

    machine: int
    cause: str
    restart: int = 0  # how often it has been started again; 0: the run goes on without it
    most: int = 0

    def __str__(self) -> str:
        done = "the run goes on without it"
        if self.restart:
            done = f"started again ({self.restart} of at most {self.most} times)"
        return f"{self.cause}: {done}"


@dataclass
class Allocation:
    """Machines that are ours for one run, until they are released.

    Whatever a back-end gets or starts is noted here at once, so that `Backend.release` finds it
    wherever something failed. ``hold`` is a descriptor that what is started keeps open
    (`orchestrator.running.hold`).
    """

    plan: Plan
    folder: RunFolder
    handles: list[Any] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    hold: int | None = None

    @property
    def gone(self) -> set[int]:
        """Machines that the run goes on without."""
        return {loss.machine for loss in self.losses if not loss.restart}


class Backend(Protocol):
    """A kind of place. ``release`` may be called at any time, more than once, and never fails
    because of what it finds."""

    @property
    def name(self) -> str:
        """As BACKEND names it."""

    def plan(self, config: Config, former: int | None = None) -> Site:
        """What this place offers for an experiment; reserves nothing.

        ``former`` is the first port of an earlier start, which is taken again if it is free.
        """

    def check(self, plan: Plan) -> list[Check]:
        """What must hold before anything is started, row by row."""

    def allocate(self, allocation: Allocation) -> None:
        """Get the machines for the allocation's plan; it is released also if this fails."""

    def run(self, allocation: Allocation, watch: Watch) -> float:
        """Run to the end; returns the seconds taken, raises `RunError`.

        However it ends, no process of the run is left; the machines stay ours.
        """

    def collect(self, allocation: Allocation) -> list[str]:
        """Bring everything into the run folder; returns what is missing, in words."""

    def release(self, allocation: Allocation) -> None:
        """End whatever was started and give the machines back."""


def require(checks: Sequence[Check]) -> None:
    """Raise one `ConfigError` with everything that does not hold."""
    failed = [f"{check.name}: {check.message}" for check in checks if not check.ok]
    if failed:
        raise ConfigError("\n".join(failed))


def refuse_unavailable(config: Config, path: object) -> None:
    """Raise a `ConfigError` for a back-end that this version does not have."""
    if config.backend == "local":
        return
    why = "" if config.BACKEND else f" (because cluster = {config.cluster!r})"
    raise ConfigError(
        f"{path}: BACKEND {config.backend!r}{why} is not available in this version; "
        'to run on this computer, set "BACKEND": "local"'
    )
