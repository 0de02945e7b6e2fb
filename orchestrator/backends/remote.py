"""What all places have in common whose machines are reached from here: where a run lies on them."""

from __future__ import annotations

import ipaddress
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from decentralizepy.errors import RunError
from decentralizepy.runfolder import RunFolder
from orchestrator import container, staging
from orchestrator.backends import ports
from orchestrator.backends.base import Check, Reservation
from orchestrator.config import Config
from orchestrator.container import Bind, data_binds, image_of
from orchestrator.hosts import code
from orchestrator.hosts.base import Facts, Host, HostError, UnreachableError
from orchestrator.hosts.ssh import Control, SshHost
from orchestrator.planning.data import Data
from orchestrator.planning.inputs import REPOSITORY
from orchestrator.planning.placed import Place, Placed
from orchestrator.planning.plan import Plan
from orchestrator.planning.site import Site

#: Workers per machine in a plan, as long as nobody has counted the CPUs.
ASSUMED_CPUS: Final = 8
#: First ports that are tried on all hosts at once.
OFFERS: Final = 12
#: With less space for logs and checkpoints a run is not begun.
LEAST_BYTES: Final = 50 << 20
MOST_AT_ONCE: Final = 8

Result = TypeVar("Result")


@dataclass(frozen=True)
class RemoteBackend:
    """Base of back-ends whose machines go on without us; ``grace_s`` as for the local one."""

    name: str = ""
    remote: bool = True
    grace_s: float = 8.0
    pythons: tuple[str, ...] = field(default=(sys.executable, "python3"))
    core: tuple[str, ...] = ()  # the command before its verb, if it is not Python's module
    claims: ports.Claims = field(default_factory=ports.Claims, compare=False)

    def site(self, config: Config) -> Site:
        """CPUs are counted on the machines, once there are any."""
        workers = config.workers(ASSUMED_CPUS * config.NB_MACHINE)
        machines = config.NB_MACHINE
        assumed = config.WORKERS is None and config.DEVICE == "cpu"
        cores = machines * max(workers, ASSUMED_CPUS if assumed else 1)
        core = (config.PYTHON or "python3", "-m", "decentralizepy")
        return Site(self.name, cores, workers, machines, core, assumed)

    def preview(
        self, plan: Plan, folder: RunFolder, former: int | None = None
    ) -> tuple[list[Place], int]:
        """With the names of the hosts, if they are known, in place of addresses."""
        names = self.known_hosts(plan.config)
        root = self.root(plan, folder)
        return [
            Place(name, name.rpartition("@")[2], root, plan.site.workers, plan.site.core)
            for name in names
        ], plan.config.OFFSET or former or 9000

    def root(self, plan: Plan, folder: RunFolder) -> str:
        """A run's folder on its hosts; of the name that it has here."""
        return f"{base(plan.config)}/runs/{folder.root.name}"

    def code(self, plan: Plan) -> str:
        """The folder of the core on every host."""
        return f"{base(plan.config)}/code/{code.core().digest}"

    def known_hosts(self, config: Config) -> list[str]:
        """The hosts by name, before anything is reserved."""
        return [f"machine{machine}" for machine in range(config.NB_MACHINE)]

    def check(self, plan: Placed) -> list[Check]:
        """What can be told from here, before machines are ours."""
        return []

    def shows(self, plan: Placed, folder: RunFolder) -> Mapping[str, str]:
        """No more files than the plan's."""
        return {}

    def hosts(self, reservation: Reservation, plan: Plan, hold: int | None) -> list[Host]:
        return self.connections(reservation, plan.config)

    def connections(self, reservation: Reservation, config: Config) -> list[Host]:
        """By SSH, over one connection each."""
        control = Control()
        return [
            SshHost(
                target,
                base(config),
                tuple(self.ssh_options(config)),
                control,
                gate=self.gate(config),
            )
            for target in reservation.hosts[: config.NB_MACHINE]
        ]

    def gate(self, config: Config) -> str:
        """The computer through which all hosts are reached; none by default."""
        return ""

    def ssh_options(self, config: Config) -> Sequence[str]:
        """Of every ssh command."""
        return config.SSH_OPTIONS

    def place(
        self, plan: Plan, hosts: Sequence[Host], folder: RunFolder, former: int | None
    ) -> tuple[list[Place], int]:
        """Ask all hosts what they have."""
        config = plan.config
        offers = [config.OFFSET] if config.OFFSET else offered(former)
        pythons = [config.PYTHON] if config.PYTHON else list(self.pythons)
        width = ports.width(config.WORKERS or 128)
        facts = on_all(hosts, lambda host: host.probe(offers, width, pythons))
        root = self.root(plan, folder)
        places = [
            place_of(config, host, fact, root) for host, fact in zip(hosts, facts, strict=True)
        ]
        core = self.core or contained(config, root, self.code(plan), plan.task.data)
        if core:
            places = [replace(place, core=core) for place in places]
        run = folder.root.name
        return places, common_offset(
            offers, facts, width, lambda first: self.claims.take(run, first, width)
        )

    def examine(self, config: Config, data: Data | None = None) -> Iterator[Check]:
        """Each host that is known now: can it be reached, is it fit for a machine, and has it the
        data sets, or room for them?"""
        reservation = Reservation("doctor", self.name, hosts=tuple(self.known_hosts(config)))
        pythons = [config.PYTHON] if config.PYTHON else list(self.pythons)
        hosts = self.connections(reservation, config)
        try:
            for host in hosts:
                yield from _examined(config, host, pythons, data)
        finally:
            for host in hosts:
                host.close()

    def deposits(self, places: Sequence[Place], config: Config) -> list[Host]:
        """Hosts at which the deposits of machines can be had, once theirs are gone."""
        return []

    def stage(self, host: Host, plan: Placed, machine: int) -> None:
        """The core, as it is here, and the container and data sets if they are asked for."""
        if isinstance(host, SshHost):
            host.put_bundle(code.core(), "code")
        if not isinstance(host, staging.Store):
            return
        if (image := image_of(plan.config.CONTAINER, REPOSITORY)) is not None:
            container.stage(image, host, images(plan.config))
        if plan.task.data is not None:
            staging.stage(plan.task.data, host)

    def environment(self, plan: Placed, machine: int) -> dict[str, str]:
        return {
            "PYTHONPATH": f"{self.code(plan)}:{plan.places[machine].root}",
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "",
            **plan.config.ENVIRONMENT,
        }


