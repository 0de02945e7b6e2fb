"""The bundled digits: shapes, the fixed split, and what happens without scikit-learn."""

import sys

import numpy as np
import pytest

from decentralizepy.datasets import digits
from decentralizepy.datasets.digits import Digits


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("digits")


def prepared(cache, **options) -> Digits:
    data = Digits(**options)
    data.prepare(cache)
    return data


def test_shapes_types_and_values(cache):
    data = prepared(cache)
    train, test = data.train(), data.test()
    assert data.counts() == (len(train), len(test)) == (1_442, 355)
    assert train.x.shape == (1_442, 8, 8, 1)
    assert train.x.dtype == test.x.dtype == np.uint8
    assert train.y.dtype == test.y.dtype == np.int64
    assert (int(train.x.min()), int(train.x.max())) == (0, 16)
    assert not train.x.flags.writeable
    assert train.x.max() * data.normalization.scale + data.normalization.shift == 1.0


def test_the_two_parts_are_the_whole(cache):
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    data = prepared(cache)
    ours = np.concatenate([data.train().x, data.test().x]).reshape(-1, 64)
    whole = load_digits().data.astype(np.uint8)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, whole))
    counts = [np.bincount(part.y) for part in (data.train(), data.test())]
    assert (counts[1] == (counts[0] + counts[1]) // 5).all()


def test_the_split_does_not_depend_on_the_options(cache):
    first = prepared(cache, random_seed=1, partition_niid="iid", train_dir="x", test_dir="y")
    second = prepared(cache, random_seed=2)
    assert np.array_equal(first.test().x, second.test().x)
    assert len(list(cache.glob("digits-*[!k]"))) == 1


def test_a_simple_rule_learns_the_digits(cache):
    data = prepared(cache)
    x, y = data.train().x.reshape(-1, 64).astype(float), data.train().y
    centres = np.array([x[y == k].mean(axis=0) for k in range(10)])
    seen = data.test().x.reshape(-1, 64).astype(float)
    nearest = ((seen[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == data.test().y).mean() > 0.85


@pytest.mark.parametrize("name", ["simple", "iid", "kshard", "dirichlet"])
def test_the_digits_are_dealt(cache, name):
    data = prepared(cache, partition_niid=name, shards=2, alpha=0.5, random_seed=90)
    given_out = np.concatenate(data.partition(16))
    assert len(set(given_out.tolist())) == len(given_out)
    assert len(given_out) >= 1_400


def test_scikit_learn_is_not_imported_while_its_file_is_where_it_was(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "sklearn.datasets", None)
        ours = prepared(tmp_path / "file").train()
        patched.setattr(digits, "_FILE", "data/elsewhere.csv.gz")
        with pytest.raises(ValueError, match="not installed"):
            prepared(tmp_path / "neither")
    monkeypatch.setattr(digits, "_FILE", "data/elsewhere.csv.gz")
    theirs = prepared(tmp_path / "function").train()
    assert np.array_equal(ours.x, theirs.x) and np.array_equal(ours.y, theirs.y)


def test_without_scikit_learn_the_remedy_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match="pip install"):
        prepared(tmp_path)


def test_a_prepared_copy_needs_no_scikit_learn(cache, monkeypatch):
    prepared(cache)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert prepared(cache).counts() == (1_442, 355)
