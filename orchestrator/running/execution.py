"""A plan in a folder on hosts: what is started there, what was lost, and what ended how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from decentralizepy.communication.keys import KEY_NAME, make_key
from decentralizepy.runfolder import RunFolder
from orchestrator.backends.base import Backend
from orchestrator.hosts.base import Host, HostError, Job, UnreachableError
from orchestrator.planning.placed import Placed
from orchestrator.status import Status, read_status

#: A gateway takes about ten connections that are being made.
MOST_AT_ONCE: Final = 8
Result = TypeVar("Result")


@dataclass(frozen=True)
class Loss:
    """A machine that ended early, and what was done.

    It was started again (``restart`` says how often), its host is ``awaited``, or the run goes on
    without it.
    """

    machine: int
    cause: str
    restart: int = 0
    most: int = 0
    awaited: bool = False

    @property
    def final(self) -> bool:
        """Whether the run goes on without the machine."""
        return not self.restart and not self.awaited

    def __str__(self) -> str:
        done = "the run goes on without it"
        if self.awaited:
            done = "it is started again as soon as its host answers"
        if self.restart:
            done = f"started again ({self.restart} of at most {self.most} times)"
        return f"{self.cause}: {done}"


@dataclass
class Execution:
    """A placed plan in a run folder, on one host for each machine.

    ``number`` counts the starts of the whole run; with the machine and how often it was started
    again it names a job, so that any process finds the same one.
    """

    plan: Placed
    folder: RunFolder
    hosts: Sequence[Host]
    backend: Backend
    number: int = 1
    deadline: float | None = None
    losses: list[Loss] = field(default_factory=list)

    @property
    def gone(self) -> set[int]:
        """Machines that the run goes on without."""
        return {loss.machine for loss in self.losses if loss.final}

    @property
    def machines(self) -> list[int]:
        """Those that are to end well."""
        return [m for m in range(len(self.hosts)) if m not in self.gone]

    def named(self, machine: int) -> str:
        """A machine as messages call it."""
        return f"machine {machine} ({self.plan.places[machine].host})"

    def restarts(self, machine: int) -> int:
        """How often a machine was started again."""
        return sum(loss.machine == machine and loss.restart > 0 for loss in self.losses)

    def job(self, machine: int, again: bool | None = None) -> Job:
        """The newest start of a machine; ``again`` as for `Placed.command`."""
        place, restarts = self.plan.places[machine], self.restarts(machine)
        if again is None and restarts:
            again = True
        return Job(
            name=f"machine{machine}-{self.number}" + (f"-{restarts}" if restarts else ""),
            command=tuple(self.plan.command(machine, again)),
            root=place.root,
            folder=str(place.folder.machine(machine).root),
            env=self.backend.environment(self.plan, machine),
            deadline=self.deadline,
            grace_s=self.backend.grace_s,
            deposit=f"{place.deposit}/machine{machine}" if place.deposit else "",
            deposit_s=max(self.plan.config.COLLECT_AFTER, 1.0),
        )

    def statuses(self) -> list[Status]:
        """What every machine tells about itself, but for those that the run goes on without."""
        return [read_status(self.folder.machine(m).status, m) for m in self.machines]

    def make_key(self) -> None:
        """A new key for all machines, if they need one: that of a start that was killed goes."""
        self.remove_key()
        if self.plan.encrypted:
            make_key(self.folder.root)

    def remove_key(self) -> None:
        (self.folder.root / KEY_NAME).unlink(missing_ok=True)


def at_once(
    execution: Execution, do: Callable[[int], Result], machines: Iterable[int]
) -> list[Result]:
    """Do something on all these machines, at the same time where that takes time."""
    machines = list(machines)
    if not execution.backend.remote or len(machines) < 2:
        return [do(machine) for machine in machines]
    with ThreadPoolExecutor(min(len(machines), MOST_AT_ONCE)) as pool:
        return list(pool.map(do, machines))


def quietly(do: Callable[[], None]) -> None:
    """Whatever a host makes of it."""
    with suppress(UnreachableError, HostError):
        do()
