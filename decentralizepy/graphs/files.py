"""Graph files, as the reference system reads and writes them.

``.edges``
    Line 1 is the number of nodes n, each further line a link ``u v``. Read as undirected;
    written both ways, as ``u v`` and ``v u``. The same line twice is an error, as is a node that
    is linked to itself.
``.adj`` (adjacency)
    Line 1 is n, line i + 2 the nodes to which node i sends: directed, empty if there are none,
    each named once.

A UTF-8 byte order mark before line 1 is passed over.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from decentralizepy.files import read_regular, replacing
from decentralizepy.graphs.graph import MAX_NODES, Edge, Graph

MAX_BYTES: Final = 512 << 20
"""A graph file has no more: some 40 million edges."""

KINDS = {".edges": "edges", ".adj": "adjacency"}
"""The kind of a graph file by the ending of its name."""


def read_graph(
    path: str | os.PathLike[str], kind: str | None = None, force_connect: bool = False
) -> Graph:
    """Read a graph file.

    Args:
        path: the file.
        kind: ``edges`` or ``adjacency``; ``None`` goes by the ending, ``.edges`` or ``.adj``.
        force_connect: add the ring 0 - 1 - ... - (n-1) - 0 to what the file says.

    Raises:
        ValueError: for malformed content; names the file, the line, and what to do. Also for
            more than 512 MiB, and for what is not a regular file.
        OSError: if the file can't be read.
    """
    path = Path(path)
    kind = _kind_of(path, kind)
    lines = _lines(path)
    n = _header(path, lines)
    parse = _parse_edges if kind == "edges" else _parse_adjacency
    edges = list(parse(path, n, lines[1:]))
    if force_connect:
        edges += [pair for u in range(n) for pair in _both_ways(u, (u + 1) % n)]
    return Graph(n, edges)


def write_graph(graph: Graph, path: str | os.PathLike[str], kind: str | None = None) -> None:
    """Write a graph file; kinds as in :func:`read_graph`.

    Raises:
        ValueError: if the format can't hold the graph (``.edges`` is undirected, and neither
            holds weights): nothing is lost silently.
        OSError: if the file can't be written.
    """
    path = Path(path)
    kind = _kind_of(path, kind)
    if graph.weights is not None:
        raise ValueError(f"{path}: graph files hold no weights: write Graph(g.n, g.edges)")
    if kind == "edges" and not graph.is_symmetric():
        raise ValueError(f"{path}: the edges format is undirected: write this as adjacency (.adj)")
    lines = _edge_lines(graph) if kind == "edges" else _adjacency_lines(graph)
    with written_aside(path) as draft:
        draft.write_text("".join(f"{line}\n" for line in lines), encoding="ascii", newline="\n")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a draft's path beside ``path``; it takes the name ``path`` once the block succeeds."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist: make it first")
    with replacing(path) as draft:
        yield draft


def _kind_of(path: Path, kind: str | None) -> str:
    if kind is None:
        kind = KINDS.get(path.suffix)
        if kind is None:
            raise ValueError(
                f"{path}: can't tell the kind of graph file from its ending {path.suffix!r}: "
                f"name it .edges or .adj, or say kind='edges' or 'adjacency'"
            )
    if kind not in KINDS.values():
        raise ValueError(f"unknown kind of graph file {kind!r}: use 'edges' or 'adjacency'")
    return kind


def _wrong(path: Path, line: int, what: str) -> NoReturn:
    raise ValueError(f"{path}, line {line}: {what}")


def _lines(path: Path) -> list[str]:
    content = read_regular(path, MAX_BYTES).removeprefix(codecs.BOM_UTF8)
    try:
        return [line.decode("ascii") for line in content.splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a graph file: only numbers may stand in it") from None


def _header(path: Path, lines: list[str]) -> int:
    words = lines[0].split() if lines else []
    if not words:
        _wrong(path, 1, "empty: the first line must be the number of nodes")
    if len(words) != 1 or not words[0].isdecimal():
        _wrong(path, 1, f"{_short(lines[0])} is not the number of nodes: write it alone, in digits")
    n = int(words[0]) if len(words[0]) < 10 else MAX_NODES + 1
    if not 1 <= n <= MAX_NODES:
        _wrong(path, 1, f"{_short(words[0])} nodes: must be from 1 to {MAX_NODES}")
    return n


def _parse_edges(path: Path, n: int, body: list[str]) -> Iterator[Edge]:
    end = max((i + 1 for i, text in enumerate(body) if text.strip()), default=0)
    first: dict[Edge, int] = {}
    for number, text in enumerate(body[:end], start=2):
        words = text.split()
        if len(words) != 2:
            _wrong(path, number, f"{_short(text)} is not an edge: write two node numbers, 'u v'")
        u, v = (_node(path, number, n, word) for word in words)
        if u == v:
            _wrong(path, number, f"node {u} is linked to itself: delete the line")
        if first.setdefault((u, v), number) != number:
            _wrong(path, number, f"'{u} {v}' stands on line {first[u, v]} too: delete one of them")
        yield from _both_ways(u, v)


def _parse_adjacency(path: Path, n: int, body: list[str]) -> Iterator[Edge]:
    if len(body) < n:
        _wrong(
            path,
            len(body) + 1,
            f"the file ends after {len(body)} of {n} nodes: write one line for each, "
            f"an empty one for a node that sends to nobody",
        )
    for number, text in enumerate(body[n:], start=n + 2):
        if text.strip():
            _wrong(path, number, f"there are only {n} nodes: delete the line, or correct line 1")
    for u, text in enumerate(body[:n]):
        heard: set[int] = set()
        for word in text.split():
            v = _node(path, u + 2, n, word)
            if u == v:
                _wrong(path, u + 2, f"node {u} sends to itself: delete {v} from its line")
            if v in heard:
                _wrong(path, u + 2, f"node {u} sends to {v} twice: delete one of them")
            heard.add(v)
            yield u, v


def _node(path: Path, number: int, n: int, word: str) -> int:
    if not word.isdecimal():
        _wrong(
            path, number, f"{_short(word)} is not a node number: write a whole number, in digits"
        )
    if len(word) > 9 or int(word) >= n:
        _wrong(path, number, f"there is no node {_short(word)}: the nodes are 0 to {n - 1}")
    return int(word)


def _both_ways(u: int, v: int) -> list[Edge]:
    """The two edges of a link; none for the 'ring' of a single node."""
    return [(u, v), (v, u)] if u != v else []


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _edge_lines(graph: Graph) -> Iterator[str]:
    yield str(graph.n)
    yield from (f"{u} {v}" for u, v in graph.edges)


def _adjacency_lines(graph: Graph) -> Iterator[str]:
    yield str(graph.n)
    yield from (" ".join(map(str, graph.out_neighbors(uid))) for uid in range(graph.n))
