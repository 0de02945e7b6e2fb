"""This computer as a host: the run folder is used where it lies, and commands end with us."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import TimeoutExpired

from decentralizepy.cpus import allotted
from orchestrator.backends import process
from orchestrator.backends.ports import taken
from orchestrator.backends.process import Guarded
from orchestrator.hosts.base import STDOUT, Facts, Job, Seen


@dataclass
class LocalHost:
    """One emulated machine: an address of the loopback, and commands of ours.

    ``keep`` is a descriptor that its commands' guards keep open (`orchestrator.running.hold`).
    """

    address: str
    keep: int | None = None
    in_place: bool = True
    _jobs: dict[str, Guarded] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.address

    def probe(
        self, offsets: Sequence[int] = (), ports: int = 0, pythons: Sequence[str] = ()
    ) -> Facts:
        free = tuple(o for o in offsets if taken([self.address], o, ports) is None)
        return Facts(allotted(), (self.address,), free)

    def put(
        self, folder: Path, names: Sequence[str], root: str, *, keep_newer: bool = False
    ) -> None:
        """Everything lies here already."""

    def put_key(self, key: Path, root: str) -> None:
        """The machines find it in the run folder, above their own."""

    def start(self, job: Job) -> None:
        """Tied to us rather than detached: on this computer nothing outlives its orchestrator."""
        if job.name in self._jobs:
            return
        folder = Path(job.folder)
        folder.mkdir(exist_ok=True)
        log = folder / STDOUT
        keep = [] if self.keep is None else [self.keep]
        self._jobs[job.name] = process.start(job.command, log, log, job.env, job.grace_s, keep)

    def poll(self, job: Job) -> Seen:
        started = self._jobs.get(job.name)
        if started is None:
            return Seen("absent")
        code = started.poll()
        return Seen("running") if code is None else Seen("ended", code)

    def ask_to_end(self, job: Job) -> None:
        if (started := self._jobs.get(job.name)) is not None:
            started.ask_to_end()

    def await_end(self, job: Job) -> None:
        started = self._jobs.get(job.name)
        if started is None:
            return
        try:
            started.guard.wait(2 * job.grace_s + 5)
        except TimeoutExpired:  # a guard that hangs: its command ends with it
            started.guard.kill()
            started.guard.wait()

    def tail(self, job: Job, lines: int) -> str:
        return process.tail(Path(job.folder) / STDOUT, lines)

    def fetch(self, job: Job, folder: Path) -> None:
        """Everything lies here already."""

    def remove(self, root: str) -> None:
        """The run folder is the result."""

    def close(self) -> None:
        """There is no connection."""
