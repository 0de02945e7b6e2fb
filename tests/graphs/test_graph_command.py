"""The graph command: the reference's options, reports, and mistakes."""

import argparse

import pytest

from decentralizepy.graphs import command
from decentralizepy.graphs.files import read_graph, write_graph
from decentralizepy.graphs.generators import (
    erdos_renyi,
    exponential,
    regular,
    ring,
    small_world,
    star,
    torus,
)
from decentralizepy.graphs.graph import Graph


def run(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args([str(word) for word in words]))


@pytest.mark.parametrize(
    ("options", "graph"),
    [
        ("-g Regular -n 16 -s 90 -d 4", regular(16, 4, 90)),
        ("--graph Regular --nodes 16 --seed 90 --degree 4", regular(16, 4, 90)),
        ("-g Ring -n 5 -s 3", ring(5)),
        ("-g star -n 5", star(5)),
        ("-g SmallWorld -n 20 -k 2 -b 0.2 -s 4", small_world(20, 2, 0.2, 4)),
        ("-g SmallWorld -n 20 --kover2 2 --beta 0.2", small_world(20, 2, 0.2, 0)),
        ("-g ErdosRenyi -n 20 -p 0.4 -s 1", erdos_renyi(20, 0.4, 1)),
        ("-g Torus -n 12", torus(3, 4)),
    ],
)
def test_graphs_are_made(tmp_path, capsys, options, graph):
    path = tmp_path / "g.edges"
    assert run(*options.split(), "-f", path) == 0
    assert read_graph(path) == graph
    assert capsys.readouterr().out == f"{path}: {graph.describe()}\n"


def test_adjacency_by_flag_or_ending(tmp_path):
    assert run("-g", "Exponential", "-n", 6, "-a", "-f", tmp_path / "g.txt") == 0
    assert run("-g", "Exponential", "-n", 6, "-f", tmp_path / "g.adj") == 0
    assert (tmp_path / "g.txt").read_text() == (tmp_path / "g.adj").read_text()
    assert read_graph(tmp_path / "g.adj") == exponential(6)


def test_pictures_of_new_and_old_graphs(tmp_path):
    one, two, path = tmp_path / "1.pdf", tmp_path / "2.pdf", tmp_path / "g.edges"
    assert run("-g", "Ring", "-n", 6, "-f", path, "--picture", one) == 0
    assert run("--check", path, "--picture", two) == 0
    assert one.read_bytes() == two.read_bytes()


def facts(capsys):
    lines = capsys.readouterr().out.splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def test_check_describes_a_file(tmp_path, capsys):
    write_graph(star(5), tmp_path / "g.edges")
    assert run("--check", tmp_path / "g.edges") == 0
    assert facts(capsys) == {
        "nodes": "5",
        "edges": "4",
        "degrees": "1 to 4",
        "connected": "yes",
        "regular": "no",
        "spectral gap": "0.200000 (Metropolis-Hastings weights)",
    }


def test_check_knows_one_way_and_unconnected_graphs(tmp_path, capsys):
    write_graph(exponential(8), tmp_path / "g.adj")
    assert run("--check", tmp_path / "g.adj") == 0
    found = facts(capsys)
    assert found["edges"] == "24 (one-way)" and found["degrees"] == "3"
    assert found["spectral gap"] == "0.500000 (uniform weights)"
    write_graph(Graph(4, []), tmp_path / "g.edges")
    assert run("--check", tmp_path / "g.edges") == 0
    found = facts(capsys)
    assert found["connected"] == "no" and found["spectral gap"].startswith("0.000000")


def test_check_spares_the_eigenvalues_of_huge_graphs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "SPECTRUM_UP_TO", 4)
    write_graph(ring(5), tmp_path / "g.edges")
    assert run("--check", tmp_path / "g.edges") == 0
    assert facts(capsys)["spectral gap"] == "not computed for more than 4 nodes"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "-g NAME is missing"),
        ("-g Ring -f OUT", "-n N is missing"),
        ("-g Ring -n 5", "-f OUT is missing"),
        ("-g Rnig -n 5 -f OUT", "did you mean Ring"),
        ("-g Ring -n 5 -d 4 -f OUT", "-d means nothing for Ring"),
        ("-g Regular -n 5 -f OUT", "Regular needs -d"),
        ("-g Regular -n 5 -d 3 -f OUT", "must be even"),
        ("-g SmallWorld -n 20 -k 2 -f OUT", "SmallWorld needs -b"),
        ("-g Exponential -n 5 -f OUT", "write this as adjacency"),
        ("-g Ring -n 0 -f OUT", "1 to"),
        ("-g FullyConnected -n 200000 -f OUT", "19999900000 links, at most 10000000"),
        ("-g Regular -n 100000 -d 50000 -f OUT", "2500000000 links, at most"),
        ("-g SmallWorld -n 100000 -k 40000 -b 0.1 -f OUT", "4000000000 links, at most"),
        ("-g ErdosRenyi -n 100000 -p 0.5 -f OUT", "links, at most"),
        ("--check /dev/zero -a", "/dev/zero is not a regular file"),
        ("--check OUT", "No such file"),
        ("--check OUT -g Ring", "one or the other"),
    ],
)
def test_mistakes_are_one_line_on_stderr(tmp_path, capsys, options, words):
    out = tmp_path / "out.edges"
    assert run(*(out if word == "OUT" else word for word in options.split())) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("decentralizepy graph: ") and words in printed.err
    assert not out.exists()


def test_a_missing_library_is_a_message_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    words = ("-g", "Ring", "-n", 3, "-f", tmp_path / "g.edges", "--picture", tmp_path / "g.pdf")
    assert run(*words) == 2
    assert "decentralizepy[results]" in capsys.readouterr().err


def test_every_generator_option_has_a_flag():
    options = {o for make in command.GENERATORS.values() for o in command.options_of(make)}
    assert options == set(command.FLAGS)
