"""Runs one command and sees to it that nothing of it outlives whoever asked for it.

    python guard.py GRACE_SECONDS COMMAND [ARGUMENT ...]

Its standard input is a pipe that the orchestrator holds: when that closes, by intent or because
the orchestrator was killed, the command gets SIGINT, after the grace SIGTERM, then SIGKILL, and
with it every process that it started, also those that left its process group (on Linux orphans
come back to this process). The exit code is the command's, 128 + number for a signal.

Uses the standard library only, and is run as a file: it must start fast and depend on nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
NOT_STARTED = 127


def main(arguments: list[str]) -> int:
    """Run the command to its end or ours; returns the exit code."""
    grace, command = float(arguments[0]), arguments[1:]
    wake = _wake_on_signals()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_STARTED
    asked = _until_end(child, wake)
    if asked:
        _stop(child, grace)
    _kill_rest(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _wake_on_signals() -> int:
    """A descriptor that becomes readable when a child ends or somebody wants us to end."""
    wake, waker = os.pipe()
    for end in (wake, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _nothing)
    return wake


def _nothing(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor tells."""


def _until_end(child: subprocess.Popen[bytes], wake: int) -> bool:
    """Wait; True when the command is to be ended, False when it ended by itself."""
    while child.poll() is None:
        ready, _, _ = select.select([0, wake], [], [])
        if 0 in ready and not os.read(0, 64):
            return True
        numbers = os.read(wake, 64) if wake in ready else b""
        if set(numbers) - {signal.SIGCHLD}:
            return True
    return False


def _stop(child: subprocess.Popen[bytes], grace: float) -> None:
    """SIGINT to the command, SIGTERM to its group after the grace; the rest is `_kill_rest`."""
    child.send_signal(signal.SIGINT)
    if not _ended(child, grace):
        _signal_group(child.pid, signal.SIGTERM)
        _ended(child, grace)


def _ended(child: subprocess.Popen[bytes], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    return child.poll() is not None


def _kill_rest(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the command and of everything it started."""
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()
    for _ in range(100):  # each round kills one generation; children of the killed come to us
        left = list(_children())
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        _reap(left)


def _reap(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _children() -> Iterator[int]:
    """Our children, by /proc (none elsewhere)."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                yield int(entry.parent.name)


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _die_with_parent() -> None:
    """In the command, before it starts: SIGKILL when this guard is killed.

    Who loses its guard is lost, as a machine that loses its power: it must not say good-bye, for
    that would end the run where machines may be lost.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
