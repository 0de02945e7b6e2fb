"""MovieLens: the split of each user's ratings, who gets whom, and on what each is tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_files import movielens

from decentralizepy import run_here
from decentralizepy.datasets.movielens import MovieLens, split
from decentralizepy.errors import ConfigError
from decentralizepy.graphs.generators import ring

INI = Path(__file__).resolve().parents[2] / "run_configuration" / "config_movielens_sharing.ini"


def prepared(root: Path, **options: Any) -> MovieLens:
    if not (root / "ml-latest-small").exists():
        movielens(root)
    data = MovieLens(train_dir=str(root), **options)
    data.prepare(root / "cache")
    return data


def in_the_file(root: Path) -> list[tuple[int, int, float]]:
    lines = (root / "ml-latest-small" / "ratings.csv").read_text().splitlines()[1:]
    rows = [line.split(",") for line in lines]
    films = sorted({int(film) for _, film, _, _ in rows})
    return [(int(user), films.index(int(film)) + 1, float(r)) for user, film, r, _ in rows]


def test_both_parts_together_are_the_file(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    train, test = data.train(), data.test()
    assert (len(train), len(test)) == (12 * 7, 12 * 3)
    assert train.y.dtype == np.float32 and train.x.dtype == np.int32
    pairs = [*zip(train.x.tolist(), train.y.tolist(), strict=True)]
    pairs += zip(test.x.tolist(), test.y.tolist(), strict=True)
    assert sorted((u, f, r) for (u, f), r in pairs) == sorted(in_the_file(tmp_path))
    assert np.bincount(train.x[:, 0])[1:].tolist() == [7] * 12
    other = prepared(tmp_path, random_seed=5)
    assert not np.array_equal(other.train().x, train.x)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(0, 2**62))
def test_seven_tenths_of_each_users_are_for_training(lengths: list[int], seed: int) -> None:
    chosen = split(np.array(lengths), seed)
    ends = np.cumsum(lengths)
    own = [part.sum() for part in np.split(chosen, ends[:-1])]
    assert own == [round(0.7 * n) for n in lengths]
    if len(lengths) > 1:  # a user's split does not depend on the others
        assert np.array_equal(split(np.array(lengths[:1]), seed), chosen[: lengths[0]])


@pytest.mark.parametrize("n", [1, 3, 5, 12])
def test_users_are_dealt_in_their_order(tmp_path: Path, n: int) -> None:
    """The reference's: n_users // n each, and one more for the first n_users % n."""
    data = prepared(tmp_path)
    tests = data.own_tests(n)
    assert tests is not None
    for uid, (part, own) in enumerate(zip(data.partition(n), tests, strict=True)):
        count = 12 // n + (uid < 12 % n)
        offset = count * uid + (0 if uid < 12 % n else 12 % n)
        wanted = set(range(offset + 1, offset + count + 1))
        assert set(data.train().x[part, 0].tolist()) == wanted
        assert set(data.stored("test").x[own, 0].tolist()) == wanted
    assert sum(map(len, tests)) == len(data.test())
    assert prepared(tmp_path, local_test=False).own_tests(n) is None


def test_a_node_is_tested_on_the_ratings_of_its_own_users(tmp_path: Path) -> None:
    """Each node's loss at the first weights, by hand; and all alike without the option."""
    data = prepared(tmp_path, random_seed=90)
    found: dict[bool, list[float]] = {}
    for local in (True, False):
        keys = [f"DATASET.{name}_dir={tmp_path}" for name in ("train", "test")]
        keys += [f"DATASET.local_test={local}", "OPTIMIZER_PARAMS.lr=0"]
        run = run_here(INI, ring(4), 1, set=keys, test_after=1, cache_dir=tmp_path / "cache")
        found[local] = [row["test_loss"] for row in run.records]
    import torch

    from decentralizepy.models.movielens import MatrixFactorization

    torch.manual_seed(90)
    model, test = MatrixFactorization(), data.test()
    with torch.no_grad():
        rated = model(torch.from_numpy(test.x.astype(np.int64))).numpy()
    errors = (rated - test.y) ** 2
    assert found[False] == pytest.approx([errors.mean()] * 4, rel=1e-5)
    parts = data.own_tests(4)
    assert parts is not None and len(set(found[True])) == 4
    assert found[True] == pytest.approx([errors[part].mean() for part in parts], rel=1e-5)


def test_some_samples_of_each_nodes_own(tmp_path: Path) -> None:
    movielens(tmp_path)
    keys = [f"DATASET.{name}_dir={tmp_path}" for name in ("train", "test")]
    run = run_here(INI, ring(4), 1, set=keys, test_after=1, test_samples=2, cache_dir=tmp_path)
    assert all(row["test_acc"] in (0.0, 50.0, 100.0) for row in run.records)


def test_both_parts_come_from_one_folder(tmp_path: Path) -> None:
    movielens(tmp_path)
    with pytest.raises(ValueError, match="train_dir and test_dir are two folders: leave test_dir"):
        MovieLens(train_dir=str(tmp_path), test_dir=str(tmp_path.parent)).prepare(tmp_path)
    for folder in ({"test_dir": str(tmp_path)}, {"train_dir": str(tmp_path)}):
        data = MovieLens(**folder)
        data.prepare(tmp_path / "cache")
        assert len(data.train()) and len(data.test())


@pytest.mark.parametrize(("key", "what"), [("n_users", "users"), ("n_items", "films")])
def test_a_model_that_lacks_users_or_films_is_refused(key: str, what: str, tmp_path: Path) -> None:
    movielens(tmp_path)
    users, films, _ = zip(*in_the_file(tmp_path), strict=True)
    has = max(users if key == "n_users" else films)
    keys = [f"DATASET.train_dir={tmp_path}", f"DATASET.test_dir={tmp_path}"]

    def run(number: int) -> None:
        run_here(INI, ring(4), 1, set=[*keys, f"MODEL.{key}={number}"], cache_dir=tmp_path)

    said = rf"\[MODEL\] {key} = {has - 1}, but .*ratings.csv has {has} {what}"
    with pytest.raises(ConfigError, match=said):
        run(has - 1)
    run(has)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("user,item\n1,2\n", "its first line is 'user,item'"),
        ("userId,movieId,rating,timestamp\n", "ratings.csv: it has no ratings"),
        ("userId,movieId,rating,timestamp\n1,2\n", "is not MovieLens's ratings.csv"),
        ("userId,movieId,rating,timestamp\n1,x,3,4\n", "is not MovieLens's ratings.csv"),
        ("userId,movieId,rating,timestamp\n1,2,nan,4\n", "not a finite number"),
    ],
)
def test_files_that_are_refused(text: str, said: str, tmp_path: Path) -> None:
    movielens(tmp_path)
    (tmp_path / "ml-latest-small" / "ratings.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        prepared(tmp_path)
