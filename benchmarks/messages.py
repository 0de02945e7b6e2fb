"""Messages between two workers of a machine that are more than a row: parts of one, or with meta.

Eight nodes of either worker send to eight of the other and hear them, iteration after iteration.
A message's time is that of sending one and hearing one, on a core.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from benchmarks import engine
from benchmarks.load import Load
from benchmarks.result import Result, medians

_PARAMETERS = 999_985
_NODES = 16
_LOAD = Load("exchange.Million", _NODES, 2, 1)
#: GB/s of what a worker sends, at least
_SPARSE = 1.0
#: microseconds of a row with meta
_META = 150.0


def seconds(folder: Path, iterations: int, what: str, share: float = 0.01) -> float:
    """Seconds of a message."""
    named = {"node_package": "exchange", "node_class": "Exchange", "what": what, "share": share}
    more = {"NODE": named}
    iteration = engine.seconds(folder, _LOAD, 2, iterations, degree=0, more=more)
    return iteration / (_NODES // 2)


def copying(nbytes: int, copies: int = 200) -> float:
    """Seconds to copy as many bytes from one place of memory to another, on one core."""
    import torch

    torch.set_num_threads(1)
    source = torch.randint(0, 256, (8, nbytes), dtype=torch.uint8)
    target = torch.empty_like(source)
    taken = []
    for i in range(copies):
        started = perf_counter()
        target[i % 8].copy_(source[i % 8])
        taken.append(perf_counter() - started)
    return statistics.median(taken)


def sparse(folder: Path, share: float, iterations: int, repeats: int) -> Iterator[Result]:
    """Values and int32 indices of a share of a million parameters."""
    nbytes = 8 * round(share * _PARAMETERS)
    found = medians(
        repeats,
        {
            "sent": lambda: seconds(folder, iterations, "sparse", share),
            "copied": lambda: copying(nbytes),
        },
    )
    rate = {name: nbytes / value / 1e9 for name, value in found.items()}
    name = f"messages, {share:.0%} of 1M parameters: GB/s"
    detail = (
        f"{1e6 * found['sent']:.0f} us a message of {nbytes / 1e3:.0f} kB; a copy: "
        f"{1e6 * found['copied']:.0f} us, {rate['copied']:.1f} GB/s"
    )
    yield Result(name, rate["sent"], _SPARSE, detail, at_least=True)


def row_and_meta(folder: Path, repeats: int) -> Iterator[Result]:
    """A row of a million parameters with meta, and without."""
    found = medians(
        repeats,
        {
            "with": lambda: seconds(folder, 500, "row and meta"),
            "without": lambda: seconds(folder, 500, "row"),
        },
    )
    us = {name: 1e6 * value for name, value in found.items()}
    detail = f"{us['without']:.0f} us without meta"
    yield Result("messages, row and meta, 1M parameters: us", us["with"], _META, detail)


def results(folder: Path, repeats: int) -> Iterator[Result]:
    """All rows of this file."""
    yield from sparse(folder, 0.01, 500, repeats)
    yield from sparse(folder, 0.1, 100, repeats)
    yield from row_and_meta(folder, repeats)
