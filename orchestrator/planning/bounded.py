"""Text that users' templates make, within limits of time, memory and size.

What a template can do with a few characters (``{{ 'a' * 10**11 }}``) can't be told from its text,
and not be interrupted in this process. So it is done in a fork with limits of its own, which says
how it went through a pipe.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from decentralizepy.errors import ConfigError

SECONDS: Final = 5.0
#: beyond what the process has already
MEMORY: Final = 256 << 20
SIZE: Final = 1 << 20
_CHUNK: Final = 1 << 16


def bounded(make: Callable[[], str], where: str, seconds: float | None = None) -> str:
    """The text that ``make`` returns; raises `ConfigError`, also the one that ``make`` raises.

    ``where`` begins the messages about its limits. ``seconds``: `SECONDS` by default.
    """
    seconds = SECONDS if seconds is None else seconds
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _in_child(make, write, where, seconds)
    os.close(write)
    try:
        said = _hear(read, time.monotonic() + seconds)
    finally:
        os.close(read)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if said is None:
        raise ConfigError(f"{where} takes more than {seconds:g} s or {SIZE >> 20} MiB of text")
    kind, text = json.loads(said)
    if kind == "error":
        raise ConfigError(text)
    return text


def _in_child(make: Callable[[], str], write: int, where: str, seconds: float) -> NoReturn:
    """Make the text and tell it; whatever happens, this process ends here."""
    try:
        _limit(seconds)
        told = json.dumps(["text", make()])
    except ConfigError as error:
        told = json.dumps(["error", str(error)])
    except MemoryError:
        told = json.dumps(["error", f"{where} takes more than {MEMORY >> 20} MiB of memory"])
    except BaseException as error:
        told = json.dumps(["error", f"{where}: {type(error).__name__}: {error}"])
    try:
        with os.fdopen(write, "w") as out:
            out.write(told)
    finally:
        os._exit(0)


def _limit(seconds: float) -> None:
    """Limit our own memory (where Linux says how much there is) and time."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, hard))
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _hear(read: int, until: float) -> bytes | None:
    """All that the child says; None if that is too much, too late, or nothing."""
    chunks: list[bytes] = []
    size = 0
    while select.select([read], [], [], max(until - time.monotonic(), 0.0))[0]:
        chunk = os.read(read, _CHUNK)
        if not chunk:
            return b"".join(chunks) or None
        chunks.append(chunk)
        size += len(chunk)
        if size > 6 * SIZE:  # as JSON a character takes up to six bytes
            return None
    return None
