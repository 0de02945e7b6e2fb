"""A disk that is full: which folder could not be written, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from decentralizepy.errors import RunError

#: The disk is full, or our share of it.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


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
