"""What supervision needs of a machine, wherever it is: a few calls, each one safe to repeat."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

#: Output of a machine's command, in its folder.
STDOUT: Final = "stdout.log"
#: Exit code of a command that was ended because its deadline had come (as ``timeout`` gives it).
OUT_OF_TIME: Final = 124


class UnreachableError(Exception):
    """A host does not answer now; nothing is known about what runs there."""


class HostError(Exception):
    """A host answers, but could not do what it was asked to; the text says why."""


@dataclass(frozen=True)
class Facts:
    """What a host tells of itself, and which of the ports asked for are free there."""

    cpus: int
    addresses: tuple[str, ...] = ()
    free_offsets: tuple[int, ...] = ()
    free_bytes: int | None = None
    python: str = ""
    hostname: str = ""
    home: str = ""

    @classmethod
    def told(cls, told: Mapping[str, Any]) -> Facts:
        """As `orchestrator.hosts.runner` answers a probe."""
        return cls(
            cpus=int(told["cpus"]),
            addresses=tuple(told["addresses"]),
            free_offsets=tuple(told["free_offsets"]),
            free_bytes=int(told["free_bytes"]),
            python=str(told["python"]),
            hostname=str(told["hostname"]),
            home=str(told["home"]),
        )


@dataclass(frozen=True)
class Job:
    """One start of one machine's command.

    ``name`` is unique in a run: whoever starts a job of the same name again starts nothing.
    ``root`` is the run's folder on the host, ``folder`` the machine's in it. At ``deadline``
    (seconds since the epoch) the host ends the command by itself. What is in ``folder`` is copied
    every ``deposit_s`` seconds, and at the end, to ``deposit``, which outlives the host.
    """

    name: str
    command: tuple[str, ...]
    root: str
    folder: str
    env: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None
    grace_s: float = 4.0
    deposit: str = ""
    deposit_s: float = 60.0


@dataclass(frozen=True)
class Seen:
    """What a host says of a job, and the machine's ``status.json`` where that is not here."""

    state: Literal["absent", "running", "ended"]
    code: int | None = None
    status: Mapping[str, Any] | None = None


class Host(Protocol):
    """One machine. Calls raise `UnreachableError` or `HostError`; all may be repeated."""

    @property
    def name(self) -> str:
        """As people know it."""

    @property
    def in_place(self) -> bool:
        """Whether the run folder itself is used there, so that nothing is copied."""

    def probe(
        self, offsets: Sequence[int] = (), ports: int = 0, pythons: Sequence[str] = ()
    ) -> Facts:
        """CPUs, addresses, from which of ``offsets`` on so many ports are free, and the first of
        ``pythons`` that has what the core needs."""

    def put(
        self, folder: Path, names: Sequence[str], root: str, *, keep_newer: bool = False
    ) -> None:
        """Copy files and folders of ``folder`` into ``root``, which is made for us alone.

        ``keep_newer``: files that are newer there stay.
        """

    def put_key(self, key: Path, root: str) -> None:
        """Copy the run key to the host's own disk, readable by us alone, where a machine of the
        run in ``root`` finds it."""

    def start(self, job: Job) -> None:
        """Start a job detached from us, unless it was started before."""

    def poll(self, job: Job) -> Seen:
        """How the job is."""

    def ask_to_end(self, job: Job) -> None:
        """Ask a job to end, with all that it started; returns at once."""

    def await_end(self, job: Job) -> None:
        """Wait until a job that was asked to end has ended; it is killed after two graces."""

    def tail(self, job: Job, lines: int) -> str:
        """The last lines that a job has printed."""

    def fetch(self, job: Job, folder: Path) -> None:
        """Bring the machine's folder home into ``folder``; ``set.json`` of checkpoints last."""

    def remove(self, root: str) -> None:
        """Remove the run's folder and key from a host that keeps copies."""

    def close(self) -> None:
        """End connections; what runs there goes on."""


def await_end(host: Host, job: Job, pause_s: float) -> None:
    """Poll a job that was asked to end until it has; raises `HostError` if it does not."""
    until = time.monotonic() + 2 * job.grace_s + 10
    while host.poll(job).state == "running":
        if time.monotonic() > until:
            raise HostError(f"{job.name} does not end")
        time.sleep(pause_s)
