"""Bringing home what machines write: now and then while they run, and all of it at the end."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Final

from decentralizepy.errors import RunError
from decentralizepy.runfolder import has_records
from decentralizepy.text import seconds_text
from orchestrator.hosts.base import HostError, UnreachableError
from orchestrator.running.execution import MOST_AT_ONCE, at_once, quietly
from orchestrator.running.sight import Sight

#: Tries to bring a machine's folder home, and the pause between them.
TRIES: Final = 4
RETRY_S: Final = 3.0


class Homeward:
    """Fetches the folders of the machines that are in sight."""

    def __init__(self, sight: Sight) -> None:
        self._sight, self._execution = sight, sight.execution
        self._pause_s = self._execution.plan.config.COLLECT_AFTER
        self._carriers = ThreadPoolExecutor(min(len(self._execution.hosts), MOST_AT_ONCE))
        self._on_the_way: dict[int, Future[None]] = {}
        self._next = time.monotonic() + self._pause_s
        #: machines whose hosts did not answer when all was to be collected
        self.unreached: set[int] = set()

    def now_and_then(self) -> None:
        """Logs and checkpoints, from the hosts that answer, so that what dies loses little.

        Nobody waits for it here: a host that dies meanwhile is noticed as soon as any other.
        """
        if not self._sight.remote or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._pause_s
        for machine in self._execution.machines:
            former = self._on_the_way.get(machine)
            if machine not in self._sight.silent_since and (former is None or former.done()):
                fetch = partial(quietly, partial(self._fetch, machine))
                self._on_the_way[machine] = self._carriers.submit(fetch)

    def collect(self, finished: bool = True) -> list[str]:
        """Bring everything home; what is missing, in words. What fails is tried again.

        Raises `RunError` for a host that answers and does not give; where none answers; and, of a
        run that has ``finished``, for any host that has what belongs to it.
        """
        execution, machines = self._execution, list(self._sight.jobs)
        told = at_once(execution, self._fetch_patiently, machines)
        failed = {m: why for m, why in zip(machines, told, strict=True) if why is not None}
        self.unreached = {m for m, why in failed.items() if isinstance(why, UnreachableError)}
        wanted = [
            m
            for m, error in failed.items()
            if isinstance(error, HostError) or (finished and m not in execution.gone)
        ]
        if wanted or (failed and len(failed) == len(machines)):
            raise RunError("\n".join(f"{execution.named(m)}: {e}" for m, e in failed.items()))
        missing = [
            f"{execution.named(m)} could not be collected: {error}"
            for m, error in failed.items()
            if m not in execution.gone
        ]
        return [*missing, *self._without_records(set(failed))]

    def _without_records(self, known: set[int]) -> list[str]:
        if self._execution.plan.config.records_nothing:
            return []
        return [
            f"machine {machine} left no records"
            for machine in self._execution.machines
            if machine not in known and not has_records(self._execution.folder.machine(machine))
        ]

    def _fetch_patiently(self, machine: int) -> UnreachableError | HostError | None:
        """None, or why it could not be done; who has been asked in vain for long is not asked."""
        if machine in self._sight.silent():
            silence = seconds_text(self._sight.silence_s(machine))
            return UnreachableError(f"its host has not answered for {silence}")
        hopeless = machine in self._execution.gone or machine in self._sight.silent_since
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
        home = self._execution.folder.machine(machine).root
        self._execution.hosts[machine].fetch(self._sight.jobs[machine], home)

    def close(self) -> None:
        """Fetch no more."""
        self._carriers.shutdown(wait=False, cancel_futures=True)
