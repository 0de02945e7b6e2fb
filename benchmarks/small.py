"""Many small models: what a node costs in an iteration, beside the arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import engine, loops
from benchmarks.load import Load
from benchmarks.result import Result, medians

#: samples of a node: enough for two local steps of eight
_SAMPLES = 18
_DIGITS = 1442
#: microseconds that a node may take in an iteration on one worker
_BOUND = 50.0
_FASTER = 1.7
#: times as many repeats of the smaller case: two workers meet every 2 ms, so a machine's jitter
#: shows, and how near to one another the two processors lie
_MORE = 3


def load_of(nodes: int) -> Load:
    """Two local steps of eight digits on every node."""
    return Load("decentralizepy.models.digits.MLP", nodes, 8, 2, (8, 8, 1), _SAMPLES)


def sections_of(load: Load) -> engine.Sections:
    """As many digits as the nodes need."""
    times = -(-load.nodes * load.samples // _DIGITS)
    named = {"dataset_package": "many_digits", "dataset_class": "ManyDigits", "times": times}
    return {"DATASET": named}


def case(folder: Path, nodes: int, iterations: int, repeats: int) -> Iterator[Result]:
    """One worker against its bound and the bare loop; two against one, as bare loops do it."""
    load = load_of(nodes)
    more = sections_of(load)
    found = medians(
        repeats,
        {
            "bare": lambda: loops.seconds("gossip", load, 1, 1, iterations),
            "one": lambda: engine.seconds(folder, load, 1, iterations, more=more),
            "two": lambda: engine.seconds(folder, load, 2, iterations, more=more),
            "bare two": lambda: loops.seconds("gossip", load, 2, 1, iterations),
        },
    )
    us = {name: 1e6 * value / nodes for name, value in found.items()}
    name = f"small, {nodes} MLPs"
    yield Result(
        f"{name}, one worker: us a node and iteration", us["one"], _BOUND,
        f"{found['one']:.3f} s an iteration",
    )  # fmt: skip
    yield Result(
        f"{name}, one worker: engine / floor", us["one"] / us["bare"], None,
        f"bare loop {us['bare']:.1f} us",
    )  # fmt: skip
    yield Result(
        f"{name}: speed of two workers / of one", us["one"] / us["two"], _FASTER,
        f"{us['two']:.1f} us on two", at_least=True,
    )  # fmt: skip
    yield Result(
        f"{name}: the same of bare loops that meet", us["bare"] / us["bare two"], None,
        f"{us['bare two']:.1f} us on two",
    )  # fmt: skip


def by_messages(folder: Path, nodes: int, iterations: int, repeats: int) -> Iterator[Result]:
    """One worker whose nodes send their rows to one another."""
    load = load_of(nodes)
    node = {"NODE": {"node_package": "by_messages", "node_class": "ByMessages"}}
    more = {**sections_of(load), **node}
    found = medians(
        repeats, {"sent": lambda: engine.seconds(folder, load, 1, iterations, more=more)}
    )
    name = f"small, {nodes} MLPs by messages, one worker: us a node and iteration"
    yield Result(name, 1e6 * found["sent"] / nodes, None, "")


def results(folder: Path, repeats: int) -> Iterator[Result]:
    """100 and 10,000 nodes."""
    yield from case(folder, 100, 1500, _MORE * repeats)
    yield from by_messages(folder, 100, 300, repeats)
    yield from case(folder, 10_000, 10, repeats)
