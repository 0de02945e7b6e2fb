"""Supervision of a run on its hosts, the same for all places: start, watch, end.

What is known of the machines is in `sight`, what becomes of losses in `losses`, and how files come
home in `homeward`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from decentralizepy.errors import RunError
from decentralizepy.text import seconds_text
from orchestrator.backends import process
from orchestrator.errors import DetachedError
from orchestrator.hosts.base import HostError, Seen, UnreachableError
from orchestrator.running.blame import killed
from orchestrator.running.execution import Execution, at_once, quietly
from orchestrator.running.homeward import Homeward
from orchestrator.running.losses import Losses
from orchestrator.running.sight import Sight
from orchestrator.running.staged import stage
from orchestrator.status import Status

#: Called about twice a second with the status of every machine.
Watch = Callable[[Sequence[Status]], None]

WATCH_S: Final = 0.5
#: Pause between two looks at hosts that have to be asked.
PACE_S: Final = 1.0


class Fleet:
    """The machines of one execution; ``held`` says whether they are still ours."""

    def __init__(
        self, execution: Execution, elapsed_s: float = 0.0, held: Callable[[], bool] = lambda: True
    ) -> None:
        self.execution = execution
        self._held = held
        self.began = time.monotonic() - elapsed_s
        self.remote = execution.backend.remote
        self._sight = Sight(execution)
        self._losses = Losses(self._sight)
        self._homeward = Homeward(self._sight)
        self._doubted = time.monotonic()

    # ------------------------------------------------------------------ start

    def stage(self) -> None:
        """Everything that a machine needs, on its host; raises `RunError` naming the first host
        where that fails."""
        self.execution.make_key()
        self._each(lambda m: stage(self.execution, m), "staging files")
        if self.remote and any(host.in_place for host in self.execution.hosts):
            self.execution.remove_key()  # the run folder is on storage that others have too

    def start(self) -> None:
        """Start every machine that was not started before; the walltime counts from now."""
        self.began = time.monotonic()
        jobs, hosts = self._sight.jobs, self.execution.hosts
        jobs |= {m: self.execution.job(m) for m in jobs}
        self._each(lambda m: hosts[m].start(jobs[m]), "starting")

    def _each(self, do: Callable[[int], None], what: str) -> None:
        """Do something on all hosts; raises `RunError` with what failed."""

        def attempt(machine: int) -> str | None:
            try:
                do(machine)
            except (UnreachableError, HostError) as error:
                return f"{self.execution.named(machine)}: {what} failed: {error}"
            return None

        told = at_once(self.execution, attempt, self._sight.jobs)
        if failed := [one for one in told if one]:
            raise RunError("\n".join(failed))

    # ------------------------------------------------------------------ watch

    def watch(self, watch: Watch) -> float:
        """Wait until all have ended; the seconds since the start.

        A machine that fails ends the run, unless ON_LOSS helps: raises `RunError`.
        """
        limit, next_watch = self.execution.plan.config.walltime_seconds, 0.0
        while True:
            self._sight.look()
            if failed := self._losses.exits():
                if self.remote and any(map(killed, failed.values())):
                    self._ask_whether_held()
                self._losses.lose()
                watch(self.execution.statuses())
                continue
            self._losses.welcome()
            self._doubt()
            now, ended = time.monotonic(), self._ended()
            if now >= next_watch or ended:
                watch(self.execution.statuses())
                next_watch = now + WATCH_S
            if ended:
                return time.monotonic() - self.began
            if limit is not None and now - self.began > limit:
                raise RunError(self._too_long())
            self._homeward.now_and_then()
            time.sleep(PACE_S if self.remote else process.POLL_S)

    def look(self) -> dict[int, Seen | None]:
        """How every machine is at present; None where its host does not answer."""
        self._sight.look()
        return {m: self._sight.seen(m) for m in self._sight.jobs}

    def _ended(self) -> bool:
        return all(self._sight.code(m) == 0 for m in self.execution.machines)

    def _doubt(self) -> None:
        """Where no host has answered for long, ask whether they are ours; raises `RunError`.

        If they are, it may be our own connection that is gone. There is nothing to be done, and
        after WAIT_LIMIT, or a day, nobody to be waited for: raises `DetachedError`.
        """
        sight, now = self._sight, time.monotonic()
        running = [m for m in self.execution.machines if sight.code(m) is None]
        if sight.any_answers or not all(m in sight.silent_since for m in running):
            self._doubted = now
            return
        if (silence := min(map(sight.silence_s, running), default=0.0)) > sight.patience_s():
            raise DetachedError(
                f"no host has answered for {seconds_text(silence)}: the run is left to itself"
            )
        if now - self._doubted > self.execution.plan.config.HOST_TIMEOUT:
            self._doubted = now
            self._ask_whether_held()

    def _ask_whether_held(self) -> None:
        """Whoever has ended the job has ended all machines, if not all at once: no host is to
        blame. Raises `RunError`."""
        if not self._held():
            raise RunError(
                "the machines are not ours any more: their time was over, or somebody has "
                "given them back; what came home until then is kept"
            )

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
        jobs, silent = self._sight.jobs, self._sight.silent_since
        machines = [m for m in jobs if m not in silent] or list(jobs)
        hosts, all_of = self.execution.hosts, self.execution
        at_once(all_of, lambda m: quietly(lambda: hosts[m].ask_to_end(jobs[m])), machines)
        at_once(all_of, lambda m: quietly(lambda: hosts[m].await_end(jobs[m])), machines)

    def collect(self, finished: bool = True) -> list[str]:
        """As `Homeward.collect`."""
        return self._homeward.collect(finished)

    def forget(self) -> list[str]:
        """Remove the key everywhere, and the run's folder from hosts that keep copies.

        Returns what may be left, in words. Hosts that could not be reached when all was collected
        are not asked again.
        """
        left = set(self._homeward.unreached)
        machines = [m for m in self._sight.jobs if m not in left]
        told = at_once(self.execution, self._removed, machines)
        left |= {m for m, removed in zip(machines, told, strict=True) if not removed}
        self.execution.remove_key()
        return [
            f"{self.execution.named(m)} does not answer: the run's folder and key may still be "
            "there"
            for m in sorted(left)
        ]

    def _removed(self, machine: int) -> bool:
        """Whether its host could be asked to remove what is there."""
        host, place = self.execution.hosts[machine], self.execution.plan.places[machine]
        try:
            for path in filter(None, (place.root, place.deposit)):
                with suppress(HostError):
                    host.remove(path)
        except UnreachableError:
            return False
        return True

    def close(self) -> None:
        self._sight.close()
        self._homeward.close()
        for host in self.execution.hosts:
            host.close()
