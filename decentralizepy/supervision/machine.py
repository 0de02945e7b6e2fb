"""A machine's supervisor: starts its workers, watches them, agrees with the other machines.

It never trains and never loads torch, so it answers at once, whatever the workers do. Whatever
happens, no process is left behind and the records written so far are turned into results.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decentralizepy.communication import ports
from decentralizepy.datasets.experiment import partition, prepared_dataset
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.limits import allow_files, files_of_machine
from decentralizepy.runfolder import write_legacy_results
from decentralizepy.settings import Settings
from decentralizepy.supervision import provenance
from decentralizepy.supervision.attempt import Attempt
from decentralizepy.supervision.control import ControlPlane, connect
from decentralizepy.supervision.progress import Progress, say
from decentralizepy.supervision.status import Status
from decentralizepy.supervision.workers import Server
from decentralizepy.usage import sampling
from decentralizepy.words import Failed


class Supervisor:
    """Runs one machine's part of an experiment."""

    def __init__(self, settings: Settings, flags: dict[str, Any]) -> None:
        self.settings, self.flags = settings, flags
        self.status = Status(settings)
        self._progress = Progress()
        self._server: Server
        self._attempt: Attempt | None = None

    def run(self) -> None:
        """Run to the end; raises `ConfigError`, `RunError` or KeyboardInterrupt."""
        allow_files(files_of_machine(len(self.settings.addresses), self.settings.workers))
        self._check_ports()
        folder = self.settings.log_dir
        made = provenance.missing_folders(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._no_room(error) from None
        with provenance.held(folder):
            self._run(made)

    def _no_room(self, error: OSError) -> RunError:
        return RunError(
            f"cannot write {self.settings.log_dir}: {error.strerror}: make room there, or choose "
            "another folder (-ld)"
        )

    def _run(self, made: Sequence[Path]) -> None:
        try:
            self.settings = provenance.begin(self.settings, self.flags)
        except OSError as error:
            provenance.withdraw(self.settings, made)
            raise self._no_room(error) from None
        settings = self.settings
        self.status.attempt = settings.attempt
        self._server = Server(settings.threads, settings.experiment.optimizer.target)
        try:
            control = connect(self.settings)
        except ConfigError:
            self._server.stop()
            if self._is_new:
                provenance.withdraw(self.settings, made)
            raise
        outcome = "failed"
        try:
            with sampling(settings.folder.usage, settings.usage_after, self._elapsed):
                self._prepare_data()
                self._attempts(control)
            outcome = "done"
        except KeyboardInterrupt:
            outcome = "interrupted"
            self._tell_failure(control, "it was interrupted")
            raise
        except (ConfigError, RunError) as error:
            self.status.error = str(error)
            if isinstance(error, ConfigError) and self._is_new:
                outcome = "refused"
            self._tell_failure(control, str(error), isinstance(error, ConfigError))
            raise
        finally:
            self._finish(control, outcome, () if outcome != "refused" else made)

    def _elapsed(self) -> float | None:
        """Seconds of training; None before it."""
        return None if self.status.began is None else self.status.seconds

    def _attempts(self, control: ControlPlane) -> None:
        """Start the workers, and again after each rollback, until the run is over."""
        settings, number = self.settings, None
        digests = provenance.digests(settings, self.flags)
        while True:
            self._attempt = Attempt(settings, digests, control, self.status, self._progress)
            number = self._attempt.run(self._server, number)
            if number is None:
                return
            settings = dataclasses.replace(settings, attempt=settings.attempt + 1)
            self.status.attempt = settings.attempt

    def _check_ports(self) -> None:
        """Whether our ports can be had, before anything is written; if not, tell machine 0."""
        settings = self.settings
        place = (settings.addresses, settings.experiment.offset, settings.machine)
        try:
            ports.require_free(*place, settings.workers)
        except ConfigError as error:
            if settings.machine != 0:
                control = connect(settings)
                self._tell_failure(control, str(error), config=True)
                control.close()
            raise

    def _prepare_data(self) -> None:
        """Prepare the data set once, while the server of the workers still loads torch."""
        settings = self.settings
        dataset = prepared_dataset(settings.experiment, settings.cache_dir, progress=say)
        partition(dataset, settings.mapping.n, settings.experiment)

    def _tell_failure(self, control: ControlPlane, why: str, config: bool = False) -> None:
        if self._attempt is None or not self._attempt.over:
            text = why if why.startswith("machine ") else f"machine {self.settings.machine}: {why}"
            control.say(Failed(text[:4000], config))

    @property
    def _is_new(self) -> bool:
        """Whether nothing was trained in the log folder, now or before."""
        return self.status.began is None and not self.settings.attempt

    def _finish(self, control: ControlPlane, outcome: str, made: Sequence[Path]) -> None:
        self.status.transport.add({"refused": dict(control.refused)})
        control.close()
        self._server.stop()
        if outcome == "refused":  # bad input leaves nothing half-written behind
            self.status.write("failed")
            provenance.withdraw(self.settings, made)
            return
        if not self.settings.log_dir.is_dir():
            return
        why = self._results()
        failed = why is not None and outcome == "done"
        if failed:
            outcome, self.status.error = "failed", why
        self.status.write(outcome)
        self._progress.end(self.status.value(outcome), self.settings.log_dir)
        try:
            provenance.end(self.settings, outcome, self.status)
        except (OSError, ValueError) as error:
            why, failed = why or self._unwritten(error), failed or outcome == "done"
        if failed:
            raise RunError(why)
        if why is not None:
            print(why, file=sys.stderr)  # beside what has ended the run

    def _results(self) -> str | None:
        """Derive the results from the records; why not, if that fails."""
        try:
            write_legacy_results(self.settings.folder)
        except (OSError, ValueError) as error:
            return self._unwritten(error)
        return None

    def _unwritten(self, error: Exception) -> str:
        why = getattr(error, "strerror", None) or error
        return f"cannot write the results in {self.settings.log_dir}: {why}; records are whole"
