"""Supervision of a run on its hosts, the same for all places: start, watch, losses, end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from decentralizepy.communication.keys import KEY_NAME
from decentralizepy.errors import EXIT_INTERRUPTED, EXIT_USAGE, ConfigError, RunError
from decentralizepy.files import write_json
from decentralizepy.runfolder import has_records
from decentralizepy.settings import Resilience
from decentralizepy.text import seconds_text
from orchestrator.backends import process
from orchestrator.errors import DetachedError
from orchestrator.hosts.base import OUT_OF_TIME, STDOUT, HostError, Job, Seen, UnreachableError
from orchestrator.running.execution import Execution, Loss
from orchestrator.status import Status, read_status

#: Called about twice a second with the status of every machine.
Watch = Callable[[Sequence[Status]], None]

WATCH_S: Final = 0.5
#: Pause between two looks at hosts that have to be asked.
PACE_S: Final = 1.0
#: A look waits so long for the hosts that are slow to answer.
ANSWER_S: Final = 2.0
#: After a first failure the others get this long to end too, so that the cause can be told.
LINGER_S: Final = 2.0
#: Machine 0 says within this time whether training had begun when another machine was lost.
TOLD_S: Final = 10.0
#: How often one machine is started again in a run (ON_LOSS = wait).
MOST_RESTARTS: Final = 3
#: Lines of a failed machine's output that are shown.
TOLD_LINES: Final = 15
#: Tries to bring a machine's folder home, and the pause between them.
TRIES: Final = 4
RETRY_S: Final = 3.0
#: Unless ON_LOSS is wait, we leave after so long without an answer from any host.
ALONE_S: Final = 86_400.0
#: Stands for the exit code of a machine whose host is silent.
SILENT: Final = -1
#: The same for one whose host no longer knows of it.
FORGOTTEN: Final = -2
#: A gateway takes about ten connections that are being made.
MOST_AT_ONCE: Final = 8
#: Hosts that are asked at the same time, over connections that are there.
MOST_ASKED: Final = 64

Result = TypeVar("Result")


class Fleet:
    """The machines of one execution; ``held`` says whether they are still ours."""

    def __init__(
        self, execution: Execution, elapsed_s: float = 0.0, held: Callable[[], bool] = lambda: True
    ) -> None:
        self.execution = execution
        self._held = held
        self.began = time.monotonic() - elapsed_s
        self.remote = execution.backend.remote
        self._seen: dict[int, Seen] = {}
        self._silent_since: dict[int, float] = {}
        self._home_s = execution.plan.config.COLLECT_AFTER
        self._any_answers = True
        self._doubted = time.monotonic()
        self._asked: dict[int, tuple[float, Job, Future[Seen | None]]] = {}
        self._pool = ThreadPoolExecutor(min(len(execution.hosts), MOST_ASKED))
        self._carriers = ThreadPoolExecutor(min(len(execution.hosts), MOST_AT_ONCE))
        self._on_the_way: dict[int, Future[None]] = {}
        self._waited_for: set[int] = set()
        self._jobs = {m: execution.job(m) for m in range(len(execution.hosts))}
        self._next_home = time.monotonic() + self._home_s

    # ------------------------------------------------------------------ start

    def stage(self) -> None:
        """Everything that a machine needs, on its host; raises `RunError` naming the first host
        where that fails."""
        self.execution.make_key()
        self._each(self._stage, "staging files")
        if self.remote and any(host.in_place for host in self.execution.hosts):
            self.execution.remove_key()  # the run folder is on storage that others have too

    def start(self) -> None:
        """Start every machine that was not started before; the walltime counts from now."""
        self.began = time.monotonic()
        self._jobs = {m: self.execution.job(m) for m in self._jobs}
        self._each(lambda m: self.execution.hosts[m].start(self._jobs[m]), "starting")

    def _stage(self, machine: int) -> None:
        """Inputs and key; and what the machine had done, where its host does not have it."""
        execution = self.execution
        host, place, folder = (
            execution.hosts[machine],
            execution.plan.places[machine],
            execution.folder,
        )
        execution.backend.stage(host, execution.plan, machine)
        if not host.in_place:
            names = [entry.name for entry in folder.root.iterdir() if _is_input(entry.name)]
            host.put(folder.root, names, place.root)
            if (former := folder.machine(machine).root).is_dir():
                host.put(folder.root, [former.name], place.root, keep_newer=True)
        if (key := folder.root / KEY_NAME).exists():
            host.put_key(key, place.root)

    # ------------------------------------------------------------------ watch

    def watch(self, watch: Watch) -> float:
        """Wait until all have ended; the seconds since the start.

        A machine that fails ends the run, unless ON_LOSS helps: raises `RunError`.
        """
        limit, next_watch = self.execution.plan.config.walltime_seconds, 0.0
        while True:
            self._look()
            if self._exits():
                self._lose()
                watch(self.execution.statuses())
                continue
            self._welcome()
            self._doubt()
            now, ended = time.monotonic(), self._ended()
            if now >= next_watch or ended:
                watch(self.execution.statuses())
                next_watch = now + WATCH_S
            if ended:
                return time.monotonic() - self.began
            if limit is not None and now - self.began > limit:
                raise RunError(self._too_long())
            self._bring_home_now_and_then()
            time.sleep(PACE_S if self.remote else process.POLL_S)

    def look(self) -> dict[int, Seen | None]:
        """How every machine is at present; None where its host does not answer."""
        self._look()
        return {m: None if m in self._silent_since else self._seen.get(m) for m in self._jobs}

    def _look(self) -> None:
        """Ask every host once; those whose machines have ended only while others are silent.

        Nobody waits for a host that is slow to answer: its answer counts when it is there.
        """
        machines = [m for m in self.execution.machines if self._code(m) is None]
        witnesses = [m for m in self._jobs if m not in machines] if self._silent_since else []
        if not self.remote:
            for machine in machines:
                self._hear(machine, self._poll(machine))
            return
        for machine in (*machines, *witnesses):
            if machine not in self._asked:
                asked = time.monotonic(), self._jobs[machine]
                self._asked[machine] = (*asked, self._pool.submit(self._poll, machine))
        wait([future for _, _, future in self._asked.values()], ANSWER_S)
        self._take_answers()

    def _take_answers(self) -> None:
        """What was said since the last look; who has said nothing is silent since it was asked."""
        answered = False
        for machine, (since, job, future) in list(self._asked.items()):
            if not future.done():
                self._silent_since.setdefault(machine, since)
                continue
            del self._asked[machine]
            seen = future.result()
            answered |= seen is not None
            if job is self._jobs[machine]:  # not of a start that has been given up
                self._hear(machine, seen, since)
        self._any_answers = answered

    def _hear(self, machine: int, seen: Seen | None, since: float = 0.0) -> None:
        if seen is None:
            self._silent_since.setdefault(machine, since)
        else:
            self._silent_since.pop(machine, None)
            self._seen[machine] = seen

    def _poll(self, machine: int) -> Seen | None:
        try:
            seen = self.execution.hosts[machine].poll(self._jobs[machine])
        except (UnreachableError, HostError):
            return None
        if seen.status is not None:
            home = self.execution.folder.machine(machine)
            home.root.mkdir(exist_ok=True)
            with suppress(OSError):
                write_json(home.status, dict(seen.status))
        return seen

    def _code(self, machine: int) -> int | None:
        """A machine's exit code; None while it runs."""
        seen = self._seen.get(machine)
        if seen is None or seen.state == "running":
            return None
        return FORGOTTEN if seen.state == "absent" else seen.code

    def _ended(self) -> bool:
        return all(self._code(m) == 0 for m in self.execution.machines)

    def _silent(self) -> set[int]:
        """Machines whose hosts have not answered for too long, though others do.

        Where nobody answers it is our own connection that is gone: then nothing is known.
        """
        now, limit = time.monotonic(), self.execution.plan.config.HOST_TIMEOUT
        if not self._any_answers:
            return set()
        silent = {m for m, since in self._silent_since.items() if now - since > limit}
        return {m for m in silent if self._code(m) is None}

    def _exits(self) -> dict[int, int]:
        """Exit codes of the machines that failed by now, without those that may be missing."""
        silent = dict.fromkeys(self._silent(), SILENT)
        codes = {m: self._code(m) or silent.get(m, 0) for m in self.execution.machines}
        awaited = self._awaited()
        return {m: code for m, code in codes.items() if code and m not in awaited}

    def _awaited(self) -> set[int]:
        """Machines whose hosts may still be silent.

        While others run, machine 0 keeps WAIT_LIMIT: to it a machine that we cannot reach may be
        well. Once they have ended, it is for us to keep.
        """
        others = [m for m in self.execution.machines if m not in self._waited_for]
        if any(self._code(m) is None for m in others):
            return self._waited_for
        return {m for m in self._waited_for if self._silence_s(m) <= self._patience_s()}

    def _silence_s(self, machine: int) -> float:
        """How long its host has not answered."""
        now = time.monotonic()
        return now - self._silent_since.get(machine, now)

    def _patience_s(self) -> float:
        """How long at most a host is waited for that does not answer."""
        config = self.execution.plan.config
        if config.ON_LOSS != "wait":
            return ALONE_S
        limit = Resilience.wait_limit if config.WAIT_LIMIT is None else config.WAIT_LIMIT
        return config.HOST_TIMEOUT + limit

    def _welcome(self) -> None:
        """Start again the machines whose hosts are back, unless they have gone on by themselves."""
        for machine in self._waited_for - set(self._silent_since):
            self._waited_for.discard(machine)
            if self._code(machine) is not None:
                self._start_again(machine, "its host is back")

    def _doubt(self) -> None:
        """Where no host has answered for long, ask whether they are ours; raises `RunError`.

        If they are, it may be our own connection that is gone. There is nothing to be done, and
        after WAIT_LIMIT, or a day, nobody to be waited for: raises `DetachedError`.
        """
        now, limit = time.monotonic(), self.execution.plan.config.HOST_TIMEOUT
        running = [m for m in self.execution.machines if self._code(m) is None]
        if self._any_answers or not all(m in self._silent_since for m in running):
            self._doubted = now
            return
        if (silence := min(map(self._silence_s, running), default=0.0)) > self._patience_s():
            raise DetachedError(
                f"no host has answered for {seconds_text(silence)}: the run is left to itself"
            )
        if now - self._doubted > limit:
            self._doubted = now
            if not self._held():
                raise RunError(
                    "the machines are not ours any more: their time was over, or somebody has "
                    "given them back; what came home until then is kept"
                )

    # ------------------------------------------------------------------ losses

    def _lose(self) -> None:
        """What ON_LOSS says of the machine that failed; raises `RunError` where it is no help."""
        machine, code = next(iter(self._exits().items()))
        execution = self.execution
        policy, restarts = execution.plan.config.ON_LOSS, execution.restarts(machine)
        if machine == 0 or not self._goes_on(policy, code) or restarts >= MOST_RESTARTS:
            raise self._failure()
        cause = f"{self._named(machine)} was lost, {_describe(code)}"
        if policy == "drop":
            execution.losses.append(Loss(machine, cause))
        elif code == SILENT:
            execution.losses.append(Loss(machine, cause, awaited=True))
            self._waited_for.add(machine)
        else:
            self._start_again(machine, cause)

    def _start_again(self, machine: int, cause: str) -> None:
        execution = self.execution
        restart = execution.restarts(machine) + 1
        execution.losses.append(Loss(machine, cause, restart, MOST_RESTARTS))
        self._jobs[machine] = execution.job(machine, again=self._knows(machine))
        self._seen.pop(machine, None)
        try:
            self._stage(machine)
            execution.hosts[machine].start(self._jobs[machine])
        except (UnreachableError, HostError):
            self._silent_since.setdefault(machine, time.monotonic())

    def _knows(self, machine: int) -> bool:
        """Whether a machine that is started again has anything to go on with."""
        return not self.remote or self.execution.folder.machine(machine).holds_a_run()

    def _goes_on(self, policy: str, code: int) -> bool:
        """Whether the others can do without a machine that ended, for good or until it is back.

        Machine 0 decides: where it ends too, the run has failed. A command that was killed could
        not tell it; one that ended by itself has told it so, and machine 0 gets the time to follow.
        Before training has begun, it does not go on either. A machine 0 that is done without it,
        perhaps before we took the host's silence for a loss, has gone on.
        """
        if policy == "fail" or (policy == "wait" and not _killed(code)):
            return False
        until = time.monotonic() + (TOLD_S if _killed(code) else LINGER_S)
        while time.monotonic() < until and self._code(0) is None:
            if _killed(code) and self._has_begun():
                return True
            time.sleep(process.POLL_S)
            self._look()
        if self._code(0) == 0:
            return policy == "drop"
        return self._code(0) is None and self._has_begun()

    def _has_begun(self) -> bool:
        """Whether training has begun, by machine 0; once there was a loss, it had.

        Its status may be older than the loss, or of the start after it, which notes that there was
        one.
        """
        if self.execution.losses:
            return True
        status = read_status(self.execution.folder.machine(0).status, 0)
        return status.state == "running" or bool(status.notes)

    def _failure(self) -> ConfigError | RunError:
        """Which machine failed, why, and the end of what it printed; the others' ends in a line.

        One that refused what it was given says so by its exit code: then trying again is no help.
        """
        first = self._exits()
        self._linger()
        codes = first | self._exits()
        blamed = _blame(first, codes)
        lines = [self._why(blamed, codes[blamed])]
        lines += [f"before, {loss}" for loss in self.execution.losses]
        lines += [
            f"machine {machine} ended too, {self._cause(machine, code)}"
            for machine, code in codes.items()
            if machine != blamed
        ]
        text = "\n".join(lines)
        return ConfigError(text) if codes[blamed] == EXIT_USAGE else RunError(text)

    def _linger(self) -> None:
        until = time.monotonic() + LINGER_S
        while time.monotonic() < until and any(self._code(m) is None for m in self._jobs):
            time.sleep(process.POLL_S)
            self._look()

    def _why(self, machine: int, code: int) -> str:
        where, told = self._tail(machine)
        shown = "\n".join(f"    {line}" for line in told.splitlines())
        cause = self._cause(machine, code)
        return f"{self._named(machine)} failed, {cause}\n  end of {where}:\n{shown}"

    def _tail(self, machine: int) -> tuple[str, str]:
        """Where a machine's output lies, and its last lines; of a silent host what is home."""
        if machine in self._silent_since:
            home = self.execution.folder.machine(machine).root / STDOUT
            return str(home), process.tail(home, TOLD_LINES)
        log = f"{self._jobs[machine].folder}/{STDOUT}"
        where = f"{self.execution.plan.places[machine].host}:{log}" if self.remote else log
        try:
            return where, self.execution.hosts[machine].tail(self._jobs[machine], TOLD_LINES)
        except (UnreachableError, HostError) as error:
            return where, f"(not to be had: {error})"

    def _cause(self, machine: int, code: int) -> str:
        """How a machine ended, and what it said of it."""
        error = read_status(self.execution.folder.machine(machine).status, machine).error
        return _describe(code) + (f": {error}" if error else "")

    def _named(self, machine: int) -> str:
        return f"machine {machine} ({self.execution.plan.places[machine].host})"

    def _too_long(self) -> str:
        slowest = min(self.execution.statuses(), key=lambda status: status.round_min)
        config = self.execution.plan.config
        return (
            f"the walltime of {config.walltime} is over: machine {slowest.machine} had done "
            f"{slowest.round_min} of {config.NB_ITERATION} iterations; raise walltime in "
            f"{self.execution.plan.config_path}, or leave it out"
        )

    # ------------------------------------------------------------------ end

    def stop(self) -> None:
        """End every machine; returns when none of their processes is left, on hosts that answer."""
        machines = [m for m in self._jobs if m not in self._silent_since] or list(self._jobs)
        hosts, jobs = self.execution.hosts, self._jobs
        self._at_once(lambda m: _quietly(lambda: hosts[m].ask_to_end(jobs[m])), machines)
        self._at_once(lambda m: _quietly(lambda: hosts[m].await_end(jobs[m])), machines)

    def collect(self, finished: bool = True) -> list[str]:
        """Bring everything home; what is missing, in words. What fails is tried again.

        Raises `RunError` for a host that answers and does not give; where none answers; and, of a
        run that has ``finished``, for any host that has what belongs to it.
        """
        machines = list(self._jobs)
        told = dict(zip(machines, self._at_once(self._fetch_patiently, machines), strict=True))
        failed = {m: error for m, error in told.items() if error is not None}
        wanted = [
            m
            for m, error in failed.items()
            if isinstance(error, HostError) or (finished and m not in self.execution.gone)
        ]
        if wanted or (failed and len(failed) == len(machines)):
            raise RunError("\n".join(f"{self._named(m)}: {e}" for m, e in failed.items()))
        missing = [
            f"{self._named(m)} could not be collected: {error}"
            for m, error in failed.items()
            if m not in self.execution.gone
        ]
        return [*missing, *self._without_records(set(failed))]

    def _without_records(self, known: set[int]) -> list[str]:
        if self.execution.plan.config.records_nothing:
            return []
        return [
            f"machine {machine} left no records"
            for machine in self.execution.machines
            if machine not in known and not has_records(self.execution.folder.machine(machine))
        ]

    def _fetch_patiently(self, machine: int) -> UnreachableError | HostError | None:
        """None, or why it could not be done."""
        hopeless = machine in self.execution.gone or machine in self._silent_since
        if not hopeless and machine in self._on_the_way:
            wait([self._on_the_way[machine]])
        for left in reversed(range(1 if hopeless else TRIES)):
            try:
                self._fetch(machine)
            except (UnreachableError, HostError) as error:
                if not left:
                    return error
                time.sleep(RETRY_S)
            else:
                break
        return None

    def _fetch(self, machine: int) -> None:
        home = self.execution.folder.machine(machine).root
        self.execution.hosts[machine].fetch(self._jobs[machine], home)

    def _bring_home_now_and_then(self) -> None:
        """Logs and checkpoints, from the hosts that answer, so that what dies loses little.

        Nobody waits for it here: a host that dies meanwhile is noticed as soon as any other.
        """
        if not self.remote or time.monotonic() < self._next_home:
            return
        self._next_home = time.monotonic() + self._home_s
        for machine in self.execution.machines:
            former = self._on_the_way.get(machine)
            if machine not in self._silent_since and (former is None or former.done()):
                fetch = partial(_quietly, partial(self._fetch, machine))
                self._on_the_way[machine] = self._carriers.submit(fetch)

    def forget(self) -> None:
        """Remove the key everywhere, and the run's folder from hosts that keep copies."""
        hosts, places = self.execution.hosts, self.execution.plan.places
        machines = list(self._jobs)
        self._at_once(lambda m: _quietly(lambda: hosts[m].remove(places[m].root)), machines)
        kept = [m for m in machines if places[m].deposit]
        self._at_once(lambda m: _quietly(lambda: hosts[m].remove(places[m].deposit)), kept)
        self.execution.remove_key()

    def close(self) -> None:
        for pool in (self._pool, self._carriers):
            pool.shutdown(wait=False, cancel_futures=True)
        for host in self.execution.hosts:
            host.close()

    # ------------------------------------------------------------------ hosts

    def _each(self, do: Callable[[int], None], what: str) -> None:
        """Do something on all hosts; raises `RunError` with what failed."""

        def attempt(machine: int) -> str | None:
            try:
                do(machine)
            except (UnreachableError, HostError) as error:
                return f"{self._named(machine)}: {what} failed: {error}"
            return None

        if failed := [told for told in self._at_once(attempt, list(self._jobs)) if told]:
            raise RunError("\n".join(failed))

    def _at_once(self, do: Callable[[int], Result], machines: Iterable[int]) -> list[Result]:
        """On all these machines, at the same time where that takes time."""
        machines = list(machines)
        if not self.remote or len(machines) < 2:
            return [do(machine) for machine in machines]
        with ThreadPoolExecutor(min(len(machines), MOST_AT_ONCE)) as pool:
            return list(pool.map(do, machines))


def _quietly(do: Callable[[], None]) -> None:
    with suppress(UnreachableError, HostError):
        do()


def _is_input(name: str) -> bool:
    """Whether an entry of a run folder is among what machines start from."""
    ours = (KEY_NAME, "ledger.jsonl", "plan.json", "tables", "figures", "results.log")
    return re.fullmatch(r"machine\d+", name) is None and name not in ours


def _killed(code: int) -> bool:
    return code in (SILENT, FORGOTTEN) or (code > 128 and code != EXIT_INTERRUPTED)


def _blame(first: Mapping[int, int], codes: Mapping[int, int]) -> int:
    """A machine that was killed caused the others' failures; else the first that failed."""
    killed = [machine for machine, code in codes.items() if _killed(code)]
    return (killed or list(first))[0]


def _describe(code: int) -> str:
    told = {
        SILENT: "its host does not answer",
        FORGOTTEN: "its host knows nothing of it (did it start anew?)",
        OUT_OF_TIME: "the time of the reservation or of walltime was over",
    }
    return told.get(code) or process.describe_exit(code)
