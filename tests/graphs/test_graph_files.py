"""Graph files: golden text, round trips, every malformed line, and noise."""

import codecs
import contextlib
import os
import tracemalloc
from pathlib import Path

import pytest
from graph_examples import directed_graphs, undirected_graphs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from decentralizepy.graphs import files
from decentralizepy.graphs.files import read_graph, write_graph, written_aside
from decentralizepy.graphs.generators import exponential, regular, ring
from decentralizepy.graphs.graph import MAX_NODES, Graph

quick = settings(max_examples=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs")


def put(folder, text, name="g.edges"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_edges_are_written_both_ways(tmp_path):
    write_graph(Graph.undirected(4, [(0, 1), (2, 1)]), tmp_path / "g.edges")
    assert (tmp_path / "g.edges").read_bytes() == b"4\n0 1\n1 0\n1 2\n2 1\n"


def test_adjacency_is_written_as_directed(tmp_path):
    write_graph(Graph(4, [(0, 3), (0, 1), (3, 2)]), tmp_path / "g.adj")
    assert (tmp_path / "g.adj").read_bytes() == b"4\n1 3\n\n\n2\n"


def test_edges_are_read_as_undirected_once_each(tmp_path):
    graph = read_graph(put(tmp_path, "4\n0 1\n1 0\n2   1\r\n\n  \n"))
    assert graph == Graph.undirected(4, [(0, 1), (1, 2)])


def test_adjacency_is_read_as_directed(tmp_path):
    graph = read_graph(put(tmp_path, "3\n1 2\n\n0\n\n\n", "g.adj"))
    assert graph == Graph(3, [(0, 1), (0, 2), (2, 0)])


def test_a_header_alone_is_a_graph_without_edges(tmp_path):
    assert read_graph(put(tmp_path, "16")) == Graph(16, [])
    assert read_graph(put(tmp_path, "1\n\n", "g.adj")) == Graph(1, [])


@quick
@given(graph=undirected_graphs())
def test_edges_round_trip(folder, graph):
    write_graph(graph, folder / "round.edges")
    assert read_graph(folder / "round.edges") == graph


@quick
@given(graph=directed_graphs())
def test_adjacency_round_trip(folder, graph):
    write_graph(graph, folder / "round.adj")
    assert read_graph(str(folder / "round.adj")) == graph


def test_the_kind_overrides_the_ending(tmp_path):
    graph = exponential(5)
    write_graph(graph, tmp_path / "g.txt", kind="adjacency")
    assert read_graph(tmp_path / "g.txt", kind="adjacency") == graph
    with pytest.raises(ValueError, match=r"can't tell the kind.*name it \.edges or \.adj"):
        read_graph(tmp_path / "g.txt")
    with pytest.raises(ValueError, match="unknown kind of graph file 'adj'"):
        read_graph(tmp_path / "g.txt", kind="adj")


def test_force_connect_adds_the_ring(tmp_path):
    path = put(tmp_path, "5\n0 2\n")
    assert not read_graph(path).is_connected()
    assert read_graph(path, force_connect=True).edges == tuple(
        sorted({*ring(5).edges, (0, 2), (2, 0)})
    )
    assert read_graph(put(tmp_path, "1"), force_connect=True) == Graph(1, [])
    assert read_graph(put(tmp_path, "2"), force_connect=True) == ring(2)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "empty"),
        ("\n3\n", 1, "empty"),
        ("three\n", 1, "'three' is not the number of nodes"),
        ("3 4\n", 1, "not the number of nodes"),
        ("-3\n", 1, "not the number of nodes"),
        ("3.0\n", 1, "not the number of nodes"),
        ("1_000\n", 1, "not the number of nodes"),
        ("0\n", 1, f"must be from 1 to {MAX_NODES}"),
        ("1000000000000\n", 1, f"must be from 1 to {MAX_NODES}"),
        ("9" * 5000, 1, "must be from 1"),
        ("3\n0 1\n0\n", 3, "'0' is not an edge"),
        ("3\n0 1 2\n", 2, "'0 1 2' is not an edge"),
        ("3\n0 1\n\n1 2\n", 3, "'' is not an edge"),
        ("3\n0 x\n", 2, "'x' is not a node number"),
        ("3\n0 -1\n", 2, "'-1' is not a node number"),
        ("3\n0 1\n1 3\n", 3, "there is no node '3': the nodes are 0 to 2"),
        ("3\n0 " + "1" * 5000, 2, "there is no node"),
        ("3\n2 2\n", 2, "node 2 is linked to itself"),
        ("3\n0 1\n1 0\n 0   1\n", 4, "'0 1' stands on line 2 too"),
    ],
)
def test_malformed_edges_name_file_and_line(tmp_path, text, line, words):
    path = put(tmp_path, text)
    with pytest.raises(ValueError, match=words) as caught:
        read_graph(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert len(str(caught.value)) < len(str(path)) + 200


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("3\n1\n2\n", 3, "ends after 2 of 3 nodes"),
        ("2\n1\n0\n\n0\n", 5, "there are only 2 nodes"),
        ("2\n1\n1\n", 3, "node 1 sends to itself"),
        ("3\n1 2 1\n\n\n", 2, "node 0 sends to 1 twice"),
        ("2\n1\n2\n", 3, "there is no node '2'"),
        ("2\n1\na\n", 3, "'a' is not a node number"),
        ("999999\n1\n", 2, "ends after 1 of 999999 nodes"),
    ],
)
def test_malformed_adjacency_names_file_and_line(tmp_path, text, line, words):
    path = put(tmp_path, text, "g.adj")
    with pytest.raises(ValueError, match=words) as caught:
        read_graph(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")


def test_other_files_are_refused(tmp_path):
    for content in (b"\x89PNG\r\n\x1a\n", "3\n0 ١\n".encode(), b"3\n\xff"):
        with pytest.raises(ValueError, match="only numbers may stand in it"):
            read_graph(put(tmp_path, content))
    with pytest.raises(OSError, match="missing"):
        read_graph(tmp_path / "missing.edges")
    with pytest.raises(OSError, match="folder"):
        (tmp_path / "folder.edges").mkdir()
        read_graph(tmp_path / "folder.edges")


@pytest.mark.timeout(20)
def test_what_has_no_end_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.edges")
    (tmp_path / "zeros.adj").symlink_to("/dev/zero")
    for name in ("pipe.edges", "zeros.adj"):
        with pytest.raises(ValueError, match=rf"{name} is not a regular file"):
            read_graph(tmp_path / name)
    monkeypatch.setattr(files, "MAX_BYTES", 3 << 20)
    (tmp_path / "long.edges").write_bytes(b"2\n0 1" + bytes(3 << 20))
    with pytest.raises(ValueError, match=r"long\.edges has more than 3 MiB"):
        read_graph(tmp_path / "long.edges")
    (tmp_path / "link.edges").symlink_to(put(tmp_path, "2\n0 1\n"))
    assert read_graph(tmp_path / "link.edges") == ring(2)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    assert read_graph(put(tmp_path, codecs.BOM_UTF8 + b"2\n0 1\n")) == ring(2)
    with pytest.raises(ValueError, match="only numbers"):
        read_graph(put(tmp_path, b"2\n" + codecs.BOM_UTF8 + b"0 1\n"))


@pytest.mark.parametrize("name", ["g.edges", "g.adj"])
def test_a_number_of_nodes_alone_takes_little_memory(tmp_path, name):
    path = put(tmp_path, f"{MAX_NODES}\n0 1\n", name)
    tracemalloc.start()
    with contextlib.suppress(ValueError):
        read_graph(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 64 << 20


nearly_right = st.text("0123456789 \n\r\t-", max_size=80)


@settings(max_examples=200)
@given(content=st.binary(max_size=120) | nearly_right.map(str.encode), kind=st.booleans())
@example(content=b"999999", kind=True)
@example(content=b"3\x0b\n0\x1c1\n", kind=True)
def test_noise_gives_a_graph_or_a_value_error(folder, content, kind):
    path = put(folder, content, "noise.edges" if kind else "noise.adj")
    try:
        graph = read_graph(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert graph.n >= 1


@quick
@given(data=st.data())
def test_a_damaged_file_gives_a_graph_or_a_value_error(folder, data):
    text = bytearray(b"8\n" + b"".join(b"%d %d\n" % (i, (i + 1) % 8) for i in range(8)))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + 1] = data.draw(st.binary(max_size=2))
    for name in ("damaged.edges", "damaged.adj"):
        try:
            read_graph(put(folder, bytes(text), name))
        except ValueError as error:
            assert name in str(error)


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="write this as adjacency"):
        write_graph(exponential(5), tmp_path / "g.edges")
    weighted = Graph(2, [(0, 1)], {(0, 1): 0.5})
    with pytest.raises(ValueError, match="hold no weights"):
        write_graph(weighted, tmp_path / "g.adj")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    path = put(tmp_path, "2\n0 1\n")

    def full(self, *args, **kwargs):
        Path.touch(self)
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="disk full"):
        write_graph(ring(5), path)
    assert [p.name for p in tmp_path.iterdir()] == ["g.edges"]
    assert read_graph(path) == ring(2)


def test_the_file_appears_only_once_it_is_whole(tmp_path):
    with written_aside(tmp_path / "out") as draft:
        draft.write_text("half")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out").read_text() == "half" and not draft.exists()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError, match="nowhere does not exist: make it first"):
        write_graph(ring(3), tmp_path / "nowhere" / "g.edges")


def test_a_large_graph_comes_back(tmp_path):
    graph = regular(1024, 6, 1)
    write_graph(graph, tmp_path / "large.edges")
    assert read_graph(tmp_path / "large.edges").digest() == graph.digest()
