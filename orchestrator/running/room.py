"""A disk that is full: which folder could not be written, and what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from decentralizepy.errors import RunError

#: The disk is full, or our share of it.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
#: With less than so many bytes free, a command that failed may have had no room to say why.
SCARCE: Final = 1 << 20


def scarce(folder: Path) -> list[str]:
    """A line about a disk that is as good as full, for a failure that nobody could explain."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return []
    if free >= SCARCE:
        return []
    return [f"the disk of {folder} is full ({free:,} bytes are free): make room on it"]


@contextmanager
def room_in(folder: Path, instead: str) -> Iterator[None]:
    """Turn the error of a full disk, which names no file, into a `RunError` that names ``folder``.

    ``instead`` says how another folder is chosen.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise RunError(
            f"cannot write {error.filename or folder}: {error.strerror}; "
            f"make room on the disk of {folder}, or {instead}"
        ) from error
