"""Grid'5000 through EnOSlib: one job on each site, found again by its name, nodes by SSH.

EnOSlib describes and submits the jobs, and deploys. Waiting, finding a job again and giving it back
are done here by name and id, with deadlines, since EnOSlib waits without one and does not see jobs
in all of their states.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError
from decentralizepy.runfolder import RunFolder
from orchestrator.backends.base import Check, Note, Request, Reservation
from orchestrator.backends.remote import RemoteBackend, on_all, reserved_seconds
from orchestrator.config import Config, clock_text
from orchestrator.errors import ReservationError
from orchestrator.hosts.base import Facts, Host
from orchestrator.planning.data import Data
from orchestrator.planning.placed import Place, Placed
from orchestrator.planning.plan import Plan
from orchestrator.planning.site import Site

#: States of a job that has nodes, or may get some; as the API gives them, in lower case.
LIVE: Final = frozenset({
    "waiting", "launching", "running", "tolaunch", "toackreservation", "hold", "suspended",
    "resuming", "toerror",
})  # fmt: skip
#: States in which a job stands still until somebody does something about it.
STUCK: Final = frozenset({"hold", "suspended"})
CREDENTIALS: Final = ".python-grid5000.yaml"
GATE: Final = "access.grid5000.fr"
ROLE: Final = "machine"
#: Below a home or a group storage.
DEPOSITS: Final = "decentralizepy/runs"
#: Nodes are installed anew for each job, so that their keys change.
KEYS_CHANGE: Final = (
    "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
)  # fmt: skip
API_TIMEOUT_S: Final = 60.0
#: Tries of a request that the API does not answer as it should.
TRIES: Final = 5
#: Seconds that a job may take to end.
END_S: Final = 120.0


@dataclass(frozen=True)
class Grid5000Backend(RemoteBackend):
    """``pause_s`` lies between two looks at a job."""

    name: str = "grid5000"
    pause_s: float = 5.0

    # ------------------------------------------------------------------ before anything is asked

    def site(self, config: Config) -> Site:
        """Checks what can be told without asking anybody; raises `ConfigError`."""
        machines = wanted(config)
        count = sum(machines.values()) + len(config.SERVERS)
        if not count:
            raise ConfigError(
                "BACKEND 'grid5000' needs one of the keys 'cluster', 'CLUSTERS' and 'SERVERS'"
            )
        if count != config.NB_MACHINE:
            raise ConfigError(
                f"NB_MACHINE = {config.NB_MACHINE}, but CLUSTERS and SERVERS give {count}"
            )
        if ("deploy" in config.job_type) != (config.ENV_NAME is not None):
            raise ConfigError("ENV_NAME goes together with the job_type 'deploy'")
        return super().site(config)

    def known_hosts(self, config: Config) -> list[str]:
        return list(config.SERVERS) or super().known_hosts(config)

    def check(self, plan: Placed) -> list[Check]:
        return [_credentials()]

    def examine(self, config: Config, data: Data | None = None) -> Iterator[Check]:
        """Credentials, API and cluster; nodes cannot be asked before they are ours."""
        row = _credentials()
        yield row
        if not row.ok:
            return
        try:
            client = api()
            sites = asked(lambda: [site.uid for site in client.sites.list()])
            yield Check(f"API at {client._uri} as {client.username}", True, "")
            names = _clusters_of_sites()
        except ReservationError as error:
            yield Check("API", False, str(error))
            return
        yield Check(f"{len(sites)} sites", bool(sites), "the API knows of no site")
        for cluster in wanted(config):
            known = ", ".join(sorted(names))
            yield Check(f"cluster {cluster}", cluster in names, f"there is none; known: {known}")

    def request(self, plan: Plan, run: str) -> Request:
        config = plan.config
        values = {
            "clusters": wanted(config),
            "servers": list(config.SERVERS),
            "walltime": config.walltime,
            "queue": _queue(config),
            "job_type": _job_types(config),
            "reservation": config.reservation,
            "project": config.PROJECT,
            "env_name": config.ENV_NAME,
            "monitor": config.MONITOR,
        }
        walltime = clock_text(reserved_seconds(plan))
        return Request(config.job_name, run, values, {"walltime": walltime})

    # ------------------------------------------------------------------ reserve, find, release

    def find(self, request: Request) -> Reservation | None:
        """The live jobs of this name, in whatever state, on the sites that were asked."""
        sites = _sites(request)
        jobs = live_jobs(request.name, sites)
        if not jobs:
            return None
        if len(jobs) < len(sites):
            for job in jobs:  # of several sites one has lost its job: what is left is no use
                delete(job)
            return None
        return self._granted(request, jobs)

    def reserve(self, request: Request, plan: Plan, note: Note) -> Reservation:
        jobs = live_jobs(request.name, _sites(request)) or self._submitted(request, note)
        note(_noted(request, jobs))
        try:
            self._await(jobs, plan.config.WAIT)
            return self._ready(request, plan, jobs, note)
        except Exception:  # who interrupts us decides himself what becomes of the jobs
            for job in jobs:
                delete(job)
            raise

    def release(self, reservation: Reservation) -> None:
        """Delete the jobs by their ids, and what else has the name."""
        jobs = [_job(word) for word in reservation.ids]
        for job in jobs:
            if job is not None:
                delete(job)
        sites = {word.partition(":")[0] for word in reservation.ids}
        for job in live_jobs(reservation.name, sorted(sites)):
            delete(job)

    def _submitted(self, request: Request, note: Note) -> list[Any]:
        """New jobs, one on each site; none is left if one of them is refused."""
        jobs: list[Any] = []
        try:
            for site in _sites(request):
                jobs.append(_submit(request, site))
                note(_noted(request, jobs))
        except Exception:
            for job in jobs or live_jobs(request.name, _sites(request)):
                delete(job)
            raise
        return jobs

    def _await(self, jobs: Sequence[Any], limit_s: float) -> None:
        """Wait until all jobs run; raises `ReservationError` at the limit, or if one never will."""
        until = time.monotonic() + limit_s
        for job in jobs:
            while (state := _state(job)) != "running":
                if state not in LIVE:
                    raise ReservationError(f"job {_named(job)} ended in state {state!r}{_why(job)}")
                if state in STUCK:
                    raise ReservationError(f"job {_named(job)} is in state {state!r}")
                if time.monotonic() > until:
                    raise ReservationError(
                        f"no machines within WAIT = {limit_s:g} s: job {_named(job)} is "
                        f"{state}{_expected(job)}; take fewer machines, another cluster, or a "
                        "longer WAIT"
                    )
                time.sleep(self.pause_s)
                _refresh(job)

    def _ready(self, request: Request, plan: Plan, jobs: list[Any], note: Note) -> Reservation:
        for job in jobs:
            _refresh(job)  # a list does not carry the nodes
        reservation = self._granted(request, jobs)
        note(reservation)
        if len(reservation.hosts) < plan.config.NB_MACHINE:
            raise ReservationError(
                f"OAR gave {len(reservation.hosts)} of {plan.config.NB_MACHINE} nodes"
            )
        if plan.config.ENV_NAME is not None:
            _deploy(request, plan.config.NB_MACHINE)
        return reservation

    def _granted(self, request: Request, jobs: Sequence[Any]) -> Reservation:
        """With hosts and deadline, as soon as all jobs run."""
        noted = _noted(request, jobs)
        if any(_state(job) != "running" for job in jobs):
            return noted
        for job in jobs:
            _refresh(job)
        user = "root" if request.values["env_name"] else api().username or os.environ["USER"]
        nodes = sorted(node for job in jobs for node in job.assigned_nodes)
        deadline = min(float(job.started_at + job.walltime) for job in jobs)
        return replace(noted, hosts=tuple(f"{user}@{node}" for node in nodes), deadline=deadline)

    def ssh_options(self, config: Config) -> Sequence[str]:
        """The user's, which then also have to lead into Grid'5000."""
        return config.SSH_OPTIONS or KEYS_CHANGE

    def gate(self, config: Config) -> str:
        """From anywhere outside, unless the user says how."""
        inside = socket.getfqdn().endswith("grid5000.fr")
        return "" if inside or config.SSH_OPTIONS else f"{api().username}@{GATE}"

    def place(
        self, plan: Plan, hosts: Sequence[Host], folder: RunFolder, former: int | None
    ) -> tuple[list[Place], int]:
        """With a deposit on the site's home, or the group storage: a node's disk is soon wiped."""
        places, offset = super().place(plan, hosts, folder, former)
        homes = {
            host.name: fact.home for host, fact in zip(hosts, on_all(hosts, _probed), strict=True)
        }
        storage = plan.config.STORAGE if isinstance(plan.config.STORAGE, str) else ""
        if plan.config.ENV_NAME is not None and not storage:
            return places, offset  # root has no home that others see
        name = folder.root.name
        return [
            replace(place, deposit=f"{storage or homes[place.host]}/{DEPOSITS}/{name}")
            for place in places
        ], offset

    def deposits(self, places: Sequence[Place], config: Config) -> list[Host]:
        """The frontends of the sites that the nodes were of."""
        if not all(place.deposit for place in places):
            return []
        targets = [f"{api().username or os.environ['USER']}@{_frontend(p.host)}" for p in places]
        return self.connections(Reservation("", self.name, hosts=tuple(targets)), config)


# ---------------------------------------------------------------------- what is wanted


def wanted(config: Config) -> dict[str, int]:
    """Number of nodes by cluster."""
    if config.CLUSTERS:
        return dict(config.CLUSTERS)
    if config.SERVERS or config.cluster in (None, "", "local"):
        return {}
    return {str(config.cluster): config.NB_MACHINE}


def _queue(config: Config) -> str:
    """EnOSlib does not know the name ``abaca``; its clusters are those of ``production``."""
    return "production" if config.queue == "abaca" else config.queue


def _job_types(config: Config) -> list[str]:
    """In the queue ``production`` nodes may be deployed, but no other type has a meaning there."""
    types = list(config.job_type)
    return [one for one in types if one == "deploy"] if _queue(config) == "production" else types


def _conf(request: Request) -> Any:
    """EnOSlib's configuration of a request."""
    import enoslib

    values = request.values
    more = {key: values[key] for key in ("reservation", "project", "env_name", "monitor")
            if values[key] is not None}  # fmt: skip
    conf = enoslib.G5kConf.from_settings(
        job_name=request.name,
        job_type=list(values["job_type"]),
        queue=values["queue"],
        walltime=request.more["walltime"],
        **more,
    )
    for cluster, count in values["clusters"].items():
        conf.add_machine(roles=[ROLE], cluster=cluster, nodes=count, min=count)
    if values["servers"]:
        conf.add_machine(roles=[ROLE], servers=list(values["servers"]))
    return conf.finalize()


