"""A round of a noisy method against the kernels of torch that it cannot do without.

What a node with six neighbours says is made, looked at and merged by others; that takes draws of
normal numbers, copies of the row, and the multiply-adds of a merge. These are timed alone, over
rows of the same length, in the blocks in which the methods draw.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.result import Result, medians

_PARAMETERS, _DEGREE = 4_000_000, 6
_BOUND = 1.3
#: method, its options, and how many draws and copies of a row a round takes
CASES: Mapping[str, tuple[str, Mapping[str, Any], int, int]] = {
    "ZeroSumSharing": ("zero_sum", {"noise_std": 0.1}, 2 * _DEGREE, _DEGREE),
    "Muffliato": ("muffliato", {"noise_std": 0.1}, 1, 1),
    "AntiCorSharing": ("anti_cor", {"noise_std": 0.1}, 2, 1),
}


def _measure(name: str, repeats: int, out: Any) -> None:
    """Put the median CPU seconds of a round and of its kernels."""
    import torch

    from decentralizepy.engine.process import tune_malloc

    tune_malloc()
    torch.set_num_threads(1)
    _, _, draws, copies = CASES[name]
    out.put(medians(repeats, {"round": _round(name), "kernels": _kernels(draws, copies)}))


def _round(name: str) -> Callable[[], float]:
    import importlib

    import torch

    from decentralizepy.graphs.generators import regular
    from decentralizepy.sharing.context import Context

    module, options, _, _ = CASES[name]
    kind = getattr(importlib.import_module(f"decentralizepy.sharing.{module}"), name)
    node, graph, x = kind(**options), regular(2 * _DEGREE, _DEGREE, 0), torch.randn(_PARAMETERS)
    rows = [torch.empty_like(x), torch.empty_like(x)]

    def seconds() -> float:
        turn = iter(rows)
        ctx = Context(0, 1, 0, graph, node.mixing(graph, 0), len(x), 1, lambda: next(turn))
        start = time.thread_time()
        heard = []
        for receivers, message in node.outgoing(x, ctx):
            for _ in receivers:  # as one who hears that much would
                heard.append(message.stamped(ctx.sources[len(heard)], ctx.round))
        node.merge(x, heard, ctx)
        return time.thread_time() - start

    return seconds


def _kernels(draws: int, copies: int) -> Callable[[], float]:
    import torch

    from decentralizepy.sharing.noise import BLOCK

    row, other = torch.randn(_PARAMETERS), torch.randn(_PARAMETERS)
    buffer, source = torch.empty(BLOCK), torch.Generator()

    def seconds() -> float:
        start = time.thread_time()
        for draw in range(draws):
            source.manual_seed(draw)
            for at in range(0, len(row), BLOCK):
                buffer[: len(row) - at].normal_(generator=source)
        for _ in range(copies):
            row.copy_(other)
        torch.mul(other, 0.5, out=row)
        for _ in range(_DEGREE):
            row.add_(other, alpha=0.1)
        return time.thread_time() - start

    return seconds


def in_a_process(name: str, repeats: int) -> dict[str, float]:
    """The same, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    child = context.Process(target=_measure, args=(name, repeats, out))
    child.start()
    found: dict[str, float] = out.get(timeout=600)
    child.join()
    return found


def results(folder: Path, repeats: int) -> Iterator[Result]:
    """A round of each noisy method, as multiples of its kernels."""
    for name, (_, _, draws, copies) in CASES.items():
        found = in_a_process(name, repeats)
        detail = (
            f"{1e3 * found['round']:.0f} ms, {draws} draws, {copies} copies and a merge of "
            f"{_DEGREE} rows of {_PARAMETERS / 1e6:.0f} million take {1e3 * found['kernels']:.0f}"
        )
        yield Result(f"noise, {name}: round / kernels", found["round"] / found["kernels"], _BOUND,
                     detail)  # fmt: skip
