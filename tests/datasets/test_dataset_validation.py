"""The validation set: who is in it, that nobody else has it, and that nothing global is drawn."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from cifar10_files import write_folder
from femnist_files import per_user, write, write_pairs

from decentralizepy.datasets.base import Dataset
from decentralizepy.datasets.cifar10 import CIFAR10
from decentralizepy.datasets.digits import Digits
from decentralizepy.datasets.femnist import Femnist, FemnistLabelSplit
from decentralizepy.datasets.validation import split
from decentralizepy.streams import generator


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    write_folder(root / "cifar", count=40)
    per_user(root / "users", [9, 12, 8, 11, 10, 9])
    write(root / "tests", {"t.json": {"t1": 20, "t2": 10}}, "test")
    write_pairs(root / "pairs", [15, 12, 18])
    return root


def build(name: str, files: Path, **options) -> Dataset:
    made: Dataset
    if name == "Digits":
        made = Digits(**options)
    elif name == "CIFAR10":
        made = CIFAR10(train_dir=str(files / "cifar"), test_dir=str(files / "cifar"), **options)
    elif name == "Femnist":
        made = Femnist(train_dir=str(files / "users"), test_dir=str(files / "tests"), **options)
    else:
        made = FemnistLabelSplit(
            train_dir=str(files / "pairs"), test_dir=str(files / "tests"), **options
        )
    made.prepare(files / "cache")
    return made


def held(data: Dataset) -> set[int]:
    indices = data.select("validation").indices
    assert indices is not None and (np.diff(indices) > 0).all()
    return set(indices.tolist())


SETS = ["Digits", "CIFAR10", "Femnist", "FemnistLabelSplit"]


@pytest.mark.parametrize("name", SETS)
def test_from_train_the_held_out_samples_belong_to_no_node(files, name):
    plain = build(name, files)
    data = build(name, files, validation_source="Train", validation_size=0.25)
    train, test = plain.counts()
    out = held(data)
    assert len(out) == int(train * 0.25) == len(data.validation())
    assert data.counts() == (train - len(out), test)
    parts = [set(part.tolist()) for part in data.partition(3)]
    assert all(parts) and not any(part & out for part in parts)
    assert sum(map(len, parts)) == len(set().union(*parts))
    indices = data.select("validation").indices
    assert np.array_equal(data.validation().x, plain.train().x[indices])
    assert np.array_equal(data.validation().y, plain.train().y[indices])
    assert np.array_equal(data.test().x, plain.test().x)
    assert any(set(part.tolist()) & out for part in plain.partition(3)), "it would show otherwise"


@pytest.mark.parametrize("name", SETS)
def test_from_test_they_are_taken_from_the_test_set(files, name):
    plain = build(name, files)
    data = build(name, files, validation_source="Test", validation_size=0.1)
    train, test = plain.counts()
    out = held(data)
    assert len(out) == int(test * 0.1)
    assert data.counts() == (train, test - len(out))
    kept = [i for i in range(test) if i not in out]
    assert np.array_equal(data.test().x, plain.test().x[kept])
    assert np.array_equal(data.validation().y, plain.test().y[sorted(out)])
    for mine, other in zip(data.partition(3), plain.partition(3), strict=True):
        assert np.array_equal(mine, other)


@pytest.mark.parametrize("name", ["simple", "iid", "kshard", "dirichlet"])
def test_every_partition_deals_what_is_left(files, name):
    """With dirichlet the reference fails here: what is left of its training set has no labels."""
    options = {"partition_niid": name, "shards": 2, "alpha": 0.5}
    data = build("Digits", files, validation_source="train", validation_size=0.1, **options)
    dealt = np.concatenate(data.partition(8))
    assert len(set(dealt.tolist())) == len(dealt) and not set(dealt.tolist()) & held(data)
    assert len(dealt) > 1_250
    if name == "dirichlet":
        counts = [np.bincount(data.train().y[part], minlength=10) for part in data.partition(8)]
        assert np.std(counts, axis=0).mean() > 3


def test_users_stay_whole_but_for_what_is_held_out(files):
    plain = build("Femnist", files)
    data = build("Femnist", files, validation_source="Train", validation_size=0.3)
    out = held(data)
    for mine, other in zip(data.partition(3), plain.partition(3), strict=True):
        assert mine.tolist() == [i for i in other.tolist() if i not in out]


def test_the_draw_is_a_stream_of_the_seed_alone(files):
    options = {"validation_source": "Train", "validation_size": 0.1}
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = build("Digits", files, random_seed=5, **options)
    random.seed(1)
    np.random.seed(1)
    again = build("Digits", files, random_seed=5, partition_niid="iid", **options)
    other = build("Digits", files, random_seed=6, **options)
    assert held(first) == held(again) != held(other)
    order = generator(5, 0, "validation", 0).permutation(1442)
    assert held(first) == set(order[:144].tolist())
    random.setstate(before[0])
    np.random.seed(1)
    state = np.random.get_state()[1].tolist()
    build("Digits", files, **options)
    assert np.random.get_state()[1].tolist() == state and random.getstate() == before[0]


def test_a_golden_draw():
    """Never to change: runs of different years must compare on the same validation set."""
    kept, out = split(12, 0.25, 90)
    assert out.tolist() == [2, 3, 9] and sorted([*kept, *out]) == list(range(12))


def test_without_a_source_there_is_none(files):
    for options in ({}, {"validation_size": 0.0}, {"validation_source": " "}):
        data = build("Digits", files, **options)
        assert len(data.validation()) == 0 and data.counts() == (1442, 355)
        assert isinstance(data.test().x, np.memmap)


def test_with_one_nothing_is_copied_but_on_demand(files):
    data = build("Digits", files, validation_source="Test", validation_size=0.5)
    assert isinstance(data.stored("test").x, np.memmap) and len(data.stored("test")) == 355


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_source": "Tset", "validation_size": 0.1}, "validation_source = 'Tset'"),
        (
            {"validation_size": 0.5},
            "validation_size = 0.5 does nothing without a validation_source",
        ),
        ({"validation_source": "Test"}, "validation_size = 0 must be between 0 and 1"),
        ({"validation_source": "Test", "validation_size": 1.0}, "validation_size = 1 must"),
        ({"validation_source": "Test", "validation_size": -0.1}, "validation_size = -0.1 must"),
        ({"validation_source": "Test", "validation_size": float("nan")}, "validation_size = nan"),
        ({"validation_source": "Test", "validation_size": 0.001}, "of 355 samples leaves an empty"),
    ],
)
def test_what_cannot_be_is_refused(files, options, message):
    with pytest.raises(ValueError, match=message):
        build("Digits", files, **options)


def test_a_part_that_is_absent_cannot_be_held_out(files):
    data = CIFAR10(train_dir=str(files / "cifar"), validation_source="Test", validation_size=0.1)
    with pytest.raises(ValueError, match="of 0 samples leaves an empty set"):
        data.prepare(files / "cache")
