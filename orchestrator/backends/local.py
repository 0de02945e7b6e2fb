"""This computer as a cluster: machine m is the address 127.0.0.(m + 1) and a process group."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from decentralizepy.cpus import allotted
from decentralizepy.errors import ConfigError
from decentralizepy.files import cache_home
from decentralizepy.limits import allow_files, files_of_machine, files_of_orchestrator
from decentralizepy.runfolder import RunFolder
from orchestrator import container
from orchestrator.backends import ports, process
from orchestrator.backends.base import Check, Note, Request, Reservation
from orchestrator.config import Config
from orchestrator.container import TREE, Bind, data_binds, image_of
from orchestrator.hosts.base import Host
from orchestrator.hosts.local import LocalHost
from orchestrator.planning.data import Data
from orchestrator.planning.inputs import REPOSITORY
from orchestrator.planning.placed import Place, Placed
from orchestrator.planning.plan import Plan
from orchestrator.planning.site import CORE, Site

MAX_MACHINES: Final = 1000


@dataclass(frozen=True)
class LocalBackend:
    """Loopback addresses, our share of the CPUs, and ports that are free now; nothing is reserved.

    ``core`` is the command before its verb, ``ours`` the environment that it is filtered from.
    """

    core: tuple[str, ...] = CORE
    grace_s: float = process.GRACE_S
    ours: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    name: str = "local"
    remote: bool = False
    claims: ports.Claims = field(default_factory=ports.Claims, compare=False)

    def site(self, config: Config) -> Site:
        if config.NB_MACHINE > MAX_MACHINES:
            raise ConfigError(
                f"NB_MACHINE = {config.NB_MACHINE}: this computer stands for at most {MAX_MACHINES}"
            )
        return Site(self.name, allotted(), config.workers(), computers=1, core=self.core)

    def preview(
        self, plan: Plan, folder: RunFolder, former: int | None = None
    ) -> tuple[list[Place], int]:
        """Everything is known here at once."""
        return self._laid_out(plan, folder, former, lambda first: True)

    def _laid_out(
        self, plan: Plan, folder: RunFolder, former: int | None, claimed: Callable[[int], bool]
    ) -> tuple[list[Place], int]:
        addresses = [_address(machine.machine) for machine in plan.machines]
        width = ports.width(plan.site.workers)
        offset = plan.config.OFFSET or ports.free_offset(
            addresses, width, former=former, claimed=claimed
        )
        workers, root = plan.site.workers, str(folder.root)
        core = self._contained(plan, root) or self.core
        return [Place(each, each, root, workers, core) for each in addresses], offset

    def _contained(self, plan: Plan, root: str) -> tuple[str, ...]:
        """The core in the container that is asked for: with this code, and with this cache."""
        image = image_of(plan.config.CONTAINER, REPOSITORY)
        if image is None:
            return ()
        cache = cache_home(self.ours)
        ours = [Bind(path, path) for path in (root, str(cache))]
        ours += data_binds(plan.task.data)
        tree = Bind(str(REPOSITORY), TREE, read_only=True)
        search, gpu = [TREE, root], plan.config.DEVICE != "cpu"
        return container.core(str(image), [*ours, tree], search, str(cache.parent), gpu)

    def check(self, plan: Placed) -> list[Check]:
        """Addresses are ours, ports are free, enough files may be open."""
        return [*map(_address_check, plan.addresses), _port_check(plan), _files_check(plan)]

    def shows(self, plan: Placed, folder: RunFolder) -> Mapping[str, str]:
        return {}

    def request(self, plan: Plan, run: str) -> Request:
        return Request(plan.config.job_name, run, {"machines": plan.config.NB_MACHINE})

    def find(self, request: Request) -> Reservation | None:
        """What was started here ends with its orchestrator."""
        return None

    def reserve(self, request: Request, plan: Plan, note: Note) -> Reservation:
        hosts = tuple(_address(machine.machine) for machine in plan.machines)
        reservation = Reservation(request.name, self.name, hosts=hosts)
        note(reservation)
        return reservation

    def hosts(self, reservation: Reservation, plan: Plan, hold: int | None) -> list[Host]:
        return [LocalHost(address, hold) for address in reservation.hosts]

    def place(
        self, plan: Plan, hosts: Sequence[Host], folder: RunFolder, former: int | None
    ) -> tuple[list[Place], int]:
        run, width = folder.root.name, ports.width(plan.site.workers)
        return self._laid_out(
            plan, folder, former, lambda first: self.claims.take(run, first, width)
        )

    def stage(self, host: Host, plan: Placed, machine: int) -> None:
        """Everything is here; what is bound in a container must be."""
        if plan.config.CONTAINER is not None:
            cache_home(self.ours).mkdir(parents=True, exist_ok=True)

    def environment(self, plan: Placed, machine: int) -> dict[str, str]:
        return process.environment(self.ours, plan.task.search)

    def examine(self, config: Config, data: Data | None = None) -> list[Check]:
        addresses = [_address(machine) for machine in range(config.NB_MACHINE)]
        return [_address_check(address) for address in addresses]

    def deposits(self, places: Sequence[Place], config: Config) -> list[Host]:
        return []

    def release(self, reservation: Reservation) -> None:
        """Nothing was reserved."""


def _address(machine: int) -> str:
    """127.0.0.1, 127.0.0.2, ..., 127.0.0.250, 127.0.1.1, ..."""
    third, fourth = divmod(machine, 250)
    return f"127.0.{third}.{fourth + 1}"


def _address_check(address: str) -> Check:
    remedy = f"not an address of this computer; as administrator: ifconfig lo0 alias {address}"
    return Check(f"address {address}", ports.can_bind(address), remedy)


def _port_check(plan: Placed) -> Check:
    offset = plan.offset
    count = ports.width(plan.site.workers)
    busy = ports.taken(plan.addresses, offset, count)
    where = "" if busy is None else f"port {busy[1]} of {busy[0]} is taken, perhaps by another run"
    own = f"'offset' in [COMMUNICATION] of {plan.task.experiment.path} and OFFSET"
    return Check("ports", busy is None, f"{where}; leave out {own}, and a free range is found")


def _files_check(plan: Placed) -> Check:
    """For us and for the machines, which inherit our limit; it is raised on the way."""
    machines = len(plan.machines)
    needed = files_of_machine(machines, plan.site.workers)
    try:
        allow_files(max(files_of_orchestrator(machines), needed))
    except ConfigError as error:
        return Check("open files", False, str(error))
    return Check("open files", True, "")
