"""Each part against its formula, at every length, for vectors of all kinds, and damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from compression_table import (
    CHAINS,
    CODERS,
    KINDS,
    SELECTORS,
    chain,
    decoded,
    part,
    rng,
    through,
    vector,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.compression import top_k
from decentralizepy.compression.base import CompressionError, Selector, Sparse, ValueCoder
from decentralizepy.compression.top_k import largest
from decentralizepy.messages.message import check_size
from decentralizepy.messages.meta import check_meta
from decentralizepy.registry import named

LENGTHS = (*range(10), 63, 64, 65, 513)


@pytest.mark.parametrize("text", CHAINS)
def test_every_length_passes_as_a_message_and_the_vector_stays_as_it_is(text: str) -> None:
    sender, receiver = chain(text), chain(text)
    for n in LENGTHS:
        x = vector(n)
        sender.load({})
        packed = sender.compress(x, rng())
        assert torch.equal(x, vector(n))
        check_size(packed.tensors)
        check_meta(packed.meta)
        meta = json.loads(json.dumps(packed.meta))
        found = receiver.decompress(packed.tensors, meta, n)
        assert len(found.dense() if isinstance(found, Sparse) else found) == n
        again = chain(text).compress(x, rng())
        assert again.meta == packed.meta, "the generator alone decides"
        assert all(torch.equal(again.tensors[name], packed.tensors[name]) for name in again.tensors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [*CODERS, *SELECTORS])
def test_it_contracts_as_stated(text: str, kind: str) -> None:
    """|C(x) - x|^2 <= (1 - delta) |x|^2, in the mean over draws where it draws."""
    found = part(text)
    assert isinstance(found, Selector | ValueCoder)
    draws = 40 if "qsgd" in text or "random" in text else 1
    for n in (1, 2, 7, 64, 300):
        x, delta = vector(n, kind).double(), found.contraction(n)
        if (
            delta is None
            or (kind == "tiny" and text == "fp16")
            or (kind == "huge" and text == "fp16")
        ):
            continue
        each = [(through(text, x.float(), s).double() - x).square().sum() for s in range(draws)]
        error, size = float(np.mean(each)), float(x.square().sum())
        spread = 4 * float(np.std(each)) / math.sqrt(draws)
        assert error <= (1 - delta) * size * (1 + 1e-6) + spread + 1e-80


def test_fp16_never_lets_a_vector_grow_nor_become_infinite() -> None:
    for kind in ("tiny", "huge"):
        x = vector(100, kind)
        error = (through("fp16", x) - x).double().norm()
        assert error <= x.double().norm()
    assert through("fp16", torch.tensor([1e9, -1e9])).tolist() == [65504, -65504]


@pytest.mark.parametrize("text", [text for text in CODERS if text.startswith("qsgd")])
def test_qsgd_is_unbiased_with_the_variance_stated(text: str) -> None:
    found, x, many = part(text), vector(33), 500
    assert isinstance(found, ValueCoder)
    omega, scale = found.variance(33), 1.0
    if omega is None:  # divided by 1 + omega
        delta = found.contraction(33)
        assert delta is not None
        omega, scale = 1 / delta - 1, 1 / delta
    drawn = torch.stack([through(text, x, seed) for seed in range(many)]) * scale
    error = (drawn.mean(0) - x).norm()
    assert error < 4 * math.sqrt(omega / many) * x.norm() + 1e-5
    assert (drawn - x).square().sum(1).mean() <= omega * x.square().sum() * 1.05


def test_what_has_no_loss_has_none() -> None:
    for text in ("fpzip", "lz4", "top_k(alpha=1)", "low_rank(rank=20)", "uniform(levels=1)"):
        kinds = ("ternary",) if "uniform" in text else KINDS
        for kind in kinds:
            x = vector(150, kind)
            rtol = 1e-4 if "low" in text else 0
            torch.testing.assert_close(
                through(text, x), x, rtol=rtol, atol=rtol * float(x.double().norm())
            )


def test_uniform_decodes_by_the_largest_magnitude() -> None:
    """The reference's decodes by the mean one: numbers then shrink by mean / max."""
    x = vector(1000)
    found = through("uniform", x)
    assert (found - x).abs().max() <= x.abs().max() / 2 / 32767 * 1.01
    assert (found @ x) / (x @ x) == pytest.approx(1, abs=1e-4)
    levels = through("uniform(levels=3)", x) / x.abs().max() * 3
    assert torch.equal(levels.round(), (x / x.abs().max() * 3).round())


