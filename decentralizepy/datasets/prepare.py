"""The prepared copy of a data set: made once for all processes, written aside, memory-mapped.

Layout: `<cache_dir>/<name>-<key>/{train,test}_{x,y}.npy`; the key says which source files, of
which size and time, the copy was made from, so a changed source makes a new copy. Source folders
are only read.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

Progress = Callable[[str], None]
Build = Callable[[Progress], Mapping[str, np.ndarray]]

ARRAYS = ("train_x", "train_y", "test_x", "test_y")

# Part of every key: raise it when the layout of the prepared files changes.
FORMAT = "1"


def silent(message: str) -> None:
    """A `Progress` that says nothing."""


def source_key(identity: Iterable[str]) -> str:
    """A short name for a source that `identity` describes (paths, sizes, times)."""
    text = "\n".join([FORMAT, *identity])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe(path: Path) -> str:
    """A source file's identity: where it really is, its size and the time of its last change."""
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def prepared(cache_dir: Path, name: str, build: Build, progress: Progress = silent) -> Path:
    """The folder `cache_dir/name` with the arrays that `build` returns; built if it is not there.

    Any number of processes may call this at once: one builds, the others wait for it. A process
    that dies while building leaves nothing that is taken for a prepared copy. `build` gets
    `progress` and returns the `ARRAYS`. Raises ValueError when the cache cannot be written.
    """
    folder = cache_dir / name
    if _complete(folder):
        return folder
    make_folder(cache_dir, "the prepared data; choose another cache folder")
    with locked(cache_dir / f"{name}.lock", progress) as alone:
        if not _complete(folder):
            _make(folder, build, progress, alone)
    return folder


def make_folder(path: Path, purpose: str) -> None:
    """Make `path` and its parents. Raises ValueError, saying what it was for, if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {path} for {purpose} ({error})") from error


@contextmanager
def locked(path: Path, progress: Progress = silent) -> Iterator[bool]:
    """Hold the lock file `path`; yields False where the file system has no locks.

    The lock goes with the process, however that ends. Says so through `progress` when it waits.
    """
    try:
        handle = path.open("a")
    except OSError as error:
        raise ValueError(f"cannot write the lock file {path} ({error})") from error
    with handle:
        yield _lock(handle.fileno(), path, progress)


def _lock(handle: int, path: Path, progress: Progress) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress(f"waiting for another process that prepares the same data ({path})")
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        # Without locks several may build; each renames a whole copy, the first one stays.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        return False
    return True


def _make(folder: Path, build: Build, progress: Progress, alone: bool) -> None:
    if alone:
        _clear(folder)
    arrays = build(progress)
    progress(f"writing {folder}")
    aside = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    try:
        _write(aside, arrays)
        _publish(aside, folder)
    except OSError as error:
        raise ValueError(
            f"cannot write the prepared data in {folder.parent} ({error}); "
            "make room there or choose another cache folder"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove what processes that died, or a hand that deleted files, have left of `folder`."""
    for stale in [folder, *folder.parent.glob(f"{folder.name}.tmp-*")]:
        shutil.rmtree(stale, ignore_errors=True)


def _write(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    folder.mkdir()
    for name in ARRAYS:
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, arrays[name], allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    _sync(folder)


def _publish(aside: Path, folder: Path) -> None:
    """Rename `aside` to `folder`; if somebody else was first, theirs is as good."""
    try:
        aside.rename(folder)
    except OSError:
        if not _complete(folder):
            raise
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _complete(folder: Path) -> bool:
    return all((folder / f"{name}.npy").is_file() for name in ARRAYS)
