"""Users' files, read without trusting them: no pipe to wait for, no device without an end."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

_CHUNK: Final = 1 << 20


class UnfitFileError(ValueError):
    """What a name leads to is not fit to be read; the text names it."""


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file, or of the one that a link leads to.

    No more memory is taken than the file has bytes.

    Raises:
        UnfitFileError: if it is a pipe, a device or a socket, or has more than ``most`` bytes.
        OSError: if it can't be read.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder says what is wrong
        raise UnfitFileError(f"{path} is no regular file but a pipe, a device or a socket")
    chunks: list[bytes] = []
    left = most
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise UnfitFileError(f"{path} has more than {most >> 20} MiB")
            chunks.append(chunk)
    return b"".join(chunks)
