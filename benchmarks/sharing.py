"""A step of a sparse method against the library calls that it consists of, each timed alone.

One node with six neighbours says a tenth of its row and merges what they say, without engine and
transport. Times are CPU seconds of the thread, the least of several. A call is timed on the rows of
seven nodes in turn: in training numbers change from step to step, whereas with the same ones again
and again a processor learns where a search finds something, and a cache holds what would come from
memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.result import Result, minima

if TYPE_CHECKING:
    from torch import Tensor

    from decentralizepy.sharing.sharing import Sharing

DEGREE, ALPHA, BOUND = 6, 0.1, 1.3
#: parameters of LeNet and of RNET
SIZES = {"90 k": 89_834, "2.8 M": 2_811_678}
_PART = {"less": 1, "size": 1, "select": 1, "compare": 1, "gather": 1}
_HEARD = {"gather": DEGREE, "scatter": DEGREE}
_ALL = {"accumulation": True, "accumulate_averaging_changes": True}
#: how often a step of a method makes each call of `kernels`
RECIPES: Mapping[str, tuple[dict[str, Any], list[dict[str, int]]]] = {
    "SubSampling": ({}, [_HEARD, {"seed": DEGREE + 1, "draw": DEGREE + 1, "gather": 1,
                             "copy": 1}]),
    "PartialModel": ({}, [_PART, _HEARD, {"copy": 1}]),
    "PartialModel, accumulating": (_ALL, [_PART, _HEARD, {"copy": 1, "add": 3, "fill": 1}]),
    "FFT": ({}, [{f"{name} of pairs": times for name, times in (_PART | _HEARD).items()},
                 {"gather of pairs": 1, "fft": 2, "ifft": 1, "zeros": 1, "copy": 1, "add": 1}]),
    "Wavelet": ({}, [_PART, _HEARD, {"dwt": 2, "idwt": 1, "zeros": 1, "copy": 1, "add": 1}]),
    "Choco": ({"step_size": 0.4}, [_PART, {"scatter to each": DEGREE + 1, "copy": 1,
                                           "add": DEGREE + 1}]),
}  # fmt: skip


def make(name: str, options: Mapping[str, Any]) -> Sharing:
    """A method by its name."""
    from decentralizepy.registry import legacy, target

    kind = name.split(",")[0]
    (package,) = (one for one in legacy() if one.endswith(f".{kind}") and ".sharing." in one)
    found: Sharing = target(package, kind).load()(alpha=ALPHA, **options)
    return found


class Step:
    """One node's part of a round, again and again, with the same messages of its neighbours."""

    def __init__(self, make: Callable[[], Sharing], rows: Tensor) -> None:
        from decentralizepy.graphs.generators import fully_connected

        self.graph = fully_connected(DEGREE + 1)
        self.methods = [make() for _ in rows]
        self.rows, self.out = list(rows), rows[0].clone()
        self.others = cycle([rows[0], 0.8 * rows[0].roll(1)])  # as if it had been trained
        for method, row in zip(self.methods, rows, strict=True):
            method.begin(0.9 * row)
        self.mixing = [one.mixing(self.graph, uid) for uid, one in enumerate(self.methods)]
        self.heard = [self._say(uid) for uid in range(1, DEGREE + 1)]

    def _context(self, uid: int) -> Any:
        from decentralizepy.sharing.context import Context

        n = len(self.out)
        return Context(uid, 0, 0, self.graph, self.mixing[uid], n, 0, lambda: self.out)

    def _say(self, uid: int) -> Any:
        ((_, message),) = self.methods[uid].outgoing(self.rows[uid], self._context(uid))
        return message.stamped(uid, (0, 0))

    def __call__(self) -> None:
        self.rows[0] = next(self.others)
        self._say(0)
        heard = [one.carrying(one.tensors) for one in self.heard]  # not decoded yet
        self.methods[0].merge(self.rows[0], heard, self._context(0))


