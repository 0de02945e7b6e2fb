"""Every INI that comes with the repository trains, on small files in the true formats of its data.

A new INI is picked up by itself: it runs as it is but for the folders of its data, the length of
an iteration, and numbers of neighbours that four nodes could not have.
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
#: keys that say how many neighbours a node has, by section
NEIGHBOURS = {"NODE": "graph_degree", "GRAPH": "degree"}


@pytest.fixture(scope="session")
def data() -> dict[str, Keys]:
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
    keys = {**data[kind], "TRAIN_PARAMS.rounds": "2"}
    many = [
        (section, key) for section, key in NEIGHBOURS.items() if parser.has_option(section, key)
    ]
    keys |= {f"{section}.{key}": "2" for section, key in many}
    dynamic = ("NODE", "graph_degree") in many and not parser.has_option("NODE", "node_class")
    outcome = run_here(
        path, ring(NODES), ITERATIONS, set=[f"{key}={value}" for key, value in keys.items()],
        eval_file="testingPeerSamplerDynamic.py" if dynamic else None,
        test_after=ITERATIONS, train_evaluate_after=0,
        cache_dir=tmp_path_factory.getbasetemp() / "cache",
    )  # fmt: skip
    last = [row for row in outcome.records if row["iteration"] == ITERATIONS]
    tested = {row["uid"]: row["test_loss"] for row in last if "test_loss" in row}
    # with a server it may be the only one that is tested
    assert set(tested) == set(range(NODES)) or -1 in tested
    assert all(math.isfinite(loss) for loss in tested.values())
