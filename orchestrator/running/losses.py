"""What becomes of a run that has lost a machine: it ends, goes on without it, or waits for it."""

from __future__ import annotations

import time
from typing import Final

from decentralizepy.errors import ConfigError, RunError
from orchestrator.backends import process
from orchestrator.hosts.base import HostError, UnreachableError
from orchestrator.running.blame import describe, failure, killed
from orchestrator.running.execution import Loss
from orchestrator.running.sight import SILENT, Sight
from orchestrator.running.staged import stage
from orchestrator.status import read_status

#: After a first failure the others get this long to end too, so that the cause can be told.
LINGER_S: Final = 2.0
#: Machine 0 says within this time whether training had begun when another machine was lost.
TOLD_S: Final = 10.0
#: How often one machine is started again in a run (ON_LOSS = wait).
MOST_RESTARTS: Final = 3


class Losses:
    """Carries out ON_LOSS for the machines that are in sight."""

    def __init__(self, sight: Sight) -> None:
        self._sight, self._execution = sight, sight.execution
        self._waited_for: set[int] = set()

    def exits(self) -> dict[int, int]:
        """Exit codes of the machines that failed by now, without those that may be missing."""
        silent = dict.fromkeys(self._sight.silent(), SILENT)
        codes = {m: self._sight.code(m) or silent.get(m, 0) for m in self._execution.machines}
        awaited = self._awaited()
        return {m: code for m, code in codes.items() if code and m not in awaited}

    def _awaited(self) -> set[int]:
        """Machines whose hosts may still be silent.

        While others run, machine 0 keeps WAIT_LIMIT: to it a machine that we cannot reach may be
        well. Once they have ended, it is for us to keep.
        """
        sight = self._sight
        others = [m for m in self._execution.machines if m not in self._waited_for]
        if any(sight.code(m) is None for m in others):
            return self._waited_for
        return {m for m in self._waited_for if sight.silence_s(m) <= sight.patience_s()}

    def lose(self) -> None:
        """What ON_LOSS says of the machine that failed; raises `RunError` where it is no help."""
        machine, code = next(iter(self.exits().items()))
        execution = self._execution
        policy, restarts = execution.plan.config.ON_LOSS, execution.restarts(machine)
        if machine == 0 or not self._goes_on(policy, code) or restarts >= MOST_RESTARTS:
            raise self._failure()
        cause = f"{execution.named(machine)} was lost, {describe(code)}"
        if policy == "drop":
            execution.losses.append(Loss(machine, cause))
        elif code == SILENT:
            execution.losses.append(Loss(machine, cause, awaited=True))
            self._waited_for.add(machine)
        else:
            self._start_again(machine, cause)

    def welcome(self) -> None:
        """Start again the machines whose hosts are back, unless they have gone on by themselves."""
        for machine in self._waited_for - set(self._sight.silent_since):
            self._waited_for.discard(machine)
            if self._sight.code(machine) is not None:
                self._start_again(machine, "its host is back")

    def _start_again(self, machine: int, cause: str) -> None:
        execution = self._execution
        restart = execution.restarts(machine) + 1
        execution.losses.append(Loss(machine, cause, restart, MOST_RESTARTS))
        job = execution.job(machine, again=self._knows(machine))
        self._sight.forget(machine, job)
        try:
            stage(execution, machine)
            execution.hosts[machine].start(job)
        except (UnreachableError, HostError):
            self._sight.silent_since.setdefault(machine, time.monotonic())

    def _knows(self, machine: int) -> bool:
        """Whether a machine that is started again has anything to go on with."""
        return not self._sight.remote or self._execution.folder.machine(machine).holds_a_run()

    def _goes_on(self, policy: str, code: int) -> bool:
        """Whether the others can do without a machine that ended, for good or until it is back.

        Machine 0 decides: where it ends too, the run has failed. A command that was killed could
        not tell it; one that ended by itself has told it so, and machine 0 gets the time to follow.
        Before training has begun, it does not go on either. A machine 0 that is done without it,
        perhaps before we took the host's silence for a loss, has gone on.
        """
        sight = self._sight
        if policy == "fail" or (policy == "wait" and not killed(code)):
            return False
        until = time.monotonic() + (TOLD_S if killed(code) else LINGER_S)
        while time.monotonic() < until and sight.code(0) is None:
            if killed(code) and self._has_begun():
                return True
            time.sleep(process.POLL_S)
            sight.look()
        if sight.code(0) == 0:
            return policy == "drop"
        return sight.code(0) is None and self._has_begun()

    def _has_begun(self) -> bool:
        """Whether training has begun, by machine 0; once there was a loss, it had.

        Its status may be older than the loss, or of the start after it, which notes that there was
        one.
        """
        if self._execution.losses:
            return True
        status = read_status(self._execution.folder.machine(0).status, 0)
        return status.state == "running" or bool(status.notes)

    def _failure(self) -> ConfigError | RunError:
        """Of the machines that have failed, once the others had the time to end too."""
        first = self.exits()
        until = time.monotonic() + LINGER_S
        while time.monotonic() < until and any(
            self._sight.code(m) is None for m in self._sight.jobs
        ):
            time.sleep(process.POLL_S)
            self._sight.look()
        return failure(self._sight, first, first | self.exits())
