"""A node of a cluster that has a folder in common with us: an agent there does what we write.

The run folder itself lies on that common storage, so nothing is copied; only the run key, which has
no business there, goes to the node's own disk, through the scheduler.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from decentralizepy.jsonfile import read_object
from decentralizepy.locks import lock_within
from orchestrator.backends.process import tail
from orchestrator.hosts.base import STDOUT, Facts, HostError, Job, Seen, UnreachableError, await_end
from orchestrator.hosts.ssh import COPY_S, FOLDER, STORAGE

#: Seconds within which an agent answers.
ANSWER_S: Final = 30.0
POLL_S: Final = 0.05
KEY: Final = 'umask 077; mkdir -p "$1" && chmod 700 "$1" && rm -f "$1/run.key" && cat >"$1/run.key"'
#: Copies the further names from the first folder to the second.
COPY: Final = (
    'cd "$1" || {{ echo "$1 is not on a storage that the nodes see" >&2; exit 1; }}; '
    'mkdir -p "$2" && to=$2 && shift 2 && '
    'exec cp -RL --parents --remove-destination --preserve=timestamps -- "$@" "$to"'
).format()


@dataclass
class SharedHost:
    """One node. ``folder`` is the agent's, ``local`` ours on the node's own disk.

    ``step`` is a command that runs another one on this node, with our standard input.
    """

    name: str
    folder: Path
    local: str
    step: tuple[str, ...]
    in_place: bool = True
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(time.time_ns()))

    def ready(self) -> bool:
        """Whether the agent has said that it is there."""
        return bool(read_object(self.folder / "answer"))

    def probe(
        self, offsets: Sequence[int] = (), ports: int = 0, pythons: Sequence[str] = ()
    ) -> Facts:
        told = self._ask(
            "probe", offsets=list(offsets), ports=ports, base="/tmp", pythons=list(pythons)
        )
        return Facts.told(told)

    def put(
        self, folder: Path, names: Sequence[str], root: str, *, keep_newer: bool = False
    ) -> None:
        """The node sees the run folder."""

    def put_key(self, key: Path, root: str) -> None:
        command = [*self.step, "sh", "-c", KEY, "key", self._key_folder(root)]
        done = subprocess.run(
            command, input=key.read_bytes(), capture_output=True, check=False, timeout=60
        )
        if done.returncode:
            raise HostError(f"staging the key failed: {done.stderr.decode(errors='replace')}")

    def call(self, command: Sequence[str]) -> int:
        """Run a short command in our folder on the node; returns its exit code."""
        return self._stepped('exec "$@"', command).returncode

    def storage(self) -> str:
        """A name of the disk that our folder lies on; nodes that share it tell the same."""
        return self._checked(STORAGE.format(name=uuid4().hex), ()).strip()

    def put_data(self, folder: Path, names: Sequence[str], root: str) -> None:
        """The node itself copies what lies on the common storage."""
        self._checked(COPY, (str(folder), root, *names), COPY_S)

    def _checked(self, script: str, words: Sequence[str], seconds: float = 60) -> str:
        done = self._stepped(script, words, seconds)
        if done.returncode:
            raise HostError(done.stderr.strip() or f"exit code {done.returncode}")
        return done.stdout

    def _stepped(
        self, script: str, words: Sequence[str], seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a script for the node's shell in our folder there."""
        command = [*self.step, "sh", "-c", FOLDER.format(base=self.local) + script, "sh", *words]
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise UnreachableError(f"no answer within {seconds:g} s") from None

    def key_of(self, root: str) -> str:
        """Where the key of a run is on the node."""
        return f"{self._key_folder(root)}/run.key"

    def start(self, job: Job) -> None:
        self._ask("start", **asdict(job), jobs=f"{self.local}/jobs/{Path(job.root).name}")

    def poll(self, job: Job) -> Seen:
        told = self._ask("poll", **self._named(job))
        return Seen(told["state"], told.get("code"))

    def ask_to_end(self, job: Job) -> None:
        self._ask("stop", **self._named(job))

    def await_end(self, job: Job) -> None:
        await_end(self, job, 4 * POLL_S)

    def tail(self, job: Job, lines: int) -> str:
        return tail(Path(job.folder) / STDOUT, lines)

    def fetch(self, job: Job, folder: Path) -> None:
        """The node writes into the run folder."""

    def remove(self, root: str) -> None:
        for path in (self._key_folder(root), f"{self.local}/jobs/{Path(root).name}"):
            self._ask("remove", root=path)

    def close(self) -> None:
        """There is no connection."""

    def _key_folder(self, root: str) -> str:
        return f"{self.local}/runs/{Path(root).name}"

    def _named(self, job: Job) -> Mapping[str, Any]:
        return {
            "name": job.name, "root": job.root, "folder": job.folder,
            "jobs": f"{self.local}/jobs/{Path(job.root).name}",
        }  # fmt: skip

    def _ask(self, verb: str, **content: Any) -> dict[str, Any]:
        request = self.folder / "request"
        if not request.exists():
            raise UnreachableError("its agent has not started")
        with self._turn():
            number = next(self._numbers)
            request.write_text(json.dumps({"number": number, "verb": verb, "content": content}))
            return self._answer(number)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One question at a time: runs of a sweep, and other commands, ask the same agent."""
        handle = os.open(self.folder / "turn", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _locked(handle):
                raise UnreachableError(f"its agent has been busy for {ANSWER_S:g} s")
            yield
        finally:
            os.close(handle)

    def _answer(self, number: int) -> dict[str, Any]:
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            answer = read_object(self.folder / "answer")
            if answer.get("number") == number:
                if "error" in answer:
                    raise HostError(str(answer["error"]))
                return dict(answer["told"])
            time.sleep(POLL_S)
        raise UnreachableError(f"its agent has not answered within {ANSWER_S:g} s")


def _locked(handle: int) -> bool:
    """Whether it is our turn; always on a storage without locks."""
    try:
        return lock_within(handle, ANSWER_S)
    except OSError:
        return True
