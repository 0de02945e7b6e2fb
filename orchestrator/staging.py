"""Data sets on the machines: copied to each storage once, under a name made of their content.

They stay there for later runs, beside the cache of prepared data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Final, Protocol, runtime_checkable

from decentralizepy.text import bytes_text
from orchestrator.hosts.base import HostError, UnreachableError
from orchestrator.planning.data import KEY, Data

#: One copy at a time to each storage, of whatever has a name there.
_TURNS: Final[defaultdict[tuple[str, str], Lock]] = defaultdict(Lock)


@runtime_checkable
class Store(Protocol):
    """A host that keeps copies. All calls may be repeated."""

    def call(self, command: Sequence[str]) -> int:
        """Run a short command there; returns its exit code."""

    def storage(self) -> str:
        """A name of the disk that our folder lies on; hosts that share it tell the same."""

    def put_data(self, folder: Path, names: Sequence[str], root: str) -> None:
        """Copy files and folders below ``folder`` to the same places below ``root``; links are
        followed, times kept, and what is there already is not copied again."""


def stage(data: Data, host: Store) -> None:
    """See to it that a host has the data; raises `HostError` or `UnreachableError`."""
    if not data.copied:
        _look_for(data, host)
    elif not _is_there(data, host):
        with turn(host, data.root):
            if not _is_there(data, host):
                _copy(data, host)


def problem(data: Data, host: Store, free_bytes: int | None) -> str:
    """Why a host could not get the data; empty if it has it, or has room for it. Copies nothing."""
    try:
        if not data.copied:
            _look_for(data, host)
        elif free_bytes is not None and free_bytes < data.bytes and not _is_there(data, host):
            return (
                f"{bytes_text(data.bytes)} are copied to {data.root} before a run, and "
                f"{bytes_text(free_bytes)} are free: make room, or name another folder by the key "
                "HOST_DIR"
            )
    except (HostError, UnreachableError) as error:
        return str(error)
    return ""


def turn(host: Store, path: str) -> Lock:
    """Held by the one who copies to a path of a storage."""
    return _TURNS[host.storage(), path]


def _look_for(data: Data, host: Store) -> None:
    for name in data.names:
        path = f"{data.root}/{name}"
        if host.call(["test", "-e", path]):
            raise HostError(f"{KEY}: there is no {path} on this host")


def _is_there(data: Data, host: Store) -> bool:
    return host.call(["test", "-d", data.root]) == 0


def _copy(data: Data, host: Store) -> None:
    """Aside, and renamed when whole; an interrupted copy is continued by the next one."""
    aside = f"{data.root}.arriving"
    _check_unchanged(data)
    try:
        host.put_data(data.source, data.names, aside)
    except HostError:
        if _is_there(data, host):  # another process was faster
            return
        raise
    try:
        _check_unchanged(data)
    except HostError:
        host.call(["rm", "-rf", aside])
        raise
    if host.call(["mv", "-T", aside, data.root]) and not _is_there(data, host):
        raise HostError(f"cannot rename {aside}")


def _check_unchanged(data: Data) -> None:
    if data.changed():
        raise HostError(
            f"{KEY}: files in {data.source} are not as they were when the run was planned, and the "
            f"host has no copy of them in {data.root}: restore them, or start a new run"
        )
