"""How many files a process may have open, which sockets and pipes count as."""

from __future__ import annotations

import resource
from typing import Final

from decentralizepy.errors import ConfigError

#: of a supervisor or a worker, however small the run: libraries, data, records, ZeroMQ's own
_BASE: Final = 48
_PER_PEER: Final = 6
_PER_WORKER: Final = 4
_PER_MACHINE: Final = 2


def files_of_machine(machines: int, workers: int) -> int:
    """Open files that a process of a machine needs at most, with as many workers on the others."""
    others = (machines - 1) * workers
    return _BASE + _PER_PEER * others + _PER_WORKER * workers + _PER_MACHINE * machines


def files_of_orchestrator(machines: int) -> int:
    """Open files that whoever starts and watches all machines of a run needs at most."""
    return _BASE // 2 + _PER_MACHINE * machines


def allow_files(needed: int) -> None:
    """Raise our own limit of open files as far as is needed, also for what we start.

    Raises `ConfigError` where the administrator's limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _enough(soft, needed):
        return
    if not _enough(hard, needed):
        raise ConfigError(
            f"this run needs {needed} open files per process, and only {hard} are allowed: "
            "raise the limit (ulimit -n, LimitNOFILE), or take fewer workers and machines"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _enough(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
