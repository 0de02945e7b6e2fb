"""Data sets that are no labelled images: texts, ratings, and what cannot be dealt by labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from decentralizepy.datasets.base import Dataset, Normalization
from decentralizepy.datasets.prepare import Progress


class Texts(Dataset):
    name: ClassVar[str] = "texts"
    task: ClassVar[str] = "language"
    shape: ClassVar[tuple[int, ...]] = (40, 6)

    def identity(self) -> list[str]:
        return [str(self.shape)]

    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        tokens = np.arange(240).reshape(40, 6)
        target = tokens[: self.shape[0]].reshape(self.shape) + 1
        return {"train_x": tokens, "train_y": target, "test_x": tokens[:4], "test_y": target[:4]}


class Ratings(Texts):
    name: ClassVar[str] = "ratings"
    task: ClassVar[str] = "rating"

    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        pairs, ratings = np.arange(80).reshape(40, 2), np.arange(40) / 2
        return {"train_x": pairs, "train_y": ratings, "test_x": pairs[:4], "test_y": ratings[:4]}


class Labels(Texts):
    """Labels without a word of how many there are."""

    name: ClassVar[str] = "labels"

    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        x, y = np.zeros((40, 2), np.float32), np.arange(40, dtype=np.int16) % 3
        return {"train_x": x, "train_y": y, "test_x": x[:4], "test_y": y[:4]}


@pytest.mark.parametrize("kind", [Texts, Ratings])
@pytest.mark.parametrize("scheme", ["simple", "iid"])
def test_arrays_of_any_kind_are_kept_and_dealt(
    kind: type[Dataset], scheme: str, tmp_path: Path
) -> None:
    data = kind(partition_niid=scheme, validation_source="Test", validation_size=0.5)
    data.prepare(tmp_path)
    built = data.build(lambda text: None)
    assert np.array_equal(data.train().x, built["train_x"])
    assert data.train().y.dtype == built["train_y"].dtype
    assert len(data.validation()) == 2 and data.counts() == (40, 2)
    parts = data.partition(4)
    assert sorted(np.concatenate(parts).tolist()) == list(range(40))
    assert data.normalization == Normalization(1.0, 0.0)


@pytest.mark.parametrize("scheme", ["kshard", "dirichlet", True])
@pytest.mark.parametrize(("kind", "what"), [(Texts, r"int64 \[40, 6\]"), (Ratings, "float64")])
def test_no_labels_no_partition_by_labels(
    scheme: str | bool, kind: type[Dataset], what: str, tmp_path: Path
) -> None:
    data = kind(partition_niid=scheme)
    data.prepare(tmp_path)
    with pytest.raises(ValueError, match=rf"deals by labels.* has targets {what}"):
        data.partition(4)


def test_labels_are_counted_where_the_data_set_does_not_say(tmp_path: Path) -> None:
    for scheme in ("kshard", "dirichlet"):
        data = Labels(partition_niid=scheme)
        data.prepare(tmp_path)
        assert sum(len(part) for part in data.partition(4)) == 40


class Ragged(Texts):
    name: ClassVar[str] = "ragged"
    shape: ClassVar[tuple[int, ...]] = (39, 6)


class Objects(Texts):
    name: ClassVar[str] = "objects"

    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        built = dict(super().build(progress))
        built["test_y"] = np.array(["a", "b", "c", "d"])
        return built


def test_arrays_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train_x \[40, 6\] and train_y \[39, 6\] must have"):
        Ragged().prepare(tmp_path)
    with pytest.raises(ValueError, match=r"objects: test_x int64, test_y <U1: not numbers"):
        Objects().prepare(tmp_path)


class Nothing(Texts):
    """`build` forgets to return."""

    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        return None  # type: ignore[return-value]


class Misspelt(Texts):
    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        return {"trainx": np.zeros(3), "train_y": np.zeros(3), "test_x": np.zeros(3)}


class Nameless(Texts):
    name = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Nothing, "Nothing.build returns None, not a dictionary with train_x, train_y, test_x"),
        (Misspelt, "Misspelt.build returns no train_x, test_y; it returns trainx, train_y, test_x"),
        (Nameless, "Nameless has no name: write name = 'nameless' into the class"),
        (Ragged, "must have a row for each sample"),
    ],
)
def test_what_builds_wrongly_is_refused_before_it_is_in_the_cache(
    kind: type[Dataset], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        kind().prepare(tmp_path)
    assert not list(tmp_path.glob("*-*"))
