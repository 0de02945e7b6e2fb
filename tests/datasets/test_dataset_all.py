"""What holds for every data set, on small files in its true format."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_files import WRITERS, Keys

from decentralizepy.datasets.base import Dataset
from decentralizepy.errors import ConfigError
from decentralizepy.registry import legacy, target

#: options without which a class cannot be had
NEEDED: dict[str, dict[str, Any]] = {"HuggingFace": {"input": "text"}}
NAMES = sorted(WRITERS)


def options_of(keys: Keys) -> dict[str, str]:
    return {key[8:]: value for key, value in keys.items() if key.startswith("DATASET.")}


def made(name: str, keys: Keys, **more: Any) -> Dataset:
    package = next(dotted for dotted in legacy() if dotted.rsplit(".", 1)[-1] == name)
    kind = target(package, name).load()
    found: Dataset = kind(**options_of(keys), **NEEDED.get(name, {}), **more)
    return found


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Keys]:
    root = tmp_path_factory.mktemp("small")
    return {name: WRITERS[name](root / name) for name in NAMES}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_every_data_set_is_here() -> None:
    ours = {d.rsplit(".", 1)[-1] for d in legacy() if d.startswith("decentralizepy.datasets.")}
    assert ours == set(WRITERS)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_dealt_once_and_are_the_same_again(
    name: str, files: dict[str, Keys], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = made(name, files[name])
    data.prepare(cache)
    x, y = data.train().x, data.train().y
    assert len(x) == len(y) == data.counts()[0] and not x.flags.writeable
    assert len(data.test()) == data.counts()[1] > 0 and not len(data.validation())
    parts = data.partition(4)
    dealt = np.concatenate(parts)
    assert len(parts) == 4 and all(len(part) for part in parts)
    assert len(np.unique(dealt)) == len(dealt) and 0 <= dealt.min() <= dealt.max() < len(y)
    again = pickle.loads(pickle.dumps(made(name, files[name])))
    monkeypatch.setattr(type(again), "build", None)  # the copy is there
    again.prepare(cache)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again.partition(4), strict=True))
    assert np.array_equal(again.train().x, x) and again.normalization == data.normalization


@pytest.mark.parametrize("source", ["Train", "Test"])
@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_has_a_validation_set(
    name: str, source: str, files: dict[str, Keys], cache: Path
) -> None:
    plain = made(name, files[name])
    plain.prepare(cache)
    size = 0.2 if source == "Train" else 0.4
    data = made(name, files[name], validation_source=source, validation_size=size)
    data.prepare(cache)
    train, test = plain.counts()
    held = int(size * (train if source == "Train" else test))
    assert len(data.validation()) == held > 0
    assert sum(data.counts()) == train + test - held
    chosen = data.select("validation").indices
    assert chosen is not None
    if source == "Train":
        assert not np.isin(np.concatenate(data.partition(2)), chosen).any()
    for part in data.own_tests(4) or ():
        assert source == "Train" or not np.isin(part, chosen).any()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"Digits", "CIFAR10"}))
def test_no_folder_no_data(name: str, files: dict[str, Keys], tmp_path: Path) -> None:
    keys = dict(files[name])
    for key in ("DATASET.train_dir", "DATASET.test_dir"):
        keys.pop(key, None)
    with pytest.raises(ValueError, match=r"set train_dir"):
        made(name, keys).prepare(tmp_path)
    keys["DATASET.train_dir"] = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        made(name, keys).prepare(tmp_path / "cache")


@pytest.mark.parametrize("name", ["Celeba", "Shakespeare", "Reddit", "MovieLens", "AmazonReview"])
def test_sizes_and_too_many_nodes(name: str, files: dict[str, Keys], cache: Path) -> None:
    data = made(name, files[name])
    data.prepare(cache)
    with pytest.raises(ValueError, match=rf"99 nodes but \d+ users of {data.name}"):
        data.partition(99)
    if name == "AmazonReview":
        with pytest.raises((ValueError, ConfigError), match="leave it empty"):
            made(name, files[name], sizes=[1.0])
        return
    few = made(name, files[name], sizes=[0.5, 0.25])
    few.prepare(cache)
    first, second = few.partition(2)
    assert len(first) > len(second) and len(first) + len(second) < data.counts()[0]
