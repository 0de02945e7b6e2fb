"""MovieLens: ratings of films, by the person who rates them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decentralizepy.datasets.by_user import ByUser, of_users
from decentralizepy.datasets.leaf import starts
from decentralizepy.datasets.partitioners import Indices, check_sizes, simple
from decentralizepy.datasets.prepare import Progress, describe
from decentralizepy.files import expanded
from decentralizepy.streams import generator

FILE = "ml-latest-small/ratings.csv"
COLUMNS = "userId,movieId,rating,timestamp"
#: of each user's ratings
TRAINING = 0.7


class MovieLens(ByUser):
    """MovieLens latest-small (Harper and Konstan, 2015): 100,836 ratings, 610 users, 9,724 films.

    `train_dir` is the folder that holds `ml-latest-small/ratings.csv`; `test_dir` is the same one,
    or left out. Of each user's ratings seven tenths, drawn by `random_seed`, are for training and
    the others for testing. A sample is the pair of a user and a film, both numbered from 1 in the
    order of their numbers in the file; its target is the rating.

    The users are dealt in their order; the first nodes have one more where it does not come out
    even. With `local_test`, as in the reference, a node is tested on the ratings of its own users,
    and a server on all; without, all are tested on all.
    """

    name: ClassVar[str] = "movielens"
    reference_name: ClassVar[str] = "decentralizepy.datasets.MovieLens"
    task: ClassVar[str] = "rating"
    samples: ClassVar[tuple[int, int]] = (70_586, 30_250)
    more_arrays: ClassVar[tuple[str, ...]] = ("train_starts", "test_starts")

    def __init__(self, *, local_test: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.local_test = local_test

    def fetch(self, progress: Progress) -> None:
        """Nothing is downloaded: says which option is missing, or would be ignored."""
        given = [expanded(Path(name)) for name in (self.train_dir, self.test_dir) if name]
        if not given:
            raise ValueError(f"MovieLens: set train_dir to the folder that holds {FILE}")
        if given[0].resolve() != given[-1].resolve():
            raise ValueError(
                f"MovieLens: both parts are drawn from one {FILE}, but train_dir and test_dir are "
                "two folders: leave test_dir out"
            )

    def identity(self) -> list[str]:
        """The file and the seed, by which it is split."""
        path = self._path()
        try:
            return [f"{self.name} 1", describe(path), str(self.random_seed)]
        except OSError as error:
            raise ValueError(
                f"train_dir: {path}: {error.strerror}; get ml-latest-small.zip from "
                "https://grouplens.org/datasets/movielens and unpack it there"
            ) from None

    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        """Both parts, by user, in the order of the file."""
        path = self._path()
        progress(f"reading {path}")
        table = read_ratings(path)
        users, films = (np.unique(table[:, k], return_inverse=True)[1] for k in (0, 1))
        order = np.argsort(users, kind="stable")
        pairs = np.stack([users + 1, films + 1], axis=1)[order].astype(np.int32)
        ratings, lengths = table[order, 2].astype(np.float32), np.bincount(users)
        for_training = split(lengths, self.random_seed)
        arrays: dict[str, np.ndarray] = {}
        for part, chosen in (("train", for_training), ("test", ~for_training)):
            arrays |= {f"{part}_x": pairs[chosen], f"{part}_y": ratings[chosen]}
            own = np.bincount(users[order][chosen], minlength=len(lengths))
            arrays[f"{part}_starts"] = starts(own.tolist())
        return arrays

    def own_tests(self, n: int) -> list[Indices] | None:
        """For each uid the test samples of its own users, in `stored("test")`."""
        if not self.local_test:
            return None
        begin = self._array("test_starts")
        return of_users(begin, self._shares_of(n, len(begin) - 1), self.select("test").indices)

    def check_model(self, model: Any) -> None:
        """A model that says how many users and films it has must have all of them."""
        parts = [self._array(f"{part}_x") for part in ("train", "test")]
        most = np.concatenate([np.zeros((1, 2), np.int32), *parts]).max(axis=0)
        for key, what, needed in zip(("n_users", "n_items"), ("users", "films"), most, strict=True):
            known = getattr(model, key, None)
            if isinstance(known, int) and known < needed:
                raise ValueError(f"[MODEL] {key} = {known}, but {self._path()} has {needed} {what}")

    def _shares_of(self, n: int, count: int) -> list[Indices]:
        """Consecutive users, as in the reference."""
        self._check_users(n, count)
        if self.sizes is None:
            return [part.astype(np.int64) for part in np.array_split(np.arange(count), n)]
        check_sizes(self.sizes, count, n)
        return simple(count, self.sizes)

    def _path(self) -> Path:
        return expanded(Path(self.train_dir or self.test_dir)) / FILE


def read_ratings(path: Path) -> np.ndarray:
    """User, film and rating, float64 [ratings, 3]; raises ValueError, naming the file."""
    try:
        with path.open(encoding="utf-8") as file:
            head = file.readline().strip()
            if head != COLUMNS:
                raise ValueError(f"its first line is {head!r:.80}, not {COLUMNS}")
            rows = file.readlines()
        if not rows:
            raise ValueError("it has no ratings")
        table = np.loadtxt(rows, delimiter=",", usecols=(0, 1, 2), ndmin=2)
        if not np.isfinite(table).all():
            raise ValueError("a rating is not a finite number")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not MovieLens's ratings.csv: {error}") from None
    return table


def split(lengths: np.ndarray, seed: int) -> np.ndarray:
    """Which of the ratings, by user, are for training: of n of a user, 0.7 n rounded.

    Drawn for each user from the stream (seed, user, "validation", 1).
    """
    chosen = []
    for user, length in enumerate(lengths.tolist()):
        order = generator(seed, user, "validation", 1).permutation(length)
        chosen.append(order < round(TRAINING * length))
    return np.concatenate(chosen)