def _examined(
    config: Config, host: Host, pythons: Sequence[str], data: Data | None
) -> Iterator[Check]:
    try:
        facts = host.probe(pythons=pythons)
        place_of(config, host, facts, base(config))
    except (UnreachableError, HostError, RunError) as error:
        yield Check(f"host {host.name}", False, str(error))
        return
    yield Check(f"host {host.name}", True, "")
    if data is not None and isinstance(host, staging.Store):
        problem = staging.problem(data, host, facts.free_bytes)
        yield Check(f"data sets on {host.name}", not problem, problem)


def reserved_seconds(plan: Plan) -> int:
    """The walltime of the job: that of the run, by default from the estimate, and a margin."""
    limit = plan.config.walltime_seconds
    if limit is None:
        limit = max(600, 60 * round(2 * plan.estimate.seconds / 60))
    return limit + plan.config.margin_seconds


def base(config: Config) -> str:
    """Our folder on every host."""
    return config.host_dir


def images(config: Config) -> str:
    """Where containers are kept on every host."""
    return f"{base(config)}/images"


def contained(config: Config, root: str, package: str, data: Data | None = None) -> tuple[str, ...]:
    """How the core is started in the container that is asked for; empty if none is.

    ``root`` is the run's folder on the host, ``package`` the core's. What is ours there lies in one
    folder, which is bound at its own path; so is what lies elsewhere, and data sets.
    """
    image = image_of(config.CONTAINER, REPOSITORY)
    if image is None:
        return ()
    ours = base(config)
    apart = [path for path in (package, root) if not path.startswith(f"{ours}/")]
    return container.core(
        f"{images(config)}/{container.staged_name(image)}",
        [*(Bind(path, path) for path in (ours, *apart)), *data_binds(data)],
        [package, root],
        gpu=config.DEVICE != "cpu",
    )


def offered(former: int | None) -> list[int]:
    """First ports to be tried: the former one first."""
    draw = random.SystemRandom()
    drawn = [draw.randrange(ports.LOWEST, ports.HIGHEST - 600) for _ in range(OFFERS)]
    return [*(() if former is None else (former,)), *drawn]


def common_offset(
    offers: Sequence[int], facts: Sequence[Facts], width: int, claimed: Callable[[int], bool]
) -> int:
    """The first offer that is free everywhere, and that may be had."""
    free = set(offers).intersection(*(fact.free_offsets for fact in facts))
    found = next((offset for offset in offers if offset in free and claimed(offset)), None)
    if found is None:
        raise RunError(
            f"no {width} ports in a row are free on all hosts, of those from "
            f"{', '.join(map(str, offers))} on; give another OFFSET, or none"
        )
    return found


def place_of(config: Config, host: Host, facts: Facts, root: str) -> Place:
    """Where a machine is; raises `RunError` for a host that is not fit for one."""
    if not facts.python and config.CONTAINER is None:
        wanted = config.PYTHON or "python3"
        raise RunError(
            f"{host.name}: {wanted} has no torch, pyzmq, ... there; name a Python that has, by the "
            "key PYTHON, or install decentralizepy for it"
        )
    if facts.free_bytes is not None and facts.free_bytes < LEAST_BYTES:
        raise RunError(
            f"{host.name}: only {facts.free_bytes:,} bytes are free in {base(config)}; name a "
            "folder with more room by the key HOST_DIR"
        )
    single = config.DEVICE != "cpu"
    workers = config.WORKERS or (1 if single else facts.cpus)
    return Place(
        host=host.name,
        address=address_of(config, host, facts),
        root=root,
        workers=workers,
        core=(facts.python or "python3", "-m", "decentralizepy"),
        cache=f"{base(config)}/cache",
    )


def address_of(config: Config, host: Host, facts: Facts) -> str:
    """The address that the other machines use: in NETWORK, else the one that we reached."""
    if config.NETWORK is None:
        return facts.addresses[0]
    network = ipaddress.ip_network(config.NETWORK, strict=False)
    for address in facts.addresses:
        if ipaddress.ip_address(address) in network:
            return address
    told = ", ".join(facts.addresses)
    raise RunError(f"{host.name} has no address in NETWORK = {config.NETWORK}, but {told}")


def on_all(hosts: Sequence[Host], do: Callable[[Host], Result]) -> list[Result]:
    """Do something on all hosts at once; raises one `RunError` that names those that failed."""

    def attempt(host: Host) -> tuple[Result | None, str]:
        try:
            return do(host), ""
        except (UnreachableError, HostError) as error:
            return None, f"{host.name}: {error}"

    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        told = list(pool.map(attempt, hosts))
    if failed := [why for _, why in told if why]:
        raise RunError("\n".join(failed))
    return [found for found, _ in told]  # type: ignore[misc]
