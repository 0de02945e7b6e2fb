"""This computer as a cluster: machine m is the address 127.0.0.(m + 1) and a process group."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from decentralizepy.communication.keys import KEY_NAME, make_key
from decentralizepy.cpus import allotted
from decentralizepy.errors import EXIT_INTERRUPTED, EXIT_USAGE, ConfigError, RunError
from decentralizepy.limits import allow_files, files_of_machine, files_of_orchestrator
from decentralizepy.runfolder import has_records
from orchestrator.backends import ports, process
from orchestrator.backends.base import Allocation, Check, Loss, Watch
from orchestrator.backends.process import Guarded
from orchestrator.config import Config
from orchestrator.planning.plan import Machine, Plan
from orchestrator.planning.site import CORE, Site
from orchestrator.status import Status, read_status

STDOUT: Final = "stdout.log"
WATCH_S: Final = 0.5
#: After a first failure the others get this long to end too, so that the cause can be told.
LINGER_S: Final = 2.0
MAX_MACHINES: Final = 1000
#: Machine 0 says within this time whether training had begun when another machine was lost.
TOLD_S: Final = 10.0
#: How often one machine is started again in a run (ON_LOSS = wait).
MOST_RESTARTS: Final = 3


@dataclass(frozen=True)
class LocalBackend:
    """Starts one core command per emulated machine, and ends them all whatever happens.

    ``core`` is the command before its verb, ``ours`` the environment that it is filtered from.
    """

    core: tuple[str, ...] = CORE
    grace_s: float = process.GRACE_S
    ours: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    name: str = "local"

    def plan(self, config: Config, former: int | None = None) -> Site:
        """Loopback addresses, our share of the CPUs, and ports that are free now."""
        if config.NB_MACHINE > MAX_MACHINES:
            raise ConfigError(
                f"NB_MACHINE = {config.NB_MACHINE}: this computer stands for at most {MAX_MACHINES}"
            )
        addresses = tuple(_address(machine) for machine in range(config.NB_MACHINE))
        workers = config.workers()
        found = config.OFFSET or ports.free_offset(addresses, ports.width(workers), former=former)
        return Site(
            backend=self.name,
            addresses=addresses,
            cores=allotted(),
            workers=workers,
            computers=1,
            offset=found,
            core=self.core,
        )

    def check(self, plan: Plan) -> list[Check]:
        """Addresses are ours, ports are free, enough files may be open."""
        return [
            *(_address_check(machine.address) for machine in plan.machines),
            _port_check(plan),
            _files_check(plan),
        ]

    def allocate(self, allocation: Allocation) -> None:
        """Make the machines' folders, and above them the key that they share.

        A resumed run has its folders, and perhaps the key of a start that was killed.
        """
        plan, folder = allocation.plan, allocation.folder
        for machine in plan.machines:
            folder.machine(machine.machine).root.mkdir(exist_ok=True)
        (folder.root / KEY_NAME).unlink(missing_ok=True)
        if _needs_key(plan):
            make_key(folder.root)

    def run(self, allocation: Allocation, watch: Watch) -> float:
        """Start every machine and wait; one that fails ends the others, unless ON_LOSS helps."""
        began = time.monotonic()
        try:
            self._start(allocation)
            self._wait(allocation, watch, began)
        finally:
            process.stop(allocation.handles, self.grace_s)
        return time.monotonic() - began

    def collect(self, allocation: Allocation) -> list[str]:
        """Everything lies here already: only look whether every machine left records."""
        folder, plan = allocation.folder, allocation.plan
        if plan.config.records_nothing:
            return []
        return [
            f"machine {machine.machine} left no records"
            for machine in plan.machines
            if machine.machine not in allocation.gone
            and not has_records(folder.machine(machine.machine))
        ]

    def release(self, allocation: Allocation) -> None:
        """End every process of the run; when none is left, the key goes too."""
        process.stop(allocation.handles, self.grace_s)
        (allocation.folder.root / KEY_NAME).unlink(missing_ok=True)

    def _start(self, allocation: Allocation) -> None:
        for machine in allocation.plan.machines:
            allocation.handles.append(self._command(allocation, machine))

    def _command(
        self, allocation: Allocation, machine: Machine, again: bool | None = None
    ) -> Guarded:
        """Start one machine's command; ``again`` as for `Plan.command`."""
        env = process.environment(self.ours, allocation.plan.task.search)
        log = allocation.folder.machine(machine.machine).root / STDOUT
        command = allocation.plan.command(machine, allocation.folder, again)
        keep = [] if allocation.hold is None else [allocation.hold]
        return process.start(command, log, log, env, self.grace_s, keep)

    def _wait(self, allocation: Allocation, watch: Watch, began: float) -> None:
        limit, next_watch = allocation.plan.config.walltime_seconds, began
        while True:
            codes = [handle.poll() for handle in allocation.handles]
            if any(code for m, code in enumerate(codes) if m not in allocation.gone):
                self._lose(allocation)
                watch(statuses(allocation))
                continue
            now = time.monotonic()
            if now >= next_watch or None not in codes:
                watch(statuses(allocation))
                next_watch = now + WATCH_S
            if None not in codes:
                return
            if limit is not None and now - began > limit:
                raise RunError(_too_long(allocation))
            time.sleep(process.POLL_S)

    def _lose(self, allocation: Allocation) -> None:
        """What ON_LOSS says of the machine that failed; raises `RunError` where it is no help."""
        machine, code = next(iter(_exits(allocation).items()))
        policy = allocation.plan.config.ON_LOSS
        restarts = sum(loss.machine == machine for loss in allocation.losses)
        if machine == 0 or not _goes_on(allocation, policy, code) or restarts >= MOST_RESTARTS:
            raise _failure(allocation)
        place = allocation.plan.machines[machine]
        cause = f"machine {machine} ({place.address}) was lost, {process.describe_exit(code)}"
        if policy == "drop":
            allocation.losses.append(Loss(machine, cause))
            return
        allocation.losses.append(Loss(machine, cause, restarts + 1, MOST_RESTARTS))
        allocation.handles[machine] = self._command(allocation, place, again=True)


