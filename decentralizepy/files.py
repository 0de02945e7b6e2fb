"""Files: read without trusting them, written aside and renamed; the one place for both."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError

#: far more than any configuration file needs, and little enough to be read without a thought
MAX_BYTES: Final = 16 << 20
#: what folders of ours are called where those of others are, too
OURS: Final = "decentralizepy"
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
        raise UnfitFileError(f"{path} is not a regular file but a pipe, a device or a socket")
    chunks: list[bytes] = []
    left = most
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise UnfitFileError(f"{path} has more than {most >> 20} MiB")
            chunks.append(chunk)
    return b"".join(chunks)


def read_text_file(path: Path, flag: str = "", most: int = MAX_BYTES) -> str:
    """The text of a file of at most ``most`` bytes that ``flag`` names; raises `ConfigError`."""
    named = f" ({flag})" if flag else ""
    try:
        data = read_regular(path, most)
    except UnfitFileError as error:
        raise ConfigError(f"{error}{named}") from None
    except (OSError, ValueError) as error:  # a name may hold what no name can
        reason = getattr(error, "strerror", None) or error
        shown = str(path) if str(path).isprintable() else repr(str(path))
        raise ConfigError(f"cannot read {shown}: {reason}{named}") from None
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}{named}") from None


def cache_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this user's caches are, ours among them: by XDG_CACHE_HOME, else in the home folder.

    Who has neither, as in containers, gets a folder of this user's among the temporary ones.
    """
    named = environment.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / OURS
    try:
        return Path.home() / ".cache" / OURS
    except RuntimeError:
        return temporary_home() / "cache"


def temporary_home() -> Path:
    """This user's own folder among the temporary ones, which need not be there yet.

    Raises `ConfigError` if there is one that somebody else has made: in a folder for everybody,
    others could lay links, or files that we would take for ours.
    """
    folder = Path(tempfile.gettempdir()) / f"{OURS}-{os.getuid()}"
    with suppress(FileNotFoundError):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigError(f"{folder} is not a folder of ours: remove it, or set TMPDIR")
    return folder


def expanded(path: Path) -> Path:
    """A path with ``~`` replaced by the home folder, where that is known."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes the place of ``path`` if the block succeeds.

    A reader never sees half of a file. An OSError without a file name, as of a full disk, gets one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(0o644)  # mkstemp's 0600 would hide results from colleagues
        aside.replace(path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content``: written aside, synced and renamed, so never half there."""
    with replacing(path) as aside, aside.open("wb") as out:
        out.write(content.encode() if isinstance(content, str) else content)
        out.flush()
        os.fsync(out.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2) + "\n")


def ends_within_a_line(handle: int) -> bool:
    """Whether the last line of an open file was cut, by a kill or a full disk."""
    size = os.fstat(handle).st_size
    return size > 0 and os.pread(handle, 1, size - 1) != b"\n"


def write_all(handle: int, data: bytes) -> None:
    """Write every byte, though a disk that fills up may take only a part at first."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
