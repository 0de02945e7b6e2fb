"""Hosts of one's own by SSH: nothing is reserved, the hosts are those that HOSTS names."""

from __future__ import annotations

from dataclasses import dataclass

from decentralizepy.errors import ConfigError
from orchestrator.backends.base import Note, Request, Reservation
from orchestrator.backends.remote import RemoteBackend
from orchestrator.config import Config
from orchestrator.planning.plan import Plan
from orchestrator.planning.site import Site


@dataclass(frozen=True)
class SshBackend(RemoteBackend):
    """The first NB_MACHINE hosts of HOSTS, one machine on each."""

    name: str = "ssh"

    def site(self, config: Config) -> Site:
        if not config.HOSTS:
            raise ConfigError("BACKEND 'ssh' needs the key 'HOSTS': the hosts as ssh knows them")
        if len(config.HOSTS) < config.NB_MACHINE:
            raise ConfigError(
                f"NB_MACHINE = {config.NB_MACHINE}, but HOSTS names {len(config.HOSTS)}: each "
                "machine needs a host of its own"
            )
        return super().site(config)

    def known_hosts(self, config: Config) -> list[str]:
        return list(config.HOSTS[: config.NB_MACHINE])

    def request(self, plan: Plan, run: str) -> Request:
        hosts = self.known_hosts(plan.config)
        return Request(plan.config.job_name, run, {"hosts": hosts})

    def find(self, request: Request) -> Reservation | None:
        """They are there as long as anybody wants them."""
        return Reservation(request.name, self.name, hosts=tuple(request.values["hosts"]))

    def reserve(self, request: Request, plan: Plan, note: Note) -> Reservation:
        reservation = Reservation(request.name, self.name, hosts=tuple(request.values["hosts"]))
        note(reservation)
        return reservation

    def release(self, reservation: Reservation) -> None:
        """Nothing was reserved."""