def statuses(allocation: Allocation) -> list[Status]:
    """What every machine tells about itself, but for those that the run goes on without."""
    return [
        read_status(allocation.folder.machine(machine.machine).status, machine.machine)
        for machine in allocation.plan.machines
        if machine.machine not in allocation.gone
    ]


def _needs_key(plan: Plan) -> bool:
    options = plan.task.experiment.communication.options
    return len(plan.machines) > 1 and options.get("encryption") != "none"


def _goes_on(allocation: Allocation, policy: str, code: int) -> bool:
    """Whether the others can do without a machine that ended, for good or until it is back.

    Machine 0 decides: where it ends too, the run has failed. A command that was killed could not
    tell it; one that ended by itself has told it so, and machine 0 gets the time to follow. Before
    training has begun, it does not go on either.
    """
    if policy == "fail" or (policy == "wait" and not _killed(code)):
        return False
    until = time.monotonic() + (TOLD_S if _killed(code) else LINGER_S)
    while time.monotonic() < until and allocation.handles[0].poll() is None:
        if _killed(code) and _has_begun(allocation):
            return True
        time.sleep(process.POLL_S)
    return allocation.handles[0].poll() is None and _has_begun(allocation)


def _killed(code: int) -> bool:
    return code > 128 and code != EXIT_INTERRUPTED


def _has_begun(allocation: Allocation) -> bool:
    """Whether training has begun, by machine 0; once there was a loss, it had.

    Its status may be older than the loss, or of the start after it, which notes that there was one.
    """
    if allocation.losses:
        return True
    status = read_status(allocation.folder.machine(0).status, 0)
    return status.state == "running" or bool(status.notes)


