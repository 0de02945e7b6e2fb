"""The configurations that come with the repository: whole, and each plans without an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from orchestrator_fakes import REPOSITORY

from decentralizepy.graphs.files import read_graph
from orchestrator.backends.local import LocalBackend
from orchestrator.running.experiment import Setting, make_plan

SHIPPED = sorted(p for p in (REPOSITORY / "g5k_config").glob("*.json") if p.name != "schema.json")
NAMES = {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_names_files_that_are_there_and_plans(path: Path, tmp_path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("CONFIG_NAME", "GRAPH_FILE"):
        assert (REPOSITORY / "run_configuration" / config[key]).is_file()
    assert (path.parent / config["$schema"]).is_file()
    _, planned = make_plan(path, Setting(backend=LocalBackend(), costs=tmp_path / "none"))
    assert planned.traffic.exact
    assert planned.traffic.total_bytes
    assert planned.graph["connected"]
    assert planned.notes == () or "share" in planned.notes[0]


def test_the_promised_ones_are_there() -> None:
    wanted = {f"cifar10_{n}_{kind}" for n in (36, 64, 96, 128) for kind in ("static", "dynamic")}
    assert wanted | {"quickstart"} <= NAMES


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_its_graph_is_as_regular_as_its_name_says(path: Path) -> None:
    name = json.loads(path.read_text(encoding="utf-8"))["GRAPH_FILE"]
    nodes, degree = (int(part) for part in name.removesuffix("regular.edges").split("_"))
    graph = read_graph(REPOSITORY / "run_configuration" / name)
    assert graph.n == nodes
    assert set(graph.degrees()) == {degree}
