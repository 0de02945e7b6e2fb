"""How fast chains pack and unpack a row of a million numbers, by the seconds of one core."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING

from benchmarks.result import Result, medians

if TYPE_CHECKING:
    from decentralizepy.compression.chain import Chain

_NUMBERS = 1_000_000
#: MB/s of input, at least
_PACKING = 200.0
#: top-k with sorted indices against `torch.topk` alone
_TOP_K = 1.3
#: chains whose speed has a bound; fpzip and LZ4 are libraries, so theirs is only shown
_BOUND = (
    "fp16",
    "uniform",
    "uniform(levels=7)",
    "qsgd",
    "qsgd(levels=7)",
    "scaled_sign",
    "low_rank",
    "random_k(alpha=0.1)",
    "top_k(alpha=0.1)",
    "top_k(alpha=0.1) + elias_gamma + fp16",
    "top_k(alpha=0.01) + elias_gamma + qsgd(levels=7)",
    "top_k(alpha=0.01) + golomb + scaled_sign",
)
_SHOWN = ("error_feedback + top_k(alpha=0.1) + elias_gamma + fp16", "lz4", "fpzip(precision=16)")
_CALLS = 9


def _seconds(call: Callable[[], object]) -> float:
    """Median processor seconds of a call."""
    taken = []
    for _ in range(_CALLS):
        started = process_time()
        call()
        taken.append(process_time() - started)
    return statistics.median(taken)


def _chain(text: str) -> Chain:
    from decentralizepy.chaintext import read_chain
    from decentralizepy.compression.chain import Chain

    return Chain(*(found.load()(**options) for found, options in read_chain(text, "benchmark")))


def chains(repeats: int) -> Iterator[Result]:
    """MB/s of float32 that go into a chain, and that come out of it again."""
    import numpy as np
    import torch

    x, rng = torch.randn(_NUMBERS), np.random.default_rng(1)
    for text in (*_BOUND, *_SHOWN):
        chain = _chain(text)
        packed = chain.compress(x, rng)
        found = medians(
            repeats,
            {
                "pack": lambda chain=chain: _seconds(lambda: chain.compress(x, rng)),
                "unpack": lambda chain=chain, packed=packed: _seconds(
                    lambda: chain.decompress(packed.tensors, packed.meta, _NUMBERS)
                ),
            },
        )
        share = f"{packed.nbytes / x.nbytes:.1%} of the bytes"
        for way, seconds in found.items():
            bound = _PACKING if text in _BOUND else None
            name = f"compression, {way} {text}: MB/s"
            yield Result(name, x.nbytes / seconds / 1e6, bound, share, at_least=True)


def indices(repeats: int) -> Iterator[Result]:
    """MB/s of int32 indices into Elias codes and back; of 4-bit numbers, held in bytes."""
    import torch

    from decentralizepy.compression import bits
    from decentralizepy.compression.elias_gamma import EliasGamma

    coder = EliasGamma()
    for n, k in ((_NUMBERS, 100_000), (10 * _NUMBERS, _NUMBERS)):
        chosen = torch.randperm(n)[:k].sort().values
        tensors, meta = coder.encode(chosen, n)
        found = medians(
            repeats,
            {
                "encode": lambda chosen=chosen, n=n: _seconds(lambda: coder.encode(chosen, n)),
                "decode": lambda tensors=tensors, meta=meta, n=n: _seconds(
                    lambda: coder.decode(tensors, meta, n)
                ),
            },
        )
        size = f"{8 * sum(t.nbytes for t in tensors.values()) / k:.1f} bits an index"
        for way, seconds in found.items():
            name = f"compression, Elias, {way} {k:,} indices: MB/s"
            yield Result(name, 4 * k / seconds / 1e6, _PACKING, size, at_least=True)
    numbers = torch.randint(0, 16, (_NUMBERS,), dtype=torch.uint8)
    seconds = _seconds(lambda: bits.pack(numbers, 4))
    rate = _NUMBERS / seconds / 1e6
    yield Result("compression, 4-bit packing: MB/s", rate, _PACKING, "bytes in", at_least=True)


def top_k(repeats: int) -> Iterator[Result]:
    """Sorted indices of the largest numbers against `torch.topk` of the magnitudes alone."""
    import torch

    from decentralizepy.compression.top_k import largest

    x = torch.randn(_NUMBERS)
    for share in (0.01, 0.1, 0.3):
        k = int(share * _NUMBERS)
        found = medians(
            repeats,
            {
                "ours": lambda k=k: _seconds(lambda: largest(x, k)),
                "torch": lambda k=k: _seconds(lambda: x.abs().topk(k, sorted=False)),
            },
        )
        detail = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in found.items())
        name = f"compression, top {share:.0%} of 1M: time / torch.topk"
        yield Result(name, found["ours"] / found["torch"], _TOP_K, detail)


def results(folder: Path, repeats: int) -> Iterator[Result]:
    """All rows of this file."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from chains(repeats)
        yield from indices(repeats)
        yield from top_k(repeats)
    finally:
        torch.set_num_threads(threads)