def _address(machine: int) -> str:
    """127.0.0.1, 127.0.0.2, ..., 127.0.0.250, 127.0.1.1, ..."""
    third, fourth = divmod(machine, 250)
    return f"127.0.{third}.{fourth + 1}"


def _address_check(address: str) -> Check:
    remedy = f"not an address of this computer; as administrator: ifconfig lo0 alias {address}"
    return Check(f"address {address}", ports.can_bind(address), remedy)


def _port_check(plan: Plan) -> Check:
    offset = plan.task.experiment.offset
    count = ports.width(plan.site.workers)
    busy = ports.taken(plan.site.addresses, offset, count)
    where = "" if busy is None else f"port {busy[1]} of {busy[0]} is taken, perhaps by another run"
    own = f"'offset' in [COMMUNICATION] of {plan.task.experiment.path} and OFFSET"
    return Check("ports", busy is None, f"{where}; leave out {own}, and a free range is found")


def _files_check(plan: Plan) -> Check:
    """For us and for the machines, which inherit our limit; it is raised on the way."""
    machines = len(plan.machines)
    needed = files_of_machine(machines, plan.site.workers)
    try:
        allow_files(max(files_of_orchestrator(machines), needed))
    except ConfigError as error:
        return Check("open files", False, str(error))
    return Check("open files", True, "")


def _failure(allocation: Allocation) -> ConfigError | RunError:
    """Which machine failed, why, and the end of what it printed; the others' ends in a line.

    One that refused what it was given says so by its exit code: then trying again is no help.
    """
    first = _exits(allocation)
    _linger(allocation.handles)
    codes = _exits(allocation)
    blamed = _blame(first, codes)
    lines = [_why(allocation, blamed, codes[blamed])]
    lines += [f"before, {loss}" for loss in allocation.losses]
    lines += [
        f"machine {machine} ended too, {_cause(allocation, machine, code)}"
        for machine, code in codes.items()
        if machine != blamed
    ]
    text = "\n".join(lines)
    return ConfigError(text) if codes[blamed] == EXIT_USAGE else RunError(text)


def _exits(allocation: Allocation) -> dict[int, int]:
    """Exit codes of the machines that failed by now, without those that may be missing."""
    codes = {m: handle.poll() for m, handle in enumerate(allocation.handles)}
    return {m: code for m, code in codes.items() if code and m not in allocation.gone}


def _linger(handles: Sequence[Guarded]) -> None:
    until = time.monotonic() + LINGER_S
    while time.monotonic() < until and any(handle.poll() is None for handle in handles):
        time.sleep(process.POLL_S)


def _blame(first: Mapping[int, int], codes: Mapping[int, int]) -> int:
    """A machine that was killed caused the others' failures; else the first that failed."""
    killed = [machine for machine, code in codes.items() if code > 128]
    return (killed or list(first))[0]


def _why(allocation: Allocation, machine: int, code: int) -> str:
    log = allocation.folder.machine(machine).root / STDOUT
    shown = "\n".join(f"    {line}" for line in process.tail(log, 15).splitlines())
    where = f"machine {machine} ({allocation.plan.machines[machine].address})"
    return f"{where} failed, {_cause(allocation, machine, code)}\n  end of {log}:\n{shown}"


def _cause(allocation: Allocation, machine: int, code: int) -> str:
    """How a machine ended, and what it said of it."""
    error = read_status(allocation.folder.machine(machine).status, machine).error
    return process.describe_exit(code) + (f": {error}" if error else "")


def _too_long(allocation: Allocation) -> str:
    slowest = min(statuses(allocation), key=lambda status: status.round_min)
    config = allocation.plan.config
    return (
        f"the walltime of {config.walltime} is over: machine {slowest.machine} had done "
        f"{slowest.round_min} of {config.NB_ITERATION} iterations; raise walltime in "
        f"{allocation.plan.config_path}, or leave it out"
    )
