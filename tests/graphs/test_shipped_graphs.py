"""The graph files of run_configuration are what their names say."""

import re
from pathlib import Path

import pytest

from decentralizepy.graphs.files import read_graph
from decentralizepy.graphs.graph import Graph

FOLDER = Path(__file__).parents[2] / "run_configuration"
REGULAR = sorted(FOLDER.glob("*regular*.edges"))


def test_all_are_there():
    sizes = ("16_4", "36_4", "64_4", "64_6", "96_4", "128_5", "128_6")
    assert {f"{size}regular.edges" for size in sizes} <= {path.name for path in REGULAR}


@pytest.mark.parametrize("path", REGULAR, ids=lambda path: path.name)
def test_regular_graphs_are_regular_and_connected(path):
    n, degree = map(int, re.fullmatch(r"(\d+)_(\d+)regular\.edges", path.name).groups())
    graph = read_graph(path)
    assert graph.n == n and set(graph.degrees()) == {degree}
    assert graph.is_symmetric() and graph.is_connected()


def test_the_isolated_nodes_have_no_neighbours():
    assert read_graph(FOLDER / "16_isolated.edges") == Graph(16, [])
