"""A reservation that several runs share: each finds it, and none gives it back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from decentralizepy.runfolder import RunFolder
from orchestrator.backends.base import Backend, Check, Note, Request, Reservation
from orchestrator.config import Config
from orchestrator.hosts.base import Host
from orchestrator.planning.placed import Place, Placed
from orchestrator.planning.plan import Plan
from orchestrator.planning.site import Site


@dataclass(frozen=True)
class Lent:
    """The back-end ``real``, whose reservation is ``lent`` to a run.

    To the run it is a back-end like any other; whoever lends the machines gives them back.
    """

    real: Backend
    lent: Callable[[], Reservation]

    @property
    def name(self) -> str:
        return self.real.name

    @property
    def remote(self) -> bool:
        return self.real.remote

    @property
    def grace_s(self) -> float:
        return self.real.grace_s

    def site(self, config: Config) -> Site:
        return self.real.site(config)

    def preview(
        self, plan: Plan, folder: RunFolder, former: int | None = None
    ) -> tuple[list[Place], int]:
        return self.real.preview(plan, folder, former)

    def check(self, plan: Placed) -> list[Check]:
        return self.real.check(plan)

    def shows(self, plan: Placed, folder: RunFolder) -> Mapping[str, str]:
        return self.real.shows(plan, folder)

    def request(self, plan: Plan, run: str) -> Request:
        return self.real.request(plan, run)

    def find(self, request: Request) -> Reservation | None:
        """What is lent now, also to a run that was started under an earlier reservation: it finds
        nothing of its own there, and begins anew."""
        return self.lent() if self.real.remote else None

    def reserve(self, request: Request, plan: Plan, note: Note) -> Reservation:
        """As many of the machines as the run has."""
        lent = self.lent()
        reservation = replace(lent, hosts=lent.hosts[: plan.config.NB_MACHINE])
        note(reservation)
        return reservation

    def hosts(self, reservation: Reservation, plan: Plan, hold: int | None) -> list[Host]:
        return self.real.hosts(reservation, plan, hold)

    def place(
        self, plan: Plan, hosts: Sequence[Host], folder: RunFolder, former: int | None
    ) -> tuple[list[Place], int]:
        return self.real.place(plan, hosts, folder, former)

    def stage(self, host: Host, plan: Placed, machine: int) -> None:
        self.real.stage(host, plan, machine)

    def environment(self, plan: Placed, machine: int) -> dict[str, str]:
        return self.real.environment(plan, machine)

    def examine(self, config: Config) -> Iterable[Check]:
        return self.real.examine(config)

    def release(self, reservation: Reservation) -> None:
        """The next run needs the machines."""
