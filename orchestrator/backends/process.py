"""Commands that end with us: started through a guard, each in its own session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from decentralizepy.errors import EXIT_INTERRUPTED
from orchestrator.planning.inputs import REPOSITORY, in_repository

GUARD: Final = Path(__file__).resolve().parent / "guard.py"
#: Seconds between SIGINT and SIGTERM, and again until SIGKILL.
GRACE_S: Final = 4.0
POLL_S: Final = 0.05
#: Variables that a command gets from us; everything else of our environment stays here.
PASSED: Final = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "NO_COLOR",
    "TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES", "PYTHONNOUSERSITE", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
})  # fmt: skip
PREFIXES: Final = ("LC_", "XDG_", "DECENTRALIZEPY_", "NVIDIA_")


def environment(ours: Mapping[str, str], search: Iterable[Path] = ()) -> dict[str, str]:
    """What a command sees: places and locale, no thread counts, seeds or credentials.

    Python finds this repository and ``search`` (where the user's own modules lie), and not
    whatever happens to lie in the working directory.
    """
    kept = {k: v for k, v in ours.items() if k in PASSED or k.startswith(PREFIXES)}
    former = [Path(entry) for entry in ours.get("PYTHONPATH", "").split(os.pathsep) if entry]
    ours_first = [REPOSITORY] if in_repository() else []  # else it would go before Python's own
    places = dict.fromkeys(str(path) for path in (*ours_first, *search, *former))
    usable = [place for place in places if os.pathsep not in place]
    return kept | {
        "PYTHONPATH": os.pathsep.join(usable),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }


@dataclass(frozen=True)
class Guarded:
    """A running command; its output is in ``out`` and ``err`` (which may be the same file)."""

    command: tuple[str, ...]
    out: Path
    err: Path
    guard: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        """The exit code, 128 + number for a signal; None while it runs."""
        code = self.guard.poll()
        return code if code is None or code >= 0 else 128 - code

    def ask_to_end(self) -> None:
        """Close the guard's pipe: it ends the command and everything that it started."""
        if self.guard.stdin is not None and not self.guard.stdin.closed:
            self.guard.stdin.close()


def start(
    command: Sequence[str],
    out: Path,
    err: Path,
    env: Mapping[str, str],
    grace_s: float = GRACE_S,
    keep: Sequence[int] = (),
) -> Guarded:
    """Start a command whose output is appended to files.

    The guard, and nothing that it starts, keeps the descriptors ``keep`` open.
    """
    guard = [sys.executable, "-I", "-S", str(GUARD), str(grace_s), *command]
    with out.open("ab") as stdout, err.open("ab") as stderr:
        process = subprocess.Popen(
            guard,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env=dict(env),
            start_new_session=True,
            pass_fds=tuple(keep),
        )
    return Guarded(tuple(command), out, err, process)


def stop(commands: Iterable[Guarded], grace_s: float = GRACE_S) -> None:
    """End commands, all at the same time; returns when none of their processes is left."""
    commands = list(commands)
    for command in commands:
        command.ask_to_end()
    until = time.monotonic() + 2 * grace_s + 5
    for command in commands:
        try:
            command.guard.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:  # a guard that hangs: its command ends with it
            command.guard.kill()
            command.guard.wait()


def wait_all(commands: Sequence[Guarded], tick: Callable[[], None] = lambda: None) -> list[int]:
    """Wait until all have ended or one failed (the others are then ended); their exit codes."""
    try:
        while True:
            codes = [command.poll() for command in commands]
            tick()
            if any(codes) or None not in codes:
                break
            time.sleep(POLL_S)
    finally:
        stop(commands)
    return [code if code is not None else -1 for code in codes]


def tail(path: Path, lines: int) -> str:
    """The last lines of a file, at most 16 kB; empty when there is none."""
    try:
        with path.open("rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(source.tell() - 16_384, 0))
            text = source.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def describe_exit(code: int) -> str:
    """How a command ended, in words.

    The core ends with the code of SIGINT whichever signal interrupts it, and a guard that is asked
    to end passes any signal on as SIGINT: the code does not tell which one it was.
    """
    if code == EXIT_INTERRUPTED:
        return f"interrupted by a signal (exit code {code})"
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"exit code {code}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
