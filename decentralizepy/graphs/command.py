"""The command ``decentralizepy graph``: make a graph file, check one, draw it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decentralizepy.graphs.files import KINDS, read_graph, write_graph
from decentralizepy.graphs.generators import GENERATORS, find_generator, generate, options_of
from decentralizepy.graphs.graph import Graph

SPECTRUM_UP_TO = 2048
"""Nodes up to which ``--check`` computes eigenvalues (seconds; the cost grows with n cubed)."""

FLAGS = {"seed": "-s", "degree": "-d", "k_over_2": "-k", "beta": "-b", "p": "-p"}
"""The flag of each generator option."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; letters and names are those of the reference system's graph script."""
    add = parser.add_argument
    add("-g", "--graph", metavar="NAME", help=f"one of {', '.join(GENERATORS)}")
    add("-n", "--nodes", type=int, metavar="N", help="number of nodes")
    add("-s", "--seed", type=int, default=0, help="seed of random graphs (default: %(default)s)")
    add("-d", "--degree", type=int, help="neighbours of each node (Regular)")
    add("-k", "--kover2", type=int, dest="k_over_2", help="neighbours on each side (SmallWorld)")
    add("-b", "--beta", type=float, help="probability that a link is rewired (SmallWorld)")
    add("-p", "--probability", type=float, dest="p", help="probability of a link (ErdosRenyi)")
    add("-f", "--file", type=Path, metavar="OUT", help="the graph file to write")
    add("-a", "--adjacency", action="store_true", help="adjacency format instead of edges")
    add("--picture", type=Path, metavar="PDF", help="also draw the graph into this PDF file")
    add("--check", type=Path, metavar="FILE", help="describe an existing graph file")


def main(args: argparse.Namespace) -> int:
    """Do what the arguments of :func:`add_arguments` say; 0, or 2 for a user's mistake."""
    try:
        _make_or_check(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"decentralizepy graph: {error}", file=sys.stderr)
        return 2
    return 0


def _make_or_check(args: argparse.Namespace) -> None:
    if args.check is not None and (args.graph is not None or args.file is not None):
        raise ValueError("--check describes a file, -g and -f make one: give one or the other")
    graph = _make(args) if args.check is None else _check(args)
    if args.picture is not None:
        from decentralizepy.graphs.picture import draw

        draw(graph, args.picture)
        print(f"{args.picture}: drawn")


def _make(args: argparse.Namespace) -> Graph:
    for flag, value in (("-g NAME", args.graph), ("-n N", args.nodes), ("-f OUT", args.file)):
        if value is None:
            raise ValueError(f"{flag} is missing: give -g, -n and -f, or --check FILE")
    graph = generate(args.graph, args.nodes, **_options(args))
    write_graph(graph, args.file, _kind(args.file, args.adjacency))
    print(f"{args.file}: {graph.describe()}")
    return graph


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The generator's options that were given; a seed is harmless where nothing is random."""
    name, generator = find_generator(args.graph)
    takes = options_of(generator)
    given = {option: getattr(args, option) for option in FLAGS}
    given = {option: value for option, value in given.items() if value is not None}
    for option, flag in FLAGS.items():
        if option in given and option not in takes and option != "seed":
            raise ValueError(f"{flag} means nothing for {name}: leave it out")
        if option in takes and option not in given:
            raise ValueError(f"{name} needs {flag}: add it")
    return {option: value for option, value in given.items() if option in takes}


def _check(args: argparse.Namespace) -> Graph:
    graph = read_graph(args.check, _kind(args.check, args.adjacency))
    for name, value in _facts(graph):
        print(f"{name + ':':<14} {value}")
    return graph


def _facts(graph: Graph) -> Iterator[tuple[str, object]]:
    low, high = min(graph.degrees()), max(graph.degrees())
    yield "nodes", graph.n
    yield "edges", graph.size // 2 if graph.is_symmetric() else f"{graph.size} (one-way)"
    yield "degrees", f"{low}" if low == high else f"{low} to {high}"
    yield "connected", "yes" if graph.is_connected() else "no"
    yield "regular", "yes" if graph.is_regular() else "no"
    yield "spectral gap", _gap(graph)


def _gap(graph: Graph) -> str:
    """The gap of the weights that a run would use by default on this graph."""
    from decentralizepy.graphs import mixing

    if graph.n > SPECTRUM_UP_TO:
        return f"not computed for more than {SPECTRUM_UP_TO} nodes"
    both_ways = graph.is_symmetric()
    rule = mixing.metropolis_hastings if both_ways else mixing.uniform
    gap = mixing.spectral_gap(mixing.mixing_matrix(graph, rule))
    return f"{gap:.6f} ({'Metropolis-Hastings' if both_ways else 'uniform'} weights)"


def _kind(path: Path, adjacency: bool) -> str:
    """Adjacency if asked for or if the name ends so; edges otherwise, as in the reference."""
    return "adjacency" if adjacency else KINDS.get(path.suffix, "edges")