def _sites(request: Request) -> list[str]:
    """Where the clusters and servers of a request are; raises `ReservationError`."""
    sites = {server.split(".")[1] for server in request.values["servers"]}
    if clusters := request.values["clusters"]:
        known = _clusters_of_sites()
        for cluster in clusters:
            if cluster not in known:
                names = ", ".join(sorted(known))
                raise ReservationError(f"there is no cluster {cluster!r}; known: {names}")
            sites.add(known[cluster])
    return sorted(sites)


def _clusters_of_sites() -> Mapping[str, str]:
    from enoslib.infra.enos_g5k.g5k_api_utils import get_all_clusters_sites

    api()  # EnOSlib asks with this client, which is not to wait for ever
    return dict(asked(get_all_clusters_sites))


# ---------------------------------------------------------------------- the API


def _credentials() -> Check:
    """Without this file EnOSlib would ask the real API, as nobody."""
    path = Path(os.environ.get("HOME", "~")).expanduser() / CREDENTIALS
    inside = socket.getfqdn().endswith("grid5000.fr")
    message = f"write {path} with the lines 'username: ...' and 'password: ...' (chmod 600)"
    return Check("Grid'5000 credentials", path.is_file() or inside, message)


def api() -> Any:
    """The client that EnOSlib uses, which never waits for ever."""
    from enoslib.infra.enos_g5k.g5k_api_utils import get_api_client

    row = _credentials()
    if not row.ok:
        raise ReservationError(f"{row.name}: {row.message}")
    client = get_api_client()
    if client.timeout is None:
        client.timeout = API_TIMEOUT_S
    return client


