"""Memory of messages that differ per neighbour and are made when they are read: ZIP-DL.

Sixteen nodes that all know each other say 240 different things in a round. Made at once, these
would be 240 rows; made when they are read, they are those of one node at a time.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import engine
from benchmarks.load import Load
from benchmarks.result import Result, medians

_NODES = 16
_LOAD = Load("exchange.Million", _NODES, 8, 1, (8, 8, 1))
_PARAMETERS = 999_985
#: a node's row, the one before, which messages are made of, and the mean of its noise; those heard
#: by one node, if all are made before any is merged; the noise of a message while it is made
#: (twice), and work rows of model and gradient
ROWS = 3 * _NODES + (_NODES - 1) + 2 + 2
_BOUND = 1.25
#: rows that a noisy method of ours may take for each node, whatever its degree
_A_NODE = 4.0


def peak(ini: Path, cache: Path, iterations: int, out: Any) -> None:
    """Put the most bytes that a run in this process had in memory."""
    import torch

    from decentralizepy.engine.process import tune_malloc
    from decentralizepy.graphs.generators import regular
    from decentralizepy.here import run_here

    tune_malloc()
    torch.set_num_threads(1)
    run_here(
        ini, regular(_NODES, _NODES - 1, 0), iterations,
        test_after=0, train_evaluate_after=0, cache_dir=cache,
    )  # fmt: skip
    out.put(_most_memory())


def _most_memory() -> int:
    """Bytes of this process's memory at its peak, without pages of files: code, once it has run."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    peak, files = (int(fields[name].split()[0]) for name in ("VmHWM", "RssFile"))
    return 1024 * (peak - files)


def in_a_process(ini: Path, cache: Path, iterations: int) -> int:
    """The same, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    child = context.Process(target=peak, args=(ini, cache, iterations, out))
    child.start()
    found = out.get(timeout=600)
    child.join()
    return int(found)


def results(folder: Path, repeats: int) -> Iterator[Result]:
    """Peak memory of ZIP-DL with fifteen neighbours, in rows, against those it should need."""
    said = f"{_NODES * (_NODES - 1)} different messages a round"
    rows = _rows(folder, {"sharing_package": "zip_dl", "sharing_class": "ZipDL"}, repeats)
    detail = f"{rows:.0f} rows, {ROWS} needed, {said}"
    yield Result("deferred, ZIP-DL of degree 15: rows / needed", rows / ROWS, _BOUND, detail)
    ours = {"sharing_package": "decentralizepy.sharing.ZeroSumSharing",
            "sharing_class": "ZeroSumSharing", "noise_std": "0.1"}  # fmt: skip
    rows = _rows(folder, ours, repeats)
    detail = f"{rows:.0f} rows for {_NODES} nodes, {said}"
    yield Result(
        "deferred, ZeroSumSharing of degree 15: rows a node", rows / _NODES, _A_NODE, detail
    )


def _rows(folder: Path, sharing: Mapping[str, str], repeats: int) -> float:
    """The most rows that a run of a few iterations has in memory; the median of some runs, since
    what the allocator can't use again differs."""
    ini = engine.write_ini(folder, _LOAD, {"SHARING": dict(sharing)})
    in_a_process(ini, folder / "cache", 0)  # prepares the data set, which takes memory of its own
    found = medians(
        repeats,
        {
            "before": lambda: in_a_process(ini, folder / "cache", 0),
            "most": lambda: in_a_process(ini, folder / "cache", 3),
        },
    )
    rows = (found["most"] - found["before"]) / (4 * _PARAMETERS)
    return rows + _NODES  # nodes' own are seated before
