"""A host reached by plain ``ssh`` and ``rsync``, so that the user's own ssh configuration holds.

Every call is one short command; between calls there may be no connection at all. What was started
goes on without us (`orchestrator.hosts.runner`).
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from orchestrator.hosts.base import Facts, HostError, Job, Seen, UnreachableError, await_end
from orchestrator.hosts.code import Bundle, runner

#: Seconds for a connection, between questions to a host that says nothing (it is given up after
#: two), for a short command, and for copying.
CONNECT_S: Final = 10
ALIVE_S: Final = 5
SHORT_S: Final = 40.0
COPY_S: Final = 3600.0
#: The exit code of ssh itself, and that of a host which does not have our runner.
SSH_FAILED: Final = 255
NOT_THERE: Final = 97
#: Codes of rsync: the connection failed, or files vanished while they were copied.
BROKEN: Final = frozenset({5, 10, 12, 30, 35, 255})
VANISHED: Final = 24
#: Ends of names of files that are compressed already, such as containers.
PACKED: Final = "7z/bz2/gz/parquet/pdf/png/sif/xz/zip/zst"
PARTIAL: Final = 23
POLL_S: Final = 0.2
#: Runs in the host's shell: makes our folder, unless somebody else has made it.
FOLDER: Final = (
    'umask 077; mkdir -p "{base}" && [ -O "{base}" ] && [ ! -L "{base}" ] && cd "{base}" || '
    '{{ echo "{base} is not ours" >&2; exit 1; }}; '
)
#: Names the disk below our folder, unless it has a name: of whatever host is first, for all.
STORAGE: Final = (
    'new=".storage.$$.{name}"; echo {name} >"$new" && '
    '{{ ln "$new" .storage 2>/dev/null || mv -n "$new" .storage; }}; rm -f "$new"; cat .storage'
)


class Control:
    """A folder for the sockets of connections that are used again; it goes with its last host."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dpy-"))
        self._hosts = 0

    def join(self) -> None:
        self._hosts += 1

    def leave(self) -> None:
        self._hosts -= 1
        if self._hosts <= 0:
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class SshHost:
    """One machine. ``target`` is what ssh is given, ``base`` our folder on the host's own disk.

    ``options`` go to every ssh command, and before ours; ``control`` has the sockets of connections
    that are used again. ``python`` runs our runner there. All hosts behind a ``gate`` share one
    connection to it, since gateways take only a few.
    """

    target: str
    base: str
    options: tuple[str, ...] = ()
    control: Control | None = None
    python: str = "python3"
    gate: str = ""
    in_place: bool = False

    def __post_init__(self) -> None:
        if self.control is not None:
            self.control.join()

    @property
    def name(self) -> str:
        return self.target

    # ------------------------------------------------------------------ the interface

    def probe(
        self, offsets: Sequence[int] = (), ports: int = 0, pythons: Sequence[str] = ()
    ) -> Facts:
        told = self._ask(
            "probe", offsets=list(offsets), ports=ports, base=self.base, pythons=list(pythons)
        )
        if not told["rsync"]:
            raise HostError("rsync is not installed there")
        return Facts.told(told)

    def put(
        self, folder: Path, names: Sequence[str], root: str, *, keep_newer: bool = False
    ) -> None:
        self._shell(f"{self._in_base()}mkdir -p {shlex.quote(root)}")
        sources = [f"./{name}" for name in names]
        options = ["--update"] if keep_newer else []
        self._rsync([*options, *sources, self._there(root)], cwd=folder)

    def put_key(self, key: Path, root: str) -> None:
        self._ask("key", root=root, key=key.read_text(encoding="ascii"))

    def put_bundle(self, bundle: Bundle, kind: str) -> str:
        """The folder on the host that holds these files; copied only if it is not there."""
        there = f"{kind}/{bundle.digest}"
        folder = f"{self.base}/{there}"
        known = self._shell(f"test -d {shlex.quote(folder)}", check=False)
        if known:
            aside = f"{there}.$$"
            self._shell(
                f"{self._in_base()}mkdir -p {aside} && tar -xzf - -C {aside} && "
                f"mv -T {aside} {there} 2>/dev/null || {{ rm -rf {aside}; test -d {there}; }}",
                bundle.packed(),
                COPY_S,
            )
        return folder

    def call(self, command: Sequence[str]) -> int:
        """Run a short command in our folder; returns its exit code."""
        return self._shell(f"{self._in_base()}exec {shlex.join(command)}", check=False)

    def storage(self) -> str:
        """A name of the disk that our folder lies on; hosts that share it tell the same."""
        return self.output(f"{self._in_base()}{STORAGE.format(name=uuid4().hex)}").strip()

    def put_data(self, folder: Path, names: Sequence[str], root: str) -> None:
        """Copy files and folders to the same places below ``root``; links are followed."""
        self._shell(f"{self._in_base()}mkdir -p {shlex.quote(root)}")
        sources = [f"./{name}" for name in names]
        options = ["--relative", "--copy-links", "--chmod=u+rwX"]
        self._rsync([*options, *sources, self._there(f"{root}/")], cwd=folder)

    def output(self, command: str, data: bytes = b"", seconds: float = SHORT_S) -> str:
        """What a command for the host's shell prints; raises `HostError` if it fails."""
        code, out, err = self._run(command, data, seconds)
        if code:
            raise HostError(_last(err) or f"exit code {code}")
        return out

    def start(self, job: Job) -> None:
        self._ask("start", **asdict(job))

    def poll(self, job: Job) -> Seen:
        told = self._ask("poll", **_named(job))
        return Seen(told["state"], told.get("code"), told.get("status"))

    def ask_to_end(self, job: Job) -> None:
        self._ask("stop", **_named(job))

    def await_end(self, job: Job) -> None:
        await_end(self, job, POLL_S)

    def tail(self, job: Job, lines: int) -> str:
        return str(self._ask("tail", lines=lines, **_named(job))["text"])

    def fetch(self, job: Job, folder: Path) -> None:
        """Sets that are complete now get their ``set.json`` after everything else."""
        sets = self._ask("sets", folder=job.folder)
        if not sets["there"]:  # it never began, or the host was started anew
            return
        folder.mkdir(parents=True, exist_ok=True)
        source = self._there(f"{job.folder}/")
        self._rsync(["--exclude=set.json", "--exclude=*.new", source, f"{folder}/"])
        marks = [f"checkpoints/{name}/set.json" for name in sets["complete"]]
        if marks:
            listed = "\n".join(marks).encode()
            self._rsync(["--files-from=-", source, f"{folder}/"], told=listed, partial=True)
            _tidy(folder / "checkpoints", sets["all"])

    def remove(self, root: str) -> None:
        self._ask("remove", root=root)

    def close(self) -> None:
        if self.control is None:
            return
        ends = [[*self._ssh(), "-O", "exit", self.target]]
        ends += [[*self._to_gate(), "-O", "exit", self.gate]] if self.gate else []
        for command in ends:
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(command, capture_output=True, check=False, timeout=CONNECT_S)
        self.control.leave()

    # ------------------------------------------------------------------ ssh

    def _ask(self, verb: str, **request: Any) -> dict[str, Any]:
        """Let the runner do something; it is copied to the host first where that has none."""
        bundle = runner()
        where = f"{self.base}/runner/{bundle.digest}"
        there = f"cd {shlex.quote(where)} 2>/dev/null || exit {NOT_THERE}"
        command = f"{there}; exec {self.python} runner.py {verb}"
        data = json.dumps(request).encode()
        code, out, err = self._run(command, data, SHORT_S)
        if code == NOT_THERE:
            self.put_bundle(bundle, "runner")
            code, out, err = self._run(command, data, SHORT_S)
        if code:
            raise HostError(_last(err) or f"{verb}: exit code {code}")
        try:
            return dict(json.loads(out))
        except ValueError:
            raise HostError(f"{verb}: an answer that is not understood: {out[:200]!r}") from None

    def _shell(
        self, command: str, data: bytes = b"", seconds: float = SHORT_S, check: bool = True
    ) -> int:
        code, _, err = self._run(command, data, seconds)
        if code and check:
            raise HostError(_last(err) or f"exit code {code}")
        return code

    def _run(self, command: str, data: bytes, seconds: float) -> tuple[int, str, str]:
        """Exit code, output and errors of a command for the host's shell."""
        try:
            done = subprocess.run(
                [*self._ssh(), self.target, command],
                input=data,
                capture_output=True,
                timeout=seconds,
                check=False,
                start_new_session=True,  # Ctrl-C is for us
            )
        except subprocess.TimeoutExpired:
            raise UnreachableError(f"no answer within {seconds:g} s") from None
        except OSError as error:
            raise HostError(f"ssh: {error.strerror}") from None
        err = done.stderr.decode(errors="replace")
        if done.returncode == SSH_FAILED:
            raise UnreachableError(_last(err) or "ssh failed")
        return done.returncode, done.stdout.decode(errors="replace"), err

    def _ssh(self) -> list[str]:
        shared = []
        if self.control is not None:
            path = f"ControlPath={self.control.folder}/%C"
            shared = ["-o", "ControlMaster=auto", "-o", path, "-o", "ControlPersist=60"]
        alive = ["-o", f"ServerAliveInterval={ALIVE_S}", "-o", "ServerAliveCountMax=2"]
        quiet = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "LogLevel=ERROR"]
        through: list[str] = []
        if self.gate:
            command = shlex.join([*self._to_gate(), "-W", "%h:%p", self.gate])
            through = ["-o", f"ProxyCommand={command}"]
        return ["ssh", *self.options, *quiet, *alive, *shared, *through]  # the first one holds

    def _to_gate(self) -> list[str]:
        """The connection that all hosts share."""
        shared: list[str] = []
        if self.control is not None:
            path = f"ControlPath={self.control.folder}/gate"
            shared = ["-o", "ControlMaster=auto", "-o", path, "-o", "ControlPersist=60"]
        quiet = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "LogLevel=ERROR"]
        return ["ssh", *self.options, *quiet, *shared]

    def _rsync(
        self,
        words: Sequence[str],
        cwd: Path | None = None,
        told: bytes = b"",
        partial: bool = False,
    ) -> None:
        """Copy. ``partial``: files that vanish meanwhile are no failure."""
        command = ["rsync", "-rlptz", f"--skip-compress={PACKED}", "--protect-args"]
        command += [f"--timeout={int(SHORT_S)}"]
        try:
            done = subprocess.run(
                [*command, "-e", shlex.join(self._ssh()), *words],
                cwd=cwd,
                input=told,
                capture_output=True,
                timeout=COPY_S,
                check=False,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise HostError("rsync is not installed on this computer") from None
        except subprocess.TimeoutExpired:
            raise UnreachableError(f"copying took more than {COPY_S:g} s") from None
        if done.returncode in ({0, VANISHED, PARTIAL} if partial else {0, VANISHED}):
            return
        text = _last(done.stderr.decode(errors="replace")) or f"rsync: exit code {done.returncode}"
        raise UnreachableError(text) if done.returncode in BROKEN else HostError(text)

    def _there(self, path: str) -> str:
        return f"{self.target}:{path}"

    def _in_base(self) -> str:
        return FOLDER.format(base=self.base)


def _named(job: Job) -> Mapping[str, Any]:
    return {"name": job.name, "root": job.root, "folder": job.folder}


def _tidy(checkpoints: Path, there: Sequence[str]) -> None:
    """Forget the sets at home that the machine has replaced by newer ones."""
    for path in checkpoints.iterdir() if checkpoints.is_dir() else ():
        if path.name not in there:
            shutil.rmtree(path, ignore_errors=True)


def _last(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
