"""The private folder of a machine's Unix sockets, gone at the latest with the next run here.

Its owner holds a lock on it. A supervisor that was killed cannot remove its folder, but its lock is
free then, so the next supervisor of the same user removes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from decentralizepy.locks import lock, try_lock

_PREFIX: Final = "decentralizepy-sockets-"
#: a Unix socket's name, with its folders, may have about a hundred bytes
_LONGEST_BASE: Final = 36
_USUAL_BASE: Final = "/tmp"
#: a folder younger than this may have an owner who is about to lock it
_YOUNG_S: Final = 60.0
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class SocketFolder:
    """A new folder that only this user may enter."""

    def __init__(self) -> None:
        base = _base()
        remove_abandoned(base)
        self.name = tempfile.mkdtemp(prefix=_PREFIX, dir=base)
        self._lock = os.open(self.name, _OPEN)
        lock(self._lock)

    def remove(self) -> None:
        """Remove the folder and what is in it; may be called again."""
        shutil.rmtree(self.name, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _base() -> str:
    """Where temporary files lie, unless its name is too long for a socket's."""
    found = tempfile.gettempdir()
    usual = os.access(_USUAL_BASE, os.W_OK | os.X_OK)
    return _USUAL_BASE if usual and len(os.fsencode(found)) > _LONGEST_BASE else found


def remove_abandoned(base: str) -> None:
    """Remove folders of this user in ``base`` whose owners are dead."""
    for path in Path(base).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > _YOUNG_S:
                _remove_unless_locked(path)


def _remove_unless_locked(path: Path) -> None:
    folder = os.open(path, _OPEN)
    try:
        if try_lock(folder):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(folder)