def kernels(rows: Tensor) -> dict[str, Callable[[], Any]]:
    """Calls of libraries, on what a method would hand them: one row after the other."""
    out = rows[0].clone()
    of_rows = [_of_row(row, out) for row in rows]
    return {name: _in_turn([calls[name] for calls in of_rows]) for name in of_rows[0]}


def _in_turn(calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    turns = cycle(calls)
    return lambda: next(turns)()


def _of_row(x: Tensor, out: Tensor) -> dict[str, Callable[[], Any]]:
    import numpy as np
    import pywt
    import torch

    n = len(x)
    waves, rng = pywt.wavedec(x.numpy(), "haar", level=4), np.random.default_rng(0)
    spectrum = torch.fft.rfft(x)
    draws, seeds = round(ALPHA * n), count()
    return {
        **_selecting(x, out, ""),
        **_selecting(spectrum, spectrum.clone(), " of pairs"),
        "copy": lambda: torch.mul(x, 1.0, out=out),
        "add": lambda: out.add_(x, alpha=0.0),
        "zeros": lambda: torch.zeros_like(x),
        "seed": lambda: np.random.Generator(np.random.PCG64(next(seeds))),
        "draw": lambda: np.cumsum(rng.standard_exponential(draws)),
        "fft": lambda: torch.fft.rfft(x),
        "ifft": lambda: torch.fft.irfft(spectrum, n=n),
        "dwt": lambda: np.concatenate(pywt.wavedec(x.numpy(), "haar", level=4)),
        "idwt": lambda: pywt.waverec(waves, "haar"),
    }


def _selecting(x: Tensor, out: Tensor, kind: str) -> dict[str, Callable[[], Any]]:
    import numpy as np
    import torch

    n, sizes = len(x), x.abs()
    k = round(ALPHA * n)
    some = torch.from_numpy(np.sort(np.argpartition(sizes.numpy(), n - k)[n - k :]))
    values, least = x[some], sizes[some].min().item()
    return {
        f"less{kind}": lambda: torch.sub(x, out),
        f"size{kind}": lambda: x.abs(),
        f"select{kind}": lambda: np.partition(sizes.numpy(), n - k),
        f"compare{kind}": lambda: np.flatnonzero(sizes.numpy() >= least),
        f"gather{kind}": lambda: x.index_select(0, some),
        f"scatter{kind}": lambda: out.index_add_(0, some, values, alpha=0.0),
        f"scatter to each{kind}": lambda: x.index_add_(0, some, values, alpha=0.0),
        f"fill{kind}": lambda: out.index_fill_(0, some, 0),
    }


def seconds(work: Callable[[], Any], least: float = 0.02) -> float:
    """CPU seconds of one call, over calls that take a while together."""
    calls, begun = 0, time.thread_time()
    while (taken := time.thread_time() - begun) < least:
        work()
        calls += 1
    return taken / calls


def results(folder: Path, repeats: int) -> Iterator[Result]:
    """Each method's step, in parts of its kernels' time."""
    import torch

    from decentralizepy.engine.process import tune_collector, tune_malloc

    tune_malloc()
    tune_collector(1)  # as in a worker
    torch.set_num_threads(1)
    for size, n in SIZES.items():
        rows = torch.randn(DEGREE + 1, n)
        calls = kernels(rows)
        for name, (options, recipe) in RECIPES.items():
            step = Step(partial(make, name, options), rows)
            used = {kernel for part in recipe for kernel in part}
            work = {"step": step, **{kernel: calls[kernel] for kernel in used}}
            measures = {what: partial(seconds, call) for what, call in work.items()}
            found = minima(5 * repeats, measures)
            alone = sum(times * found[one] for part in recipe for one, times in part.items())
            detail = f"{1e3 * found['step']:.2f} ms, kernels {1e3 * alone:.2f} ms"
            title = f"sharing, {name}, {size} numbers: step / kernels"
            yield Result(title, found["step"] / alone, BOUND, detail)
