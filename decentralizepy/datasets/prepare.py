"""The prepared copy of a data set: made once, written aside, renamed when whole, memory-mapped.

Layout: `<cache_dir>/<name>-<key>/{train,test}_{x,y}.npy`; the key says which source files, of
which size and time, the copy was made from, so a changed source makes a new copy. Source folders
are only read.

The cache may be on a network file system and shared by machines. All that is asked of it is that
a rename is atomic and does not replace a folder with files in it. Processes of one machine take
turns (`locks`); machines may build at the same time, and then the first rename counts and the
others discard their own copies.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from decentralizepy.datasets.locks import alive, beside, locked, machine_tag


@dataclass(frozen=True, eq=False)
class Streamed:
    """An array that is made block by block as it is written, as it may not fit into memory.

    `blocks` are read once: arrays of `dtype` whose rows, one after the other, are the array's.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Iterable[np.ndarray]

    def save(self, file: BinaryIO) -> None:
        """Write it in NumPy's format; raises RuntimeError for other blocks than were promised."""
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, header)
        rows = 0
        for block in self.blocks:
            if block.dtype != self.dtype or block.shape[1:] != self.shape[1:]:
                raise RuntimeError(f"a block {block.dtype} {block.shape} in an array {self.shape}")
            file.write(np.ascontiguousarray(block).data)
            rows += len(block)
        if rows != self.shape[0]:
            raise RuntimeError(f"{rows} rows in an array {self.shape}")


Progress = Callable[[str], None]
Build = Callable[[Progress], Mapping[str, np.ndarray | Streamed]]

ARRAYS = ("train_x", "train_y", "test_x", "test_y")

# Part of every key: raise it when the layout of the prepared files changes.
FORMAT = "1"

# When nobody can tell any more whether a writer on another machine lives, it doesn't.
STALE_S = 24 * 3600

ELSEWHERE = "choose another cache folder (--cache-dir, or the variable XDG_CACHE_HOME)"

# A damaged copy is moved out of the way; another process may publish just then.
_TRIES = 5


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


def prepared(
    cache_dir: Path,
    name: str,
    build: Build,
    progress: Progress = silent,
    arrays: Sequence[str] = ARRAYS,
) -> Path:
    """The folder `cache_dir/name` with the arrays that `build` returns; built if it is not there.

    Any number of processes on any number of machines may call this at once and get the same copy.
    A process that dies while building leaves nothing that is taken for a prepared copy, and what
    it leaves is removed later. `build` gets `progress` and returns the `arrays` by name. Raises
    ValueError when the cache cannot be written.
    """
    folder = cache_dir / name
    _sweep(folder)
    if _complete(folder, arrays):
        return folder
    make_folder(cache_dir, f"the prepared data; {ELSEWHERE}")
    with locked(folder, progress):
        if not _complete(folder, arrays):
            _make(folder, build, progress, arrays)
    return folder


def make_folder(path: Path, purpose: str) -> None:
    """Make `path` and its parents. Raises ValueError, saying what it was for, if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {path} for {purpose} ({error})") from error


def sync(folder: Path) -> None:
    """Make the names in a folder survive a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make(folder: Path, build: Build, progress: Progress, names: Sequence[str]) -> None:
    arrays = build(progress)
    if _complete(folder, names):
        return
    progress(f"writing {folder}")
    aside = beside(folder)
    try:
        _write(aside, names, arrays)
        _publish(aside, folder, names)
    except OSError as error:
        raise ValueError(
            f"cannot write the prepared data in {folder.parent} ({error}); "
            f"make room there, or {ELSEWHERE}"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(folder: Path, names: Sequence[str], arrays: Mapping[str, np.ndarray | Streamed]) -> None:
    folder.mkdir()
    for name in names:
        with (folder / f"{name}.npy").open("wb") as file:
            _save(file, arrays[name])
            file.flush()
            os.fsync(file.fileno())
    sync(folder)


def _save(file: BinaryIO, array: np.ndarray | Streamed) -> None:
    if isinstance(array, Streamed):
        array.save(file)
    else:
        np.save(file, array, allow_pickle=False)


def _publish(aside: Path, folder: Path, names: Sequence[str]) -> None:
    """Rename `aside` to `folder`, unless somebody was first: theirs is as good."""
    for _ in range(_TRIES):
        try:
            aside.rename(folder)
        except OSError:
            if _complete(folder, names):  # or it was our own rename, told twice by the network
                return
            if not folder.exists():
                raise
            _discard_damaged(folder)
        else:
            sync(folder.parent)
            return
    raise OSError(f"others keep replacing {folder}")


def _discard_damaged(folder: Path) -> None:
    """Remove a copy in which a hand has deleted files: first its name, then the rest."""
    away = beside(folder)
    try:
        folder.rename(away)
    except FileNotFoundError:
        return
    shutil.rmtree(away, ignore_errors=True)


def _complete(folder: Path, names: Sequence[str]) -> bool:
    """Whether all arrays are there.

    Folders are listed, the parent too: opening a folder makes a network file system ask its
    server, whereas that a name does not exist may be remembered for a minute.
    """
    try:
        os.listdir(folder.parent)  # noqa: PTH208 (iterdir may open later)
        found = set(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return False
    return found.issuperset(f"{name}.npy" for name in names)


def _sweep(folder: Path) -> None:
    """Remove what killed processes have left beside `folder`; nothing that may be in use."""
    for leftover in folder.parent.glob(f"{folder.name}.tmp-*"):
        if _abandoned(leftover, leftover.name.removeprefix(f"{folder.name}.tmp-").split("-")):
            shutil.rmtree(leftover, ignore_errors=True)


def _abandoned(leftover: Path, maker: list[str]) -> bool:
    if len(maker) == 3 and maker[0] == machine_tag() and maker[1].isdigit():
        return not alive(int(maker[1]))
    try:
        return time.time() - leftover.stat().st_mtime > STALE_S
    except OSError:
        return False
