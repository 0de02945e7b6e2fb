"""``data.json`` says what the nodes train on: against the partition itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from launching import Experiment

from decentralizepy.datasets.digits import Digits
from decentralizepy.engine.datafile import describe, digest
from decentralizepy.graphs.generators import ring


def test_each_machine_has_its_own_nodes(tmp_path: Path, cache: Path) -> None:
    experiment = Experiment(tmp_path, ring(4), cache)
    folder = experiment.run((3, 1), 2, 1, "-ta", "0")
    found = [json.loads((folder / f"machine{m}" / "data.json").read_text()) for m in (0, 1)]
    assert [list(one["nodes"]) for one in found] == [["0", "1", "2"], ["3"]]
    assert found[0]["partition_sha256"] == found[1]["partition_sha256"]
    assert found[0]["samples"] == {"train": 1442, "test": 355, "validation": 0}
    for one in found:
        for node in one["nodes"].values():
            assert sum(node["labels"].values()) == node["samples"]
    total = sum(node["samples"] for one in found for node in one["nodes"].values())
    assert total == 1442 or total == 1440


def test_histograms_are_those_of_the_partition(tmp_path: Path) -> None:
    data = Digits(partition_niid="kshard", shards=2, validation_source="Test", validation_size=0.2)
    data.prepare(tmp_path)
    parts = data.partition(5)
    found = describe(data, parts, range(1, 4))
    assert found["samples"] == {"train": 1442, "test": 284, "validation": 71}
    for uid in (1, 2, 3):
        labels = data.train().y[parts[uid]]
        counts = {str(k): int((labels == k).sum()) for k in range(10) if (labels == k).any()}
        assert found["nodes"][str(uid)] == {"samples": len(labels), "labels": counts}


def test_the_digest_tells_partitions_apart() -> None:
    one = [np.arange(3), np.arange(3, 5)]
    assert digest(one) == digest([np.arange(3, dtype=np.int32), np.arange(3, 5)])
    others = [one[::-1], [np.arange(2), np.arange(2, 5)], [np.arange(5)], [*one, np.arange(0)]]
    assert len({digest(parts) for parts in [one, *others]}) == 5


def test_ratings_have_no_histogram(tmp_path: Path) -> None:
    small = pytest.importorskip("small_files")
    from decentralizepy.datasets.movielens import MovieLens

    small.movielens(tmp_path)
    data = MovieLens(train_dir=str(tmp_path))
    data.prepare(tmp_path / "cache")
    found = describe(data, data.partition(2), range(2))
    assert found["nodes"] == {"0": {"samples": 42}, "1": {"samples": 42}}
