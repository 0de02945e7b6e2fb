"""What is known of the machines of a run: their hosts' answers, and which of them are silent."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Final

from decentralizepy.files import write_json
from decentralizepy.settings import Resilience
from orchestrator.hosts.base import HostError, Job, Seen, UnreachableError
from orchestrator.running.execution import Execution

#: A look waits so long for the hosts that are slow to answer.
ANSWER_S: Final = 2.0
#: Hosts that are asked at the same time, over connections that are there.
MOST_ASKED: Final = 64
#: Unless ON_LOSS is wait, we leave after so long without an answer from any host.
ALONE_S: Final = 86_400.0
#: Stands for the exit code of a machine whose host is silent.
SILENT: Final = -1
#: The same for one whose host no longer knows of it.
FORGOTTEN: Final = -2


class Sight:
    """Asks the hosts of one execution about the newest start of each machine (``jobs``)."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.remote = execution.backend.remote
        self.jobs = {m: execution.job(m) for m in range(len(execution.hosts))}
        self.silent_since: dict[int, float] = {}
        self.any_answers = True
        self._seen: dict[int, Seen] = {}
        self._asked: dict[int, tuple[float, Job, Future[Seen | None]]] = {}
        self._pool = ThreadPoolExecutor(min(len(execution.hosts), MOST_ASKED))

    def look(self) -> None:
        """Ask every host once; those whose machines have ended only while others are silent.

        Nobody waits for a host that is slow to answer: its answer counts when it is there.
        """
        machines = [m for m in self.execution.machines if self.code(m) is None]
        witnesses = [m for m in self.jobs if m not in machines] if self.silent_since else []
        if not self.remote:
            for machine in machines:
                self._hear(machine, self._poll(machine))
            return
        for machine in (*machines, *witnesses):
            if machine not in self._asked:
                asked = time.monotonic(), self.jobs[machine]
                self._asked[machine] = (*asked, self._pool.submit(self._poll, machine))
        wait([future for _, _, future in self._asked.values()], ANSWER_S)
        self._take_answers()

    def _take_answers(self) -> None:
        """What was said since the last look; who has said nothing is silent since it was asked."""
        answered = False
        for machine, (since, job, future) in list(self._asked.items()):
            if not future.done():
                self.silent_since.setdefault(machine, since)
                continue
            del self._asked[machine]
            seen = future.result()
            answered |= seen is not None
            if job is self.jobs[machine]:  # not of a start that has been given up
                self._hear(machine, seen, since)
        self.any_answers = answered

    def _hear(self, machine: int, seen: Seen | None, since: float = 0.0) -> None:
        if seen is None:
            self.silent_since.setdefault(machine, since)
        else:
            self.silent_since.pop(machine, None)
            self._seen[machine] = seen

    def _poll(self, machine: int) -> Seen | None:
        try:
            seen = self.execution.hosts[machine].poll(self.jobs[machine])
        except (UnreachableError, HostError):
            return None
        if seen.status is not None:
            home = self.execution.folder.machine(machine)
            home.root.mkdir(exist_ok=True)
            with suppress(OSError):
                write_json(home.status, dict(seen.status))
        return seen

    def seen(self, machine: int) -> Seen | None:
        """What its host said last; None where it does not answer."""
        return None if machine in self.silent_since else self._seen.get(machine)

    def code(self, machine: int) -> int | None:
        """A machine's exit code; None while it runs."""
        seen = self._seen.get(machine)
        if seen is None or seen.state == "running":
            return None
        return FORGOTTEN if seen.state == "absent" else seen.code

    def forget(self, machine: int, job: Job) -> None:
        """The machine is started anew."""
        self.jobs[machine] = job
        self._seen.pop(machine, None)

    def silent(self) -> set[int]:
        """Machines whose hosts have not answered for too long, though others do.

        Where nobody answers it is our own connection that is gone: then nothing is known.
        """
        limit = self.execution.plan.config.HOST_TIMEOUT
        if not self.any_answers:
            return set()
        return {m for m in self.silent_since if self.silence_s(m) > limit and self.code(m) is None}

    def silence_s(self, machine: int) -> float:
        """How long its host has not answered."""
        now = time.monotonic()
        return now - self.silent_since.get(machine, now)

    def patience_s(self) -> float:
        """How long at most a host is waited for that does not answer."""
        config = self.execution.plan.config
        if config.ON_LOSS != "wait":
            return ALONE_S
        limit = Resilience.wait_limit if config.WAIT_LIMIT is None else config.WAIT_LIMIT
        return config.HOST_TIMEOUT + limit

    def close(self) -> None:
        """Ask no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