def test_scaled_sign_is_its_closed_form() -> None:
    x = torch.tensor([3.0, -1.0, 0.0, -4.0])
    assert through("scaled_sign", x).tolist() == [2, -2, 2, -2]
    y = vector(5000)
    delta = y.abs().sum() ** 2 / (len(y) * y.square().sum())
    error = (through("scaled_sign", y) - y).square().sum() / y.square().sum()
    assert error == pytest.approx(float(1 - delta), rel=1e-4)


def test_low_rank_comes_to_the_best_approximation() -> None:
    drawn = torch.Generator().manual_seed(3)
    matrix = torch.randn(20, 3, generator=drawn) @ torch.randn(3, 20, generator=drawn)
    matrix += 0.1 * torch.randn(20, 20, generator=drawn)
    x, best = matrix.reshape(-1), torch.linalg.svdvals(matrix)[3:].square().sum()
    sender, errors = chain("low_rank(rank=3)"), []
    for t in range(8):
        packed = sender.compress(x, rng(t))
        errors.append(float((decoded(sender, packed, 400) - x).square().sum()))
    assert errors[0] > 1.001 * best and errors[-1] == pytest.approx(float(best), rel=1e-3)
    cold = [float((through("low_rank(rank=3)", x, t) - x).square().sum()) for t in range(8)]
    assert min(cold) > 1.001 * best, "without the warm start it stays at the first step"


@settings(max_examples=80)
@given(st.lists(st.sampled_from([0.0, -1.0, 1.0, 2.5, -2.5, 1e-40, 3e38]), min_size=1), st.data())
def test_top_k_takes_the_largest_and_of_equals_the_first(numbers: list[float], data) -> None:
    k = data.draw(st.integers(1, len(numbers)))
    wanted = sorted(sorted(range(len(numbers)), key=lambda i: (-abs(numbers[i]), i))[:k])
    assert largest(torch.tensor(numbers), k).tolist() == wanted


def test_top_k_sends_what_is_not_a_number_first() -> None:
    assert largest(torch.tensor([1.0, float("nan"), float("inf"), 5.0]), 2).tolist() == [1, 2]
    x = vector(200_000)
    wanted = x.abs().topk(7000).indices.sort().values
    assert torch.equal(largest(x, 7000), wanted)
    assert torch.equal(largest(vector(100).double(), 9), largest(vector(100), 9))
    assert largest(torch.tensor([1 + 1j, 1.2 + 0j, 0 - 3j]), 2).tolist() == [0, 2]


@given(st.lists(st.integers(0, (1 << 31) - 1), min_size=1), st.data())
def test_both_ways_of_finding_the_kth_largest_agree(numbers: list[int], data) -> None:
    k = data.draw(st.integers(1, len(numbers)))
    size = torch.tensor(numbers, dtype=torch.int32)
    for way in (top_k._kth_by_counting, top_k._kth_by_partitioning):
        assert way(size, k) == sorted(numbers)[-k]


@given(st.lists(st.booleans()), st.integers(0, 400))
def test_ones_are_found_whatever_is_told_of_their_number(ones: list[bool], about: int) -> None:
    found = top_k._where(torch.tensor(ones, dtype=torch.int32), "eq", 1, about)
    assert found.tolist() == [at for at, one in enumerate(ones) if one]


