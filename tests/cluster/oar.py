"""A small batch scheduler with the states, the rules and the refusals of OAR, for one site.

Time is real unless `Clock.skip` moves it on. Jobs go waiting, launching, running, finishing and
then error (killed) or terminated; `hold` and `end` do to a job what an administrator or an accident
does. What happens to machines is up to the two functions that are called at a job's start and end.
"""

from __future__ import annotations

import datetime as dt
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from oar_request import Properties, Refused, Request, parse

NAME_LENGTH = 100
PARIS = ZoneInfo("Europe/Paris")
LIVE = ("waiting", "hold", "launching", "running", "finishing")
HOLDS_NODES = ("launching", "running", "finishing")
TYPES = {
    "deploy", "day", "night", "exotic", "besteffort", "allow_classic_ssh", "destructive", "noop",
    "cosystem", "container",
}  # fmt: skip
TICK_S = 0.02


class Clock:
    """Seconds since 1970, as the scheduler sees them."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def now(self) -> float:
        """The machine's time, and what was skipped."""
        return time.time() + self._skipped

    def skip(self, seconds: float) -> None:
        """Let this much time pass at once: reservations begin, walltimes are reached."""
        self._skipped += seconds


@dataclass
class Job:
    """What OAR knows of a job; times in seconds since 1970, `walltime` in seconds."""

    uid: int
    user: str
    name: str
    queue: str
    types: list[str]
    project: str
    command: str
    resources: str
    request: Request
    submitted_at: float
    walltime: int
    reservation: float | None = None
    state: str = "waiting"
    scheduled_at: float | None = None
    started_at: float | None = None
    stopped_at: float | None = None
    nodes: list[str] = field(default_factory=list)
    events: list[tuple[float, str, str]] = field(default_factory=list)
    final: str = "error"

    @property
    def booked(self) -> tuple[float, float] | None:
        """From when to when its nodes are its own or promised to it."""
        begin = self.started_at or self.scheduled_at
        if begin is None or self.state not in LIVE or self.state == "hold":
            return None
        return begin, begin + self.walltime


def nothing(job: Job) -> None:
    """What happens to no machine."""