def asked(question: Callable[[], Any], pause_s: float = 2.0) -> Any:
    """The API's answer; asks again where it has none. Raises `ReservationError`.

    Only for questions, and for what may be said twice.
    """
    import requests
    from grid5000.exceptions import Grid5000AuthenticationError, Grid5000Error

    why = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(pause_s * attempt)
        try:
            return question()
        except Grid5000AuthenticationError:
            raise ReservationError(
                f"the API rejects the user name or password in ~/{CREDENTIALS}"
            ) from None
        except Grid5000Error as error:
            code = getattr(error, "response_code", None)
            why = f"the API says {code}: {_short(str(error))}"
            if code not in (403, 429) and (code is None or code < 500):
                raise ReservationError(why) from None
        except requests.RequestException as error:
            why = f"the API does not answer ({type(error).__name__})"
    raise ReservationError(f"{why}, {TRIES} times")


def live_jobs(name: str, sites: Sequence[str]) -> list[Any]:
    """Our live jobs of a name, in any state; raises `ReservationError` for two on a site."""
    found = []
    for site in sites:
        jobs = [job for job in _listed(name, site) if _state(job) in LIVE]
        if len(jobs) > 1:
            ids = ", ".join(str(job.uid) for job in jobs)
            raise ReservationError(f"several live jobs on {site} have the name {name}: {ids}")
        found += jobs
    for job in found:
        _refresh(job)
    return found


