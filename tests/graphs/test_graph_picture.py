"""Pictures: readable PDF files, byte-stable, with every node where it can be seen."""

import subprocess
import sys

import numpy as np
import pytest
from pypdf import PdfReader

from decentralizepy.graphs.generators import exponential, regular, ring, star
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.picture import LABELS_UP_TO, draw, figure, positions


def test_the_same_graph_gives_the_same_bytes_in_any_process(tmp_path):
    program = (
        "import sys; from decentralizepy.graphs.generators import *;"
        "from decentralizepy.graphs.picture import draw; draw(regular(36, 4, 1), sys.argv[1])"
    )
    here, there = tmp_path / "here.pdf", tmp_path / "there.pdf"
    draw(regular(36, 4, 1), here)
    subprocess.run([sys.executable, "-c", program, str(there)], check=True)
    assert here.read_bytes() == there.read_bytes()
    assert b"CreationDate" not in here.read_bytes() and b"/Type3" not in here.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.pdf", "there.pdf"]


def test_a_picture_names_every_node_and_the_graph(tmp_path):
    draw(ring(16), tmp_path / "ring.pdf")
    (page,) = PdfReader(tmp_path / "ring.pdf").pages
    words = page.extract_text().split()
    assert {str(uid) for uid in range(16)} <= set(words)
    assert "2-regular" in words
    assert float(page.mediabox.width) == pytest.approx(3.33 * 72, abs=1)


@pytest.mark.parametrize(
    "graph", [Graph(1, []), ring(2), Graph(30, []), star(40), exponential(9), exponential(30)]
)
def test_odd_graphs_are_drawn(tmp_path, graph):
    draw(graph, tmp_path / "g.pdf")
    assert (tmp_path / "g.pdf").read_bytes().startswith(b"%PDF")


def test_labels_are_left_out_where_nobody_could_read_them():
    few, many = figure(ring(24)), figure(Graph(LABELS_UP_TO + 1, []))
    assert len(few.axes[0].texts) == 24 and len(many.axes[0].texts) == 0


@pytest.mark.parametrize("n", [1, 2, 16, 36, 128])
def test_nodes_lie_apart_in_the_unit_square(n):
    places = positions(regular(n, min(4, n - 1), 1))
    assert places.shape == (n, 2) and places.min() >= -1e-9 and places.max() <= 1 + 1e-9
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2) + 9 * np.eye(n)
    assert gaps.min() > 0.01


def test_the_first_node_of_a_circle_is_on_top():
    places = positions(ring(8))
    assert places[0] == pytest.approx([0.5, 1.0]) and places[2] == pytest.approx([1.0, 0.5])


def test_springs_leave_a_large_ring_round():
    radii = np.linalg.norm(positions(ring(64)) - 0.5, axis=1)
    assert radii.min() > 0.45


def test_one_way_edges_are_arrows():
    one_way, both_ways = figure(Graph(3, [(0, 1)])), figure(Graph.undirected(3, [(0, 1)]))
    arrows = [text for text in one_way.axes[0].texts if hasattr(text, "arrow_patch")]
    assert len([text for text in arrows if text.arrow_patch is not None]) == 1
    assert len(both_ways.axes[0].collections) == 2  # the lines and the nodes


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"let the name end in \.pdf"):
        draw(ring(3), tmp_path / "ring.png")


def test_without_matplotlib_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"decentralizepy\[results\]"):
        draw(ring(3), tmp_path / "ring.pdf")


def test_without_scipy_large_graphs_lie_on_a_circle(monkeypatch):
    import networkx as nx

    def missing(*args, **kwargs):
        raise ImportError("scipy")

    monkeypatch.setattr(nx, "spring_layout", missing)
    assert positions(ring(36))[0] == pytest.approx([0.5, 1.0])


def test_the_settings_of_matplotlib_are_left_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw(ring(3), tmp_path / "ring.pdf")
    assert dict(matplotlib.rcParams) == before