class Oar:
    """The jobs of one site. `nodes` gives each node's properties, `queue` among them, with commas.

    `on_start(job)` runs before a job is running, `on_end(job)` before its nodes are free again.
    """

    def __init__(
        self, nodes: Mapping[str, Properties], clock: Clock, first_uid: int = 1_000_001,
        on_start: Callable[[Job], None] = nothing, on_end: Callable[[Job], None] = nothing,
    ) -> None:  # fmt: skip
        self.nodes, self.clock = dict(nodes), clock
        self.on_start, self.on_end = on_start, on_end
        self.dead: set[str] = set()
        self.withhold = 0  # nodes that the next job is not given although it asked for them
        self.launch_s = 0.1
        self._jobs: dict[int, Job] = {}
        self._uids = itertools.count(first_uid)
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="oar", daemon=True)

    # -- what users do --

    def submit(
        self, user: str, *, resources: str, name: str = "", queue: str = "default",
        types: Iterable[str] = (), project: str = "default", command: str = "",
        reservation: str | None = None,
    ) -> Job:  # fmt: skip
        """A new job, waiting. Raises Refused, as oarsub does."""
        with self._lock:
            request = parse(resources, self._properties())
            now = self.clock.now()
            job = Job(
                0, user, name, queue, list(types), project, command, resources, request, now,
                request.walltime_s,
            )  # fmt: skip
            self._admit(job)
            if reservation is not None:
                self._reserve(job, paris(reservation))
            elif self._slot(job, ()) is None:
                raise Refused("There are not enough resources for your request")
            job.uid = next(self._uids)
            self._jobs[job.uid] = job
            self._schedule()
            return job

    def delete(self, uid: int) -> None:
        """Raises Refused if it has ended or is about to."""
        with self._lock:
            job = self._jobs[uid]
            if job.state not in LIVE or job.state == "finishing":
                raise Refused("This job was already killed")
            self._kill(job, "FRAG_JOB_REQUEST", "User requested to frag the job")

    def extend(self, uid: int, seconds: int) -> None:
        """A longer walltime, if nobody else is to have the nodes. Raises Refused."""
        with self._lock:
            job = self._jobs[uid]
            if job.state != "running" or job.booked is None:
                raise Refused("Walltime change is only possible for a running job")
            begin, end = job.booked
            others = [other for other in self._jobs.values() if other is not job]
            if set(job.nodes) - set(self._free(begin, end + seconds, others)):
                raise Refused("The resources are not free for the additional time")
            job.walltime += seconds

    # -- what others do --

    def hold(self, uid: int) -> None:
        """A waiting job waits until somebody lets it go on."""
        with self._lock:
            self._jobs[uid].state = "hold"
            self._jobs[uid].scheduled_at = None

    def end(self, uid: int, event: str | None = None) -> None:
        """It ends by itself (terminated), or by `event`, such as NODE_FAILURE (error)."""
        with self._lock:
            job = self._jobs[uid]
            job.final = "terminated"
            if event is not None:
                self._note(job, event, "The job has died")
                job.final = "error"
            job.state, job.stopped_at = "finishing", self.clock.now()

    def occupy(self, nodes: Iterable[str], seconds: int, user: str = "bob") -> Job:
        """Somebody else has these nodes from now on."""
        listed = ", ".join(f"'{node}'" for node in nodes)
        count = listed.count("'") // 2
        walltime = f"{seconds // 3600}:{seconds // 60 % 60}:{seconds % 60}"
        with self._lock:
            request = f"{{network_address in ({listed})}}/nodes={count},walltime={walltime}"
            queue = str(self.nodes[next(iter(nodes))]["queue"]).split(",")[0]
            job = self.submit(user, resources=request, queue=queue, types=["exotic", "noop"])
            job.state, job.started_at = "running", self.clock.now()
            return job

    # -- what is known --

    def job(self, uid: int) -> Job:
        """KeyError if there is none."""
        with self._lock:
            return self._jobs[uid]

    def jobs(self) -> list[Job]:
        """All there have been, the newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: -job.uid)

    def bookings(self, node: str) -> list[Job]:
        """Jobs that have this node or are to have it."""
        with self._lock:
            return [job for job in self._jobs.values() if job.booked and node in job.nodes]

    # -- life --

    def start(self) -> None:
        """Let time pass."""
        self._thread.start()

    def stop(self) -> None:
        """Jobs stay as they are."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(TICK_S):
            for job in self._due():
                if job.state == "launching":
                    self.on_start(job)
                    with self._lock:
                        if job.state == "launching":
                            job.state, job.started_at = "running", self.clock.now()
                else:
                    self.on_end(job)
                    with self._lock:
                        job.state = job.final

    def _due(self) -> Iterator[Job]:
        """Jobs to which something happens now."""
        with self._lock:
            now = self.clock.now()
            for job in self._jobs.values():
                if job.state == "running" and now >= (job.started_at or 0) + job.walltime:
                    self._kill(job, "WALLTIME", "Job walltime is reached")
            self._schedule()
            ready = [job for job in self._jobs.values() if self._ready(job, now)]
        yield from ready

    def _ready(self, job: Job, now: float) -> bool:
        launched = job.state == "launching" and now >= (job.scheduled_at or 0) + self.launch_s
        return launched or job.state == "finishing"

    def _kill(self, job: Job, event: str, text: str) -> None:
        self._note(job, event, text)
        job.stopped_at = self.clock.now()
        job.state = "finishing" if job.state in HOLDS_NODES else "error"

    def _note(self, job: Job, event: str, text: str) -> None:
        job.events.append((self.clock.now(), event, text))

    # -- who gets what --

    def _properties(self) -> list[str]:
        return list(next(iter(self.nodes.values()), {}))

    def _admit(self, job: Job) -> None:
        """The rules that look at the job alone."""
        if len(job.name) > NAME_LENGTH:
            raise Refused(f"value too long for type character varying({NAME_LENGTH})")
        queues = {name for node in self.nodes.values() for name in str(node["queue"]).split(",")}
        if job.queue not in queues | {"besteffort", "admin", "testing"}:
            raise Refused(f"The queue {job.queue} does not exist")
        for kind in job.types:
            if kind.split("=")[0] not in TYPES | {"origin", "monitor", "inner"}:
                raise Refused(f"ERROR: unknown job type: {kind}")
        if {"day", "night"} <= set(job.types):
            raise Refused("ERROR: a job is of type day or night")
        if job.walltime <= 0:
            raise Refused("Bad walltime: 0")

    def _reserve(self, job: Job, start: float) -> None:
        """An advance reservation: these nodes at that time, or never."""
        now = self.clock.now()
        if start + job.walltime <= now:
            raise Refused("Reservation too old")
        job.walltime -= max(0, int(now - start))  # late, and therefore short
        start = max(start, now)
        slot = self._slot(job, self._jobs.values(), start)
        if slot is None:
            raise Refused("There are not enough resources for your request")
        if slot[0] > start:
            date = dt.datetime.fromtimestamp(slot[0] + 1, PARIS).strftime("%Y-%m-%d %H:%M:%S")
            raise Refused(f"Reservation not valid --> KO (This reservation could run at {date})")
        job.reservation = job.scheduled_at = start
        job.nodes = slot[1]

    def _schedule(self) -> None:
        """Plan all that waits, first come first served; launch what can start."""
        now, planned = self.clock.now(), [job for job in self._jobs.values() if self._fixed(job)]
        for job in self._jobs.values():
            if job.state != "waiting":
                continue
            if job.reservation is None:
                slot = self._slot(job, planned, now)
                job.scheduled_at, job.nodes = slot if slot else (None, [])
                planned.append(job)
            if job.scheduled_at is not None and job.scheduled_at <= now:
                self._launch(job)

    def _fixed(self, job: Job) -> bool:
        return job.state in HOLDS_NODES or (job.state == "waiting" and job.reservation is not None)

    def _launch(self, job: Job) -> None:
        if self.withhold:
            job.nodes = job.nodes[: -self.withhold]
            self.withhold = 0
        job.state = "launching"

    def _slot(
        self, job: Job, others: Iterable[Job], earliest: float | None = None
    ) -> tuple[float, list[str]] | None:
        """The first time from `earliest` (now) on at which `others` leave enough, and the nodes."""
        begin = self.clock.now() if earliest is None else earliest
        others = list(others)
        ends = [other.booked[1] for other in others if other.booked]
        for moment in sorted({begin, *(end for end in ends if end > begin)}):
            free = self._free(moment, moment + job.walltime, others)
            allowed = {name: self.nodes[name] for name in free if self._may_use(job, name)}
            nodes = job.request.pick(allowed)
            if nodes is not None:
                return moment, nodes
        return None

    def _free(self, begin: float, end: float, others: Iterable[Job]) -> list[str]:
        taken = set(self.dead)
        for other in others:
            if other.booked is None:
                continue
            first, last = other.booked
            if other.state == "finishing":
                last = max(last, self.clock.now() + 1)  # until its nodes are clean
            if first < end and last > begin:
                taken |= set(other.nodes)
        return [name for name in self.nodes if name not in taken]

    def _may_use(self, job: Job, name: str) -> bool:
        node = self.nodes[name]
        open_to = str(node["queue"]).split(",")
        in_queue = job.queue in open_to or job.queue in ("besteffort", "admin")
        return in_queue and (node["exotic"] == "NO" or "exotic" in job.types)


def paris(date: str) -> float:
    """``YYYY-MM-DD HH:MM:SS`` of Grid'5000's time zone. Raises Refused."""
    try:
        return dt.datetime.strptime(date, "%Y-%m-%d %H:%M:%S").replace(tzinfo=PARIS).timestamp()
    except ValueError as error:
        raise Refused(f"Bad reservation date: {date}") from error
