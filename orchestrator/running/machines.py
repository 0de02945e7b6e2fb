"""A run on its machines: get them, run, bring everything home, and give them back in any case."""

from __future__ import annotations

from collections.abc import Sequence

from decentralizepy.errors import RunError
from decentralizepy.interrupts import Interrupts
from decentralizepy.runfolder import RunFolder
from orchestrator.backends.base import Allocation, Backend, Loss, Watch
from orchestrator.planning.plan import Plan
from orchestrator.running.ledger import Ledger, read_ledger
from orchestrator.running.progress import Progress, progress_for
from orchestrator.status import Status
from orchestrator.text import Screen


class Machines:
    """What a back-end does for one run; the ledger tells how far it came."""

    def __init__(
        self, plan: Plan, folder: RunFolder, backend: Backend, interrupts: Interrupts, hold: int
    ) -> None:
        self._backend, self._interrupts = backend, interrupts
        self._ledger = Ledger(folder.ledger)
        self._allocation = Allocation(plan, folder, hold=hold)

    def run(self, screen: Screen) -> tuple[float, list[str]]:
        """Run to the end; the seconds taken, and what is missing of the files, in words."""
        try:
            self._get()
            seconds = self._finished(screen)
            return seconds, self._collected()
        finally:
            self._release()

    def collect(self) -> list[str]:
        """Bring home what a run that has finished left; returns what is missing."""
        try:
            return self._collected()
        finally:
            self._release()

    def _get(self) -> None:
        allocation, plan = self._allocation, self._allocation.plan
        began = "resumed" if read_ledger(allocation.folder.ledger) else "planned"
        config = str(plan.config_path)
        self._ledger.append(began, job_name=plan.config.job_name, config=config)
        try:
            self._backend.allocate(allocation)
        except BaseException as error:
            self._ledger.append("failed", error=_told(error))
            raise

    def _finished(self, screen: Screen) -> float:
        """Run, and collect what there is if that fails."""
        plan = self._allocation.plan
        try:
            name, addresses = self._backend.name, plan.site.addresses
            self._ledger.append("submitted", backend=name, addresses=addresses)
            with progress_for(screen, plan.config.NB_ITERATION) as progress:
                self._ledger.append("started", commands=len(plan.machines))
                seconds = self._backend.run(self._allocation, self._watch(progress))
            self._ledger.append("finished", seconds=round(seconds, 3))
        except BaseException as error:
            self._ledger.append("failed", error=_told(error))
            self._collect_remains()
            raise
        return seconds

    def _collected(self) -> list[str]:
        try:
            with self._interrupts.allowed():
                missing = self._backend.collect(self._allocation)
        except Exception as error:
            self._ledger.append("failed", error=f"collecting: {_told(error)}")
            raise RunError(
                f"the run has finished, but collecting failed: {_told(error)}"
            ) from error
        self._ledger.append("collected", missing=missing)
        return missing

    def _collect_remains(self) -> None:
        """Of a run that failed: why that is not possible must not hide why the run failed."""
        try:
            with self._interrupts.allowed():
                self._ledger.append("collected", missing=self._backend.collect(self._allocation))
        except (Exception, KeyboardInterrupt) as error:
            self._ledger.append("failed", error=f"collecting: {_told(error)}")

    def _release(self) -> None:
        self._backend.release(self._allocation)
        self._ledger.append("released")

    def _watch(self, progress: Progress) -> Watch:
        """Show where the machines are, and tell the ledger of those that were lost."""
        told: list[Loss] = []

        def watch(statuses: Sequence[Status]) -> None:
            for loss in self._allocation.losses[len(told) :]:
                self._tell(loss)
                told.append(loss)
            progress.update(statuses, [str(loss) for loss in told])

        return watch

    def _tell(self, loss: Loss) -> None:
        event, more = ("restarted", {"restart": loss.restart}) if loss.restart else ("lost", {})
        self._ledger.append(event, machine=loss.machine, cause=loss.cause, **more)


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__
