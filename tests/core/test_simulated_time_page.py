"""The files that are shipped, and those on the page about simulated time, are read as they are."""

import json
import re
from pathlib import Path

import pytest

from decentralizepy.graphs.files import read_graph
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.scenario.faultplan import read_fault_plan
from decentralizepy.scenario.simulation import read_simulation

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "simulated_time.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"simulate_\w+\.json", PAGE))))
def test_a_shipped_simulation_is_one_of_sixteen_nodes(name):
    found = read_simulation(REPOSITORY / "run_configuration" / name, 16)
    assert all(pace.cost(0) > 0 for pace in found.paces)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_page_shows_files_that_are_read(tmp_path, block):
    path = tmp_path / "shown.json"
    path.write_text(block)
    graph = read_graph(REPOSITORY / "run_configuration" / "16_4regular.edges")
    if isinstance(json.loads(block), dict):
        assert read_simulation(path, 16, graph).machines == (8, 8)
    else:
        for virtual in (True, False):
            found = read_fault_plan(path, Mapping((8, 8)), 100, virtual, graph)
            assert len(found.faults) == 4


def test_there_is_something_to_read():
    assert len(BLOCKS) == 2 and "simulate_straggler.json" in PAGE