def _listed(name: str, site: str) -> list[Any]:
    """All jobs of a name: a list by state would not show those in a state of the database."""
    client = api()
    user = client.username or os.environ["USER"]
    jobs = asked(lambda: client.sites[site].jobs.list(name=name, user=user))
    return [job for job in jobs if job.name == name]


def _submit(request: Request, site: str) -> Any:
    """One job; looks for it by its name where the answer does not tell whether there is one."""
    import enoslib
    import requests
    from enoslib.infra.enos_g5k.error import EnosG5kDuplicateJobsError
    from grid5000.exceptions import Grid5000Error

    why = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(2.0 * attempt)
        if found := live_jobs(request.name, [site]):
            return found[0]
        try:
            provider = enoslib.G5k(asked(lambda: _conf(request)).restrict_to(site))
            provider.async_init()
        except EnosG5kDuplicateJobsError as error:
            raise ReservationError(str(error)) from None
        except (requests.RequestException, Grid5000Error) as error:
            why = f"{type(error).__name__}: {_short(str(error))}"
        except enoslib.errors.InvalidReservationTime as error:
            raise ReservationError(
                f"the slot at {request.values['reservation']} is taken; first possible start: "
                f"{error.datetime:%Y-%m-%d %H:%M:%S} (set the key 'reservation' to that)"
            ) from None
        except enoslib.errors.InvalidReservationTooOld:
            raise ReservationError(
                f"reservation = {request.values['reservation']!r} is in the past"
            ) from None
        except enoslib.errors.InvalidReservationCritical as error:
            why = _short(str(error.msg))
            if not _server_failed(why):
                raise ReservationError(f"{site} refuses the job: {why}") from None
    if found := live_jobs(request.name, [site]):
        return found[0]
    raise ReservationError(f"{site} gave no job in {TRIES} tries: {why}")


def _server_failed(text: str) -> bool:
    """Whether a refusal is in truth the server's failure (5xx)."""
    return any(word in text for word in ("500", "502", "503", "504"))


def delete(job: Any) -> None:
    """End a job, and wait until it has ended; deleting what is gone is fine."""
    from grid5000.exceptions import Grid5000Error

    def gone() -> bool:
        try:
            job.delete()
        except Grid5000Error as error:
            told = str(error)
            if "already killed" not in told and getattr(error, "response_code", 0) != 404:
                raise
        return True

    if _state(job) not in LIVE:
        return
    asked(gone)
    until = time.monotonic() + END_S
    while _state(job) in LIVE and time.monotonic() < until:
        time.sleep(1.0)
        _refresh(job)


def _deploy(request: Request, count: int) -> None:
    """Install the environment; a second time where nodes are missing after the first."""
    import enoslib

    hosts: set[str] = set()
    for _ in range(2):
        try:
            provider = enoslib.G5k(_conf(request))
            roles, _networks = provider.init()
        except Exception as error:  # EnOSlib raises plain ones, too
            raise ReservationError(f"deploying failed: {_short(str(error))}") from error
        hosts = {host.address for host in roles[ROLE]}
        if len(hosts) >= count:
            return
    raise ReservationError(f"{len(hosts)} of {count} nodes could be deployed: {sorted(hosts)}")


# ---------------------------------------------------------------------- one job


def _noted(request: Request, jobs: Sequence[Any]) -> Reservation:
    ids = tuple(f"{job.site}:{job.uid}" for job in jobs)
    return Reservation(request.name, "grid5000", ids=ids)


def _job(word: str) -> Any:
    """The job of an id as `_noted` writes it; None where the API knows of none."""
    site, _, uid = word.partition(":")
    client = api()
    try:
        return asked(lambda: client.sites[site].jobs[uid])
    except ReservationError:
        return None


def _refresh(job: Any) -> None:
    asked(job.refresh)


def _state(job: Any) -> str:
    return str(job.state).lower()


def _probed(host: Host) -> Facts:
    return host.probe()


def _named(job: Any) -> str:
    return f"{job.uid} on {job.site}"


def _expected(job: Any) -> str:
    """When OAR means to start a job that waits."""
    at = getattr(job, "scheduled_at", None)
    return f", expected at {time.strftime('%F %T', time.localtime(at))}" if at else ""


def _why(job: Any) -> str:
    """What OAR notes of a job that has ended."""
    kinds = [str(event.get("type", "")) for event in getattr(job, "events", None) or ()]
    return f" ({', '.join(kinds)})" if any(kinds) else ""


def _frontend(node: str) -> str:
    """Of the site of a node."""
    return f"frontend.{node.partition('@')[2].split('.')[1]}.grid5000.fr"


def _short(text: str) -> str:
    """What matters of an answer: the lines that say something, not too many of them."""
    words = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return words if len(words) <= 400 else f"{words[:397]}..."
