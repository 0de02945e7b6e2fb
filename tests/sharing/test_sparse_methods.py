"""What the table of methods does not show: lengths, bytes, lost neighbours, equal references."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sharing_matrix import GRAPHS, Play, World, start, trained

from decentralizepy.compression.chain import Chain
from decentralizepy.compression.elias_gamma import EliasGamma
from decentralizepy.compression.fp16 import Fp16
from decentralizepy.compression.presets import EliasFpzipLossy
from decentralizepy.graphs.graph import Graph
from decentralizepy.messages.message import Missing
from decentralizepy.sharing.choco import Choco
from decentralizepy.sharing.fft import FFT
from decentralizepy.sharing.jwins import JWINS
from decentralizepy.sharing.partial_model import PartialModel
from decentralizepy.sharing.sharing import Sharing
from decentralizepy.sharing.sub_sampling import SubSampling, drawn
from decentralizepy.sharing.wavelet import Wavelet

PAIR = Graph.undirected(2, [(0, 1)])


def numbers(n: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(n))


def message(method: Sharing, x: torch.Tensor, t: int = 0):
    """What node 0 of two says of a row, counting from zero."""
    ctx = World((PAIR,), n_parameters=len(x)).context(0, t)
    method.begin(torch.zeros_like(x))
    ((receivers, found),) = method.outgoing(x, ctx)
    assert list(receivers) == [1]
    return found


@settings(max_examples=60)
@given(st.integers(1, 90), st.sampled_from(["fft", "haar", "sym2", "db4", "bior2.2"]))
def test_a_row_of_any_length_comes_back_from_its_coefficients(n: int, basis: str) -> None:
    method = FFT() if basis == "fft" else Wavelet(wavelet=basis, level=4)
    x = numbers(n)
    back = method.inverse(method.transform(x), n)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)
    assert len(method.transform(x)) <= n + 4 * 8


@pytest.mark.parametrize("n", [4_999, 5_000])
@pytest.mark.parametrize(
    "make, coefficients, each",
    [
        (partial(PartialModel, alpha=0.1), lambda n: n, 4 + 4),
        (partial(Choco, alpha=0.1, step_size=1.0), lambda n: n, 4 + 4),
        (partial(FFT, alpha=0.1), lambda n: n // 2 + 1, 8 + 4),
        (partial(Wavelet, alpha=0.1, wavelet="sym2"), lambda n: n + 9, 4 + 4),
        (partial(JWINS, alpha_list=[0.1]), lambda n: n + 4, 4 + 4),
    ],
    ids=lambda one: one.func.__name__ if isinstance(one, partial) else "",
)
def test_a_tenth_is_a_tenth_and_the_stated_indices(
    make: Callable[[], Sharing], coefficients: Callable[[int], int], each: int, n: int
) -> None:
    method, x = make(), numbers(n)
    assert _payload(message(method, x)) <= each * round(0.1 * coefficients(n))
    method = make()
    method.compression = Chain(EliasGamma())
    said = message(method, x)
    values = (each - 4) * len(said["params"])
    assert _payload(said) <= values + 0.2 * 4 * len(said["params"]) + 2


def test_a_random_tenth_is_a_tenth_in_the_mean_and_sends_no_index() -> None:
    n = 5_000
    sizes = [len(message(SubSampling(alpha=0.1), numbers(n), t)["params"]) for t in range(50)]
    assert abs(np.mean(sizes) - 0.1 * n) < 5 * np.sqrt(0.09 * n / 50)
    assert len(set(sizes)) > 10
    said = message(SubSampling(alpha=0.1), numbers(n))
    assert set(said.like) == {"params"} and _payload(said) == 4 * len(said["params"])


def test_a_part_is_decoded_once_for_all_who_hear_it() -> None:
    for make in partial(PartialModel, alpha=0.1), partial(SubSampling, alpha=0.1):
        one, other = make(), make()
        said = message(make(), numbers(50))
        assert one.unpack(said, 50) is other.unpack(said, 50)
        assert one.unpack(said.copied(), 50) is not one.unpack(said, 50)
        assert one.unpack(said, 60).length == 60
    whole = message(Sharing(), numbers(50))
    assert Sharing().unpack(whole, 50) is whole["params"] and whole.decoded is None


@settings(max_examples=50)
@given(st.integers(0, 1 << 62), st.floats(1e-12, 1, exclude_max=True), st.integers(0, 500))
def test_what_is_drawn_ascends_within_the_row(seed: int, alpha: float, n: int) -> None:
    indices = drawn(seed, alpha, n).numpy()
    assert (np.diff(indices) > 0).all() and (indices >= 0).all() and (indices < n).all()


@pytest.mark.parametrize("alpha", [0.01, 0.3, 0.9])
def test_each_entry_is_drawn_as_often(alpha: float) -> None:
    counts = np.zeros(40)
    for seed in range(3000):
        counts[drawn(seed, alpha, 40).numpy()] += 1
    assert np.abs(counts / 3000 - alpha).max() < 5 * np.sqrt(alpha * (1 - alpha) / 3000)


def _payload(said) -> int:
    return sum(tensor.nbytes for tensor in said.like.values())


@pytest.mark.parametrize("make", [partial(PartialModel, alpha=0.5), partial(Wavelet, alpha=1.0)])
def test_the_weight_of_a_lost_neighbour_stays_at_home(make: Callable[[], Sharing]) -> None:
    world = World(GRAPHS["irregular"])
    first, graph = start(world), world.graph(0)
    absent = frozenset(graph.edges[1::3])
    after = Play(make, world, absent=absent).round(trained(first, 0), 0)
    kept = Graph(graph.n, [edge for edge in graph.edges if edge not in absent])
    weights = {edge: world.weights(0)[edge[::-1]] for edge in kept.edges}
    others = World((Graph(graph.n, kept.edges, weights),))
    expected = Play(make, others).round(trained(first, 0), 0)
    torch.testing.assert_close(after, expected)


def test_nothing_heard_leaves_a_row_as_it_is() -> None:
    x = numbers(30)
    ctx = World((PAIR,), n_parameters=30).context(0, 0)
    row = Sharing().mixing(PAIR, 0)
    for make in (partial(PartialModel, alpha=0.5), partial(FFT, alpha=0.5), SubSampling,
                 partial(Choco, alpha=0.5, step_size=0.5)):  # fmt: skip
        method = make()
        method.begin(0.5 * x)
        ctx.mixing = method.mixing(PAIR, 0)
        assert ctx.mixing == row
        list(method.outgoing(x, ctx))
        after = method.merge(x, [Missing(1, "gone")], ctx)
        torch.testing.assert_close(after, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("graph", ["irregular", "changing"])
@pytest.mark.parametrize("chain", [Chain, lambda: Chain(Fp16()), lambda: EliasFpzipLossy()])
def test_both_ends_of_an_edge_hold_the_same_reference(
    graph: str, chain: Callable[[], Chain]
) -> None:
    """Bit for bit, whatever codec lies between: else the mean would drift."""
    world, methods = World(GRAPHS[graph], dtype=torch.float32), []

    def make() -> Choco:
        methods.append(Choco(alpha=0.2, step_size=0.5))
        return methods[-1]

    play, rows = Play(make, world), start(world)
    play.begin(rows)
    for method in methods:
        method.compression = chain()
    for t in range(7):
        before = trained(rows, t)
        rows = play.round(before, t)
        torch.testing.assert_close(rows.mean(0), before.mean(0), rtol=0, atol=1e-5)
    for uid, method in enumerate(methods):
        for peers, reference in method.said.items():
            for peer in map(int, peers.split(",")):
                assert torch.equal(methods[peer].known[str(uid)], reference)
        if graph == "irregular":
            assert len(method.said) == 1, "all neighbours know the same"


@pytest.mark.parametrize("graph", ["irregular", "changing"])
def test_choco_alone_leads_to_the_mean(graph: str) -> None:
    world = World(GRAPHS[graph])
    play, rows = Play(partial(Choco, alpha=0.4, step_size=0.5), world), start(world)
    mean = rows.mean(0)
    for t in range(120):
        rows = play.round(rows, t)
    torch.testing.assert_close(rows, mean.expand_as(rows), rtol=0, atol=1e-3)


def test_one_way_edges_are_refused() -> None:
    with pytest.raises(ValueError, match="both ways"):
        Choco(alpha=0.2, step_size=0.5).mixing(GRAPHS["directed"][0], 0)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: PartialModel(alpha=0.0), "alpha = 0.0"),
        (lambda: SubSampling(alpha=1.5), "alpha = 1.5"),
        (lambda: Choco(alpha=0.1, step_size=0), "step_size = 0"),
        (lambda: Wavelet(wavelet="sine"), "wavelet = sine"),
        (lambda: Wavelet(level=0), "level = 0"),
        (lambda: JWINS(alpha_list=[]), "alpha_list is empty"),
        (lambda: JWINS(alpha_list=[0.1, 2.0]), "alpha = 2.0"),
    ],
)
def test_wrong_options_are_named(make: Callable[[], Sharing], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
