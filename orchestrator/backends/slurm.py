"""Slurm: one batch job whose agents, one on each node, start the machines.

The run folder has to lie on storage that the nodes see, as home folders usually do. Accounting is
not needed: only ``sbatch``, ``squeue``, ``scontrol``, ``srun`` and ``scancel`` are used.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from decentralizepy.runfolder import RunFolder
from orchestrator.backends.base import Check, Note, Request, Reservation
from orchestrator.backends.remote import RemoteBackend, base, reserved_seconds
from orchestrator.config import Config, clock_text
from orchestrator.errors import ReservationError
from orchestrator.hosts import code
from orchestrator.hosts.base import Host
from orchestrator.hosts.shared import SharedHost
from orchestrator.planning.data import Data
from orchestrator.planning.inputs import save_folder
from orchestrator.planning.placed import Place, Placed
from orchestrator.planning.plan import Plan
from orchestrator.planning.render import render_script

COMMANDS: Final = ("sbatch", "squeue", "scontrol", "srun", "scancel")
#: States of a job that has nodes, or may get some.
LIVE: Final = frozenset({
    "PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "REQUEUED", "RESIZING", "STOPPED",
})  # fmt: skip
#: A job whose machines nobody has wanted for so long ends by itself.
IDLE_S: Final = 900
#: Agents are told so long before the limit, to end the machines.
SIGNAL_S: Final = 120
#: Beside the run folders: what jobs have in common with us.
COMMON: Final = ".slurm"
TRIES: Final = 4


@dataclass(frozen=True)
class SlurmBackend(RemoteBackend):
    """``pause_s`` lies between two looks at the queue."""

    name: str = "slurm"
    pause_s: float = 2.0

    def check(self, plan: Placed) -> list[Check]:
        return list(self.examine(plan.config))

    def examine(self, config: Config, data: Data | None = None) -> Iterator[Check]:
        missing = [name for name in COMMANDS if shutil.which(name) is None]
        remedy = f"not found: {', '.join(missing)}; start this on a front-end of the cluster"
        yield Check("Slurm's commands", not missing, remedy)
        if missing:
            return
        done = call("squeue", "--noheader", "--me", check=False)
        yield Check("Slurm's controller", done.returncode == 0, done.stderr.strip())

    def request(self, plan: Plan, run: str) -> Request:
        config = plan.config
        values = {
            "machines": config.NB_MACHINE,
            "walltime": config.walltime,
            "workers": config.WORKERS,
            "queue": config.queue,
            "project": config.PROJECT,
            "reservation": config.reservation,
            "directives": [*map(str, config.SBATCH)],
        }
        walltime = clock_text(reserved_seconds(plan))
        more = {"walltime": walltime, "common": str(common(plan))}
        return Request(config.job_name, run, values, more)

    def shows(self, plan: Placed, folder: RunFolder) -> Mapping[str, str]:
        request = self.request(plan, folder.root.name)
        return {"job.sh": script(request, plan.config)}

    # ------------------------------------------------------------------ reserve, find, release

    def find(self, request: Request) -> Reservation | None:
        jobs = live_jobs(request.name)
        if len(jobs) > 1:
            raise ReservationError(f"several jobs have the name {request.name}: {' '.join(jobs)}")
        return self._granted(request, jobs[0]) if jobs else None

    def reserve(self, request: Request, plan: Plan, note: Note) -> Reservation:
        job = self._submitted(request, plan.config)
        try:
            note(Reservation(request.name, self.name, ids=(job,)))
            self._await(request, job, plan.config)
            reservation = self._granted(request, job)
            note(reservation)
        except Exception:  # who interrupts us decides himself what becomes of the job
            cancel(job)
            raise
        return reservation

    def release(self, reservation: Reservation) -> None:
        for job in {*reservation.ids, *live_jobs(reservation.name)}:
            cancel(job)

    def _submitted(self, request: Request, config: Config) -> str:
        """The job of this name, or a new one; asks whether there is one where sbatch fails late."""
        folder = job_folder(request)
        for spoken in folder.glob("*/answer"):  # by agents of an earlier job
            spoken.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        unpack(code.runner(), folder.parent / "runner")
        file = folder / "job.sh"
        file.write_text(script(request, config), encoding="utf-8")
        why = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self.pause_s * attempt)
            if found := live_jobs(request.name):
                return found[0]
            done = call("sbatch", "--parsable", str(file), check=False)
            if done.returncode == 0:
                return done.stdout.strip().partition(";")[0]
            why = done.stderr.strip()
            if "timed out" not in why and "Unable to contact" not in why:
                break
        raise ReservationError(f"Slurm refuses the job: {why}")

    def _await(self, request: Request, job: str, config: Config) -> None:
        """Wait until the job runs and its agents have spoken."""
        until = time.monotonic() + config.WAIT
        while True:
            state, reason, start = queued(job)
            if state not in LIVE:
                log = job_folder(request) / "job.log"
                raise ReservationError(f"job {job} ended in state {state or 'unknown'}; see {log}")
            if state == "RUNNING" and all(
                host.ready() for host in self._nodes(request.name, job, config)
            ):
                return
            if time.monotonic() > until:
                raise ReservationError(
                    f"no machines within WAIT = {config.WAIT:g} s: job {job} is {state} "
                    f"({reason}), expected at {start}; take fewer machines, another queue, or a "
                    "longer WAIT"
                )
            time.sleep(self.pause_s)

    def _granted(self, request: Request, job: str) -> Reservation:
        more = {"common": request.more["common"]}
        noted = Reservation(request.name, self.name, ids=(job,), more=more)
        if queued(job)[0] != "RUNNING":
            return noted
        told = facts(job)
        names = call("scontrol", "show", "hostnames", told["NodeList"]).stdout.split()
        end = datetime.fromisoformat(told["EndTime"]).timestamp()
        return replace(noted, hosts=tuple(names), deadline=end - SIGNAL_S)

    # ------------------------------------------------------------------ hosts

    def hosts(self, reservation: Reservation, plan: Plan, hold: int | None) -> list[Host]:
        return list(self._nodes(reservation.name, reservation.ids[0], plan.config, common(plan)))

    def _nodes(
        self, name: str, job: str, config: Config, place: Path | None = None
    ) -> list[SharedHost]:
        folder = (place or common_of(config)) / "jobs" / name
        hosts = []
        for machine in range(config.NB_MACHINE):
            agent = folder / str(machine)
            step = ("srun", f"--jobid={job}", "--overlap", "--nodes=1", "--ntasks=1",
                    "--quiet", f"--relative={machine}")  # fmt: skip
            hosts.append(SharedHost(f"node {machine} of job {job}", agent, base(config), step))
        return hosts

    def place(
        self, plan: Plan, hosts: Sequence[Host], folder: RunFolder, former: int | None
    ) -> tuple[list[Place], int]:
        places, offset = super().place(plan, hosts, folder, former)
        keyed = [
            replace(place, key=host.key_of(place.root))
            for place, host in zip(places, hosts, strict=True)
            if isinstance(host, SharedHost)
        ]
        return keyed, offset

    def stage(self, host: Host, plan: Placed, machine: int) -> None:
        if machine == 0:
            unpack(code.core(), common(plan) / "code")
        super().stage(host, plan, machine)

    def root(self, plan: Plan, folder: RunFolder) -> str:
        """The run folder itself."""
        return str(folder.root)

    def code(self, plan: Plan) -> str:
        return str(common(plan) / "code" / code.core().digest)


def common(plan: Plan) -> Path:
    return common_of(plan.config)


def common_of(config: Config) -> Path:
    """The folder that jobs and we have in common."""
    return save_folder(config) / COMMON


def job_folder(request: Request) -> Path:
    return Path(request.more["common"]) / "jobs" / request.name


def script(request: Request, config: Config) -> str:
    """What is given to ``sbatch``."""
    folder = job_folder(request)
    return render_script("slurm.sh", {
        "name": request.name,
        "machines": config.NB_MACHINE,
        "workers": config.WORKERS,
        "walltime": request.more["walltime"],
        "signal_s": SIGNAL_S,
        "folder": shlex.quote(str(folder)),
        "runner": shlex.quote(str(folder.parent / "runner" / code.runner().digest)),
        "partition": "" if config.queue == "default" else config.queue,
        "account": config.PROJECT or "",
        "begin": (config.reservation or "").replace(" ", "T"),
        "directives": config.SBATCH,
        "setup": config.SETUP,
        "python": shlex.quote(config.PYTHON or sys.executable),
        "idle_s": IDLE_S,
    })  # fmt: skip


def unpack(bundle: code.Bundle, folder: Path) -> None:
    """Files by their digest below a folder, unless they are there."""
    target = folder / bundle.digest
    if target.is_dir():
        return
    aside = folder / f"{bundle.digest}.{time.time_ns()}"
    for name, data in bundle.files.items():
        path = aside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    try:
        aside.rename(target)
    except OSError:  # somebody was faster
        shutil.rmtree(aside)


# ---------------------------------------------------------------------- Slurm's commands


def call(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of them; raises `ReservationError`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReservationError(f"{command[0]}: {error}") from None
    if check and done.returncode:
        raise ReservationError(f"{command[0]}: {done.stderr.strip()}")
    return done


def live_jobs(name: str) -> list[str]:
    """Ids of our live jobs of a name."""
    told = call("squeue", "--noheader", "--me", f"--name={name}", "--format=%i %T").stdout
    rows = (line.split() for line in told.splitlines())
    return [job for job, state in rows if state in LIVE]


def queued(job: str) -> tuple[str, str, str]:
    """State, reason and expected start of a job; no state for one that is forgotten."""
    done = call("squeue", "--noheader", f"--jobs={job}", "--format=%T|%r|%S", check=False)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise ReservationError(f"squeue: {done.stderr.strip()}")
    words = done.stdout.strip().split("|")
    return (words[0], words[1], words[2]) if len(words) == 3 else ("", "", "")


def facts(job: str) -> dict[str, str]:
    """What ``scontrol`` says of a job."""
    words = call("scontrol", "--oneliner", "show", "job", job).stdout.split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def cancel(job: str) -> None:
    """End a job, and wait until its processes have ended; one that is gone is fine."""
    call("scancel", job, check=False)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        state = queued(job)[0]
        if state not in LIVE and state != "COMPLETING":
            return
        time.sleep(0.2)