@given(st.integers(1, 10_000), st.data())
def test_few_ones_are_more_than_a_tenth_with_those_behind_them(n: int, data) -> None:
    k = data.draw(st.integers(n // 40 + 1, n))
    extra = top_k._padding(n, k)
    assert 10 * (k + extra) > n + extra and extra <= n / 9 + 1
    assert not extra or 10 * k <= n, "none where there are more than a tenth"


def test_random_k_sends_a_seed_and_takes_all_alike() -> None:
    sender, times = chain("random_k(alpha=0.3)"), np.zeros(20)
    for seed in range(1000):
        packed = sender.compress(vector(20), rng(seed))
        assert list(packed.tensors) == ["params"] and len(packed.tensors["params"]) == 6
        found = chain("random_k(alpha=0.3)").decompress(packed.tensors, packed.meta, 20)
        assert isinstance(found, Sparse)
        assert torch.equal(found.values, vector(20)[found.indices])
        times[found.indices.numpy()] += 1
    assert abs(times / 1000 - 0.3).max() < 5 * math.sqrt(0.3 * 0.7 / 1000)


def test_gaussian_noise_has_its_deviation_and_the_node_keeps_its_row() -> None:
    x = vector(20_000)
    noise = through("gaussian(std=0.25)", x) - x
    assert noise.std() == pytest.approx(0.25, rel=0.03) and abs(noise.mean()) < 0.01
    assert torch.equal(through("gaussian(std=0)", x), x)
    other = through("gaussian(std=0.25)", x, seed=2) - x
    assert abs(float(torch.corrcoef(torch.stack([noise, other]))[0, 1])) < 0.03


def test_every_part_of_ours_is_in_the_table() -> None:
    there = {name for text in CHAINS for name in named("compression") if name in text}
    assert there == set(named("compression"))


# ------------------------------------------------------------------------- bytes


def bits_of(levels: int) -> int:
    return math.ceil(math.log2(2 * levels + 1))


#: bytes of n numbers, as docs/compression.md states them
BYTES: dict[str, Callable[[int], float]] = {
    "fp16": lambda n: 2 * n,
    "bf16": lambda n: 2 * n,
    "uniform": lambda n: n * bits_of(32767) / 8,
    "uniform(levels=1)": lambda n: n * bits_of(1) / 8,
    "uniform(levels=100)": lambda n: n * bits_of(100) / 8,
    "uniform(levels=127)": lambda n: n * bits_of(127) / 8,
    "qsgd": lambda n: n * bits_of(127) / 8 + 4 * n / 512,
    "qsgd(levels=1)": lambda n: n * bits_of(1) / 8 + 4 * n / 512,
    "qsgd(levels=7, bucket=16)": lambda n: n * bits_of(7) / 8 + 4 * n / 16,
    "scaled_sign": lambda n: n / 8,
    "low_rank": lambda n: 8 * 4 * math.sqrt(n),
    "low_rank(rank=2) + fp16": lambda n: 4 * 2 * math.sqrt(n),
    "top_k(alpha=0.1)": lambda n: 0.1 * n * (4 + 4),
    "top_k(alpha=0.1) + gaps": lambda n: 0.1 * n * (4 + 4),
    "top_k(alpha=0.1) + elias_gamma": lambda n: 0.1 * n * (4 + 5.75 / 8),
    "top_k(alpha=0.1) + golomb": lambda n: 0.1 * n * (4 + 4.85 / 8),
    "top_k(alpha=0.01) + elias_gamma + fp16": lambda n: 0.01 * n * (2 + 11.9 / 8),
    "random_k(alpha=0.3)": lambda n: 0.3 * n * 4,
    "fpzip": lambda n: 0.935 * 4 * n,
    "fpzip(precision=16)": lambda n: 0.435 * 4 * n,
    "lz4": lambda n: 1.0041 * 4 * n,
}


@pytest.mark.parametrize("text", BYTES)
def test_bytes_are_as_stated(text: str) -> None:
    """Up to the last byte, bucket, row or column, which may not be full."""
    for n in (100, 10_000, 102_400):
        nbytes = chain(text).compress(vector(n), rng()).nbytes
        assert nbytes <= BYTES[text](n) + 40 + 0.3 * math.sqrt(n)
        if n > 10_000 and text != "lz4":
            assert nbytes >= 0.97 * BYTES[text](n)


# ------------------------------------------------------------------------ damage


@settings(max_examples=120)
@given(st.sampled_from(CHAINS), st.integers(0, 70), st.data())
def test_damaged_input_raises_or_gives_a_vector(text: str, n: int, data) -> None:
    """Never another error, never another length."""
    packed = chain(text).compress(vector(n), rng())
    tensors = {name: tensor.clone() for name, tensor in packed.tensors.items()}
    meta = json.loads(json.dumps(packed.meta))
    name = data.draw(st.sampled_from(sorted(tensors)))
    match data.draw(st.sampled_from(["byte", "cut", "longer", "gone", "dtype", "meta", "length"])):
        case "byte" if tensors[name].numel():
            view = tensors[name].view(torch.uint8)
            view[data.draw(st.integers(0, len(view) - 1))] ^= data.draw(st.integers(1, 255))
        case "cut":
            tensors[name] = tensors[name][: data.draw(st.integers(0, len(tensors[name])))]
        case "longer":
            tensors[name] = torch.cat([tensors[name], tensors[name], torch.ones(1)])
        case "gone":
            del tensors[name]
        case "dtype":
            dtype = data.draw(st.sampled_from([torch.float64, torch.uint8, torch.int32]))
            tensors[name] = tensors[name].to(dtype)
        case "meta" if meta:
            key = data.draw(st.sampled_from(sorted(meta)))
            strange = st.sampled_from([None, -1, 1 << 62, 0.5, "x", [], {}, {"k": -3, "seed": 1}])
            if isinstance(meta[key], dict) and meta[key] and data.draw(st.booleans()):
                meta[key][data.draw(st.sampled_from(sorted(meta[key])))] = data.draw(strange)
            else:
                meta[key] = data.draw(strange)
        case _:
            n = data.draw(st.integers(0, 100))
    try:
        found = chain(text).decompress(tensors, meta, n)
    except CompressionError:
        return
    assert (found.length if isinstance(found, Sparse) else len(found)) == n


@pytest.mark.parametrize("indices", [[0, 2, 2], [3, 1, 2], [-1, 0, 1], [0, 1, 20]])
def test_indices_that_are_none_are_told(indices: list[int]) -> None:
    """Twice the same, out of order, below 0, beyond the end."""
    tensors = {"params": torch.ones(3), "indices": torch.tensor(indices, dtype=torch.int32)}
    with pytest.raises(CompressionError, match="indices do not ascend, or are not below 20"):
        chain("top_k(alpha=0.15)").decompress(tensors, {}, 20)


def test_a_small_message_cannot_ask_for_much_memory() -> None:
    packed = chain("top_k(alpha=0.1) + elias_gamma + lz4").compress(vector(100), rng())
    for forms in ({"params": ["float32", 1 << 40]}, {"params": ["float32", -1]}):
        with pytest.raises(CompressionError, match="whole number from 0 to"):
            chain("top_k(alpha=0.1) + elias_gamma + lz4").decompress(
                packed.tensors, {**packed.meta, "bytes0": forms}, 100
            )


def test_options_that_make_no_sense_are_rejected() -> None:
    for text, said in (
        ("top_k(alpha=0)", "above 0 and at most 1"), ("random_k(alpha=1.5)", "at most 1"),
        ("uniform(levels=0)", "levels = 0"), ("qsgd(levels=0)", "levels = 0"),
        ("qsgd(bucket=0)", "bucket = 0"), ("low_rank(rank=0)", "rank = 0"),
        ("fpzip(precision=1)", "precision = 1"), ("gaussian(std=-1)", "std = -1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            chain(text)


def test_a_library_that_is_absent_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for library, text in (("fpzip", "fpzip"), ("lz4.block", "lz4")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ValueError, match=r"pip install 'decentralizepy\[compression\]'"):
            chain(text)
