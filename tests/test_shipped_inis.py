"""Every INI that comes with the repository trains, on small files in the true formats of its data.

A new INI is picked up by itself: it runs as it is but for the folders of its data, the length of
an iteration, and the degree of random graphs, which four nodes could not have.
"""

from __future__ import annotations

import configparser
import math
from pathlib import Path

import pytest
from small_files import WRITERS, Keys

from decentralizepy import run_here
from decentralizepy.graphs.generators import ring

FOLDER = Path(__file__).resolve().parents[1] / "run_configuration"
INIS = sorted(FOLDER.glob("*.ini"))
NODES, ITERATIONS = 4, 2


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Keys]:
    """The files that were written so far: class of a data set -> keys that lead to them."""
    return {}


@pytest.mark.parametrize("path", INIS, ids=lambda path: path.stem)
def test_it_ends_well(
    path: Path, data: dict[str, Keys], tmp_path_factory: pytest.TempPathFactory
) -> None:
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";", "#"))
    parser.read(path)
    kind = parser["DATASET"]["dataset_class"]
    if kind not in data:
        data[kind] = WRITERS[kind](tmp_path_factory.mktemp(kind))
    keys = [f"{key}={value}" for key, value in data[kind].items()]
    keys.append("TRAIN_PARAMS.rounds=2")
    dynamic = parser.has_option("NODE", "graph_degree")
    if dynamic:
        keys.append("NODE.graph_degree=2")
    outcome = run_here(
        path, ring(NODES), ITERATIONS, set=keys, test_after=ITERATIONS, train_evaluate_after=0,
        cache_dir=tmp_path_factory.getbasetemp() / "cache",
        eval_file="testingPeerSamplerDynamic.py" if dynamic else None,
    )  # fmt: skip
    last = [row for row in outcome.records if row["iteration"] == ITERATIONS and row["uid"] >= 0]
    assert sorted(row["uid"] for row in last) == list(range(NODES))
    assert all(math.isfinite(row["test_loss"]) for row in last)
