"""Data folders may be read-only: nothing is written there.

The checks run in a child that may not write there: as root, permissions bind nobody, so the child
first becomes somebody else.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cifar10_files import write_folder
from femnist_files import per_user, write, write_pairs

from decentralizepy.datasets.base import Dataset
from decentralizepy.datasets.cifar10 import CIFAR10
from decentralizepy.datasets.femnist import Femnist, FemnistLabelSplit

NOBODY = 65_534


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that others may enter; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="read-only-"))
    folder.chmod(0o755)
    cache = folder / "cache"
    cache.mkdir()
    if os.getuid() == 0:
        os.chown(cache, NOBODY, NOBODY)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def sealed(data: Path) -> dict[Path, tuple[int, int]]:
    """Take all rights to write below `data`; returns what is there, with sizes and times."""
    paths = [data, *data.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return listing(data)


def listing(data: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in [data, *data.rglob("*")]}


def as_somebody_else(work: Callable[[], None], cache: Path) -> str:
    """Run `work` in a child without root's rights; returns its traceback, empty if it went well."""
    read, send = os.pipe()
    child = os.fork()
    if not child:
        said = ""
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            tempfile.tempdir = str(cache)
            work()
        except BaseException:
            said = traceback.format_exc()
        os.write(send, said.encode()[:60_000])
        os._exit(0)
    os.close(send)
    with open(read, "rb") as pipe:  # noqa: PTH123 (a descriptor)
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def cifar(data: Path) -> Dataset:
    write_folder(data)
    return CIFAR10(train_dir=str(data), test_dir=str(data), download=True)


def femnist(data: Path) -> Dataset:
    per_user(data / "train", [3, 4])
    write(data / "test", {"t.json": {"t": 5}}, "test")
    return Femnist(train_dir=str(data / "train"), test_dir=str(data / "test"))


def label_split(data: Path) -> Dataset:
    write_pairs(data / "train", [3, 4])
    write(data / "test", {"t.json": {"t": 5}}, "test")
    return FemnistLabelSplit(train_dir=str(data / "train"), test_dir=str(data / "test"))


@pytest.mark.parametrize("make", [cifar, femnist, label_split])
def test_nothing_is_written_where_the_data_is(root, make):
    data = make(root / "data")
    before = sealed(root / "data")

    def work() -> None:
        folders = [path for path in before if path.is_dir()]
        for folder in folders:  # the folders are what they claim
            with pytest.raises(PermissionError):
                (folder / "mark").touch()
        data.prepare(root / "cache")
        assert len(data.partition(2)) == 2
        data.prepare(root / "cache")

    assert as_somebody_else(work, root / "cache") == ""
    assert listing(root / "data") == before
    assert len(list((root / "cache").glob("*/train_x.npy"))) == 1


def test_a_prepared_copy_is_used_from_a_cache_that_may_not_be_written(root):
    data = femnist(root / "data")
    data.prepare(root / "cache")
    before = sealed(root / "cache")
    there = Femnist(train_dir=data.train_dir, test_dir=data.test_dir)

    def work() -> None:
        there.prepare(root / "cache")
        assert there.counts() == (7, 5)

    assert as_somebody_else(work, root / "cache") == ""
    assert listing(root / "cache") == before


def test_a_cache_that_may_not_be_written_is_explained(root):
    data = femnist(root / "data")
    before = sealed(root / "cache")

    def work() -> None:
        with pytest.raises(ValueError, match=r"cannot write the prepared data .*another cache"):
            data.prepare(root / "cache")

    assert as_somebody_else(work, root / "cache") == ""
    assert listing(root / "cache") == before


def test_the_child_does_tell_when_something_fails(root):
    assert "ZeroDivisionError" in as_somebody_else(lambda: print(1 / 0), root / "cache")
