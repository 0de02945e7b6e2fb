"""Who works on what, among the processes of one user on one machine.

A lock here saves work and nothing else. File locks cross machines on some network file systems and
not on others, and a machine that dies may keep one for ever; so the lock files lie in the
machine's own temporary folder, and whoever relies on results relies on renames.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from decentralizepy.errors import ConfigError
from decentralizepy.files import expanded, temporary_home
from decentralizepy.locks import lock


@contextmanager
def locked(
    what: Path, progress: Callable[[str], None], purpose: str = "prepares the same data"
) -> Iterator[bool]:
    """Let one process of this machine at a time work on the path `what`, which is not touched.

    Yields False where no lock is to be had: then others may work on it at the same time. The lock
    goes with the process, however that ends. Says so through `progress` when it waits.
    """
    waiting = f"waiting for another process that {purpose} ({what})"
    try:
        path = _lock_file(what)
        handle = _hold(path, waiting, progress)
    except (OSError, ConfigError):
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)  # while it is held, so that nobody else's is removed
        os.close(handle)


def _hold(path: Path, waiting: str, progress: Callable[[str], None]) -> int:
    """A descriptor of the locked file `path`; one that was removed meanwhile does not count."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            lock(handle, lambda: progress(waiting))
            if os.fstat(handle).st_nlink:
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock_file(what: Path) -> Path:
    """A name that no other machine uses, should the temporary folder be shared after all."""
    name = hashlib.sha256(os.fsencode(expanded(what).resolve())).hexdigest()[:16]
    return _lock_folder() / f"{machine_tag()}-{name}.lock"


def _lock_folder() -> Path:
    folder = temporary_home()
    folder.mkdir(mode=0o700, exist_ok=True)
    return temporary_home()  # somebody may have been faster


@functools.cache
def machine_tag() -> str:
    """Eight characters that two processes share when each can see whether the other one lives.

    They stand for this boot of the machine and for the process's view of process ids, which
    differs between containers of one host name.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot, space = socket.gethostname(), ""
    return hashlib.sha256(f"{boot} {space}".encode()).hexdigest()[:8]


def beside(path: Path) -> Path:
    """A new name next to `path`, for writing aside, that tells whether its maker still lives."""
    return path.with_name(f"{path.name}.tmp-{machine_tag()}-{os.getpid()}-{secrets.token_hex(4)}")


def alive(pid: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
