"""A reservation that several runs share: each finds it, and none gives it back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from decentralizepy.runfolder import RunFolder
from orchestrator.backends.base import Backend, Check, Note, Request, Reservation
from orchestrator.backends.ports import Claims
from orchestrator.config import Config
from orchestrator.hosts.base import Host
from orchestrator.planning.data import Data
from orchestrator.planning.placed import Place, Placed
from orchestrator.planning.plan import Plan
from orchestrator.planning.site import Site


class Lender(Protocol):
    """Who holds the machines."""

    def lent(self) -> Reservation:
        """What runs get."""

    def live(self) -> bool:
        """Whether it is still ours."""


@dataclass
class Lent:
    """The back-end ``real``, whose reservation is lent to one run.

    To the run it is a back-end like any other; whoever lends the machines gives them back.
    ``former`` are the ids of the reservation under which the run was started before, if it was.
    """

    real: Backend
    lender: Lender
    former: tuple[str, ...] | None = None
    _taken: bool = field(default=False, init=False)

    @property
    def name(self) -> str:
        return self.real.name

    @property
    def remote(self) -> bool:
        return self.real.remote

    @property
    def grace_s(self) -> float:
        return self.real.grace_s

    @property
    def claims(self) -> Claims:
        return self.real.claims

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
        """What is lent, if it is what the run had before; an earlier reservation is gone."""
        lent = self.lender.lent()
        same = self._taken or self.former is None or self.former == lent.ids
        return lent if self.real.remote and same and self.lender.live() else None

    def reserve(self, request: Request, plan: Plan, note: Note) -> Reservation:
        """As many of the machines as the run has."""
        lent = self.lender.lent()
        reservation = replace(lent, hosts=lent.hosts[: plan.config.NB_MACHINE])
        self._taken = True
        note(reservation)
        return reservation

    def deposits(self, places: Sequence[Place], config: Config) -> list[Host]:
        return self.real.deposits(places, config)

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

    def examine(self, config: Config, data: Data | None = None) -> Iterable[Check]:
        return self.real.examine(config, data)

    def release(self, reservation: Reservation) -> None:
        """The next run needs the machines."""
