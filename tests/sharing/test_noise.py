"""Noise: that it cancels, how strong it is, and what it costs in memory."""

from __future__ import annotations

import gc
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_muffliato import gamma
from sharing_compressors import COMPRESSORS
from sharing_matrix import GRAPHS, Play, World, start

from decentralizepy.compression.gaussian import Gaussian
from decentralizepy.graphs.generators import erdos_renyi, regular, ring, star
from decentralizepy.graphs.graph import Graph
from decentralizepy.messages.message import Message
from decentralizepy.sharing.anti_cor import AntiCorSharing
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.muffliato import Muffliato, relaxation
from decentralizepy.sharing.noise import BLOCK, blocks
from decentralizepy.sharing.sharing import Sharing
from decentralizepy.sharing.zero_sum import ZeroSumSharing


@st.composite
def weighted_graphs(draw: st.DrawFn) -> Graph:
    """Any graph with two receivers or more for each node, edges one way too, any weights."""
    n = draw(st.integers(3, 7))
    edges: set[tuple[int, int]] = set()
    for u in range(n):
        others = [v for v in range(n) if v != u]
        heard = draw(st.lists(st.sampled_from(others), unique=True, min_size=2, max_size=n - 1))
        edges |= {(u, v) for v in heard}
    weight = st.floats(0.01, 1.0)
    return Graph(n, edges, {edge: draw(weight) / n for edge in sorted(edges)})


def noises(play: Play, rows: torch.Tensor) -> dict[tuple[int, int], torch.Tensor]:
    """What each node added to what it said to each other one."""
    return {(uid, v): message["params"] - rows[uid] for uid, to, message in play.said for v in to}


@settings(max_examples=25)
@given(weighted_graphs(), st.booleans(), st.floats(0.01, 10.0))
def test_what_a_node_adds_is_nothing_by_the_weights_of_who_hears_it(
    graph: Graph, own: bool, std: float
) -> None:
    """So the sum of all rows is that of W X, whatever W is."""
    world = World((graph,))
    rows, plain = start(world), Play(Sharing, world)
    play = Play(partial(ZeroSumSharing, noise_std=std, self_noise=own), world)
    merged = play.round(rows, 0)
    torch.testing.assert_close(merged.sum(0), plain.round(rows, 0).sum(0), rtol=0, atol=1e-9 * std)
    assert (merged - plain.round(rows, 0)).abs().max() > 1e-4 * std
    said = noises(play, rows)
    for uid in range(graph.n) if not own else ():
        total = sum(graph.weights[uid, v] * said[uid, v] for v in graph.out_neighbors(uid))
        assert total.abs().max() < 1e-10 * std
    assert all(not z[world.n_parameters :].any() for z in said.values()), "buffers have none"


def test_noise_without_weights_would_not_cancel() -> None:
    """The reference system's rule, Y_v less the mean of all Y, drifts off regular graphs."""
    for graph, drifts in (
        (ring(6), False),
        (regular(8, 4, 1), False),
        (erdos_renyi(9, 0.5, 3), True),
    ):
        world = World((graph,))
        weights, drift = world.weights(0), np.zeros(1)
        for i in range(graph.n):
            targets = list(graph.out_neighbors(i))
            y = np.random.default_rng(i).standard_normal(len(targets))
            drift = drift + weights[targets, i] @ (y - y.mean())
        assert (abs(drift[0]) > 0.01) == drifts


def test_on_a_ring_of_four_it_is_the_forks_formula() -> None:
    """Two neighbours: Z = Y - mean(Y), and Y has the standard deviation noise_std sqrt(2)."""
    world = World((ring(4),))
    rows, play = start(world), Play(partial(ZeroSumSharing, noise_std=0.3), world)
    merged, said = play.round(rows, 0), {}
    for i in range(4):
        ctx, peers = world.context(i, 0), world.graph(0).out_neighbors(i)
        y = 0.3 * np.sqrt(2) * np.stack([world.normal(ctx.peer_generator(v), 421) for v in peers])
        said |= {(i, v): z for v, z in zip(peers, y - y.mean(axis=0), strict=True)}
    for edge, z in noises(play, rows).items():
        np.testing.assert_allclose(z[: world.n_parameters], said[edge], atol=1e-12)
    left, right = rows[3].clone(), rows[1].clone()
    left[: world.n_parameters] += torch.from_numpy(said[3, 0])
    right[: world.n_parameters] += torch.from_numpy(said[1, 0])
    torch.testing.assert_close(merged[0], (rows[0] + left + right) / 3)
    muffliato = Play(partial(Muffliato, noise_std=0.3), world)
    one = muffliato.round(rows, 0)
    heard = torch.stack([message["params"] for _, _, message in muffliato.said])
    torch.testing.assert_close(one[0], (heard[0] + heard[1] + heard[3]) / 3)


@pytest.mark.parametrize("graph", [regular(5, 4, 0), star(5)])
def test_the_level_of_each_target_is_as_said(graph: Graph) -> None:
    """noise_std with equal weights, else by the formula of the docstring; over several blocks."""
    n = BLOCK + 4321
    world = World((graph,), n_parameters=n, length=n, dtype=torch.float32)
    rows = torch.zeros(graph.n, n)
    own = not graph.is_regular()
    play = Play(partial(ZeroSumSharing, noise_std=0.5, self_noise=own), world)
    play.round(rows, 0)
    for (uid, v), z in noises(play, rows).items():
        w = world.weights(0)[:, uid]
        targets = [*graph.out_neighbors(uid), *([uid] if own else [])]
        q, ratio = len(targets), w[targets] / w[v]
        variance = ((q - 2) / q + (ratio**2).sum() / q**2) * q / (q - 1)
        assert z.std().item() == pytest.approx(0.5 * np.sqrt(variance), rel=0.02)
        if graph.is_regular():
            assert variance == pytest.approx(1)


def covariance(weights: np.ndarray, method: type[Sharing], rounds: int) -> np.ndarray:
    """Of the noise in all nodes' rows [n, n] after some rounds on a regular graph, for noise of 1.

    What a round adds: Muffliato W z; ZIP-DL sum_i w_vi Z_iv, where the q noises of a node have the
    variance 1 each and sum to zero.
    """
    n, added = len(weights), weights @ weights.T
    if method is ZeroSumSharing:
        added = np.zeros((n, n))
        for column in weights.T:
            targets = np.flatnonzero(column)
            q = len(targets)
            added[np.ix_(targets, targets)] += (q * np.eye(q) - 1) / (q - 1) / q**2
    found = np.zeros((n, n))
    for _ in range(rounds):
        found = weights @ found @ weights.T + added
    return found


@pytest.mark.parametrize("method", [ZeroSumSharing, Muffliato])
def test_what_stays_in_the_rows_is_as_calculated(method: type[Sharing]) -> None:
    """One round an iteration: of Muffliato's noise the mean keeps 1/n more each time, of ZIP-DL's
    nothing; around the mean both leave about the same."""
    graph, n, rounds = regular(16, 4, 90), 3000, 12
    world = World((graph,), n_parameters=n, length=n)
    own = {"self_noise": True} if method is ZeroSumSharing else {}
    play, rows = Play(partial(method, noise_std=1.0, **own), world), torch.zeros(16, n).double()
    for t in range(rounds):
        rows = play.round(rows, t)
    expected, mean = covariance(world.weights(0), method, rounds), rows.mean(0)
    of_mean = expected.mean()
    assert of_mean == pytest.approx(rounds / 16 if method is Muffliato else 0)
    assert (mean**2).mean().item() == pytest.approx(of_mean, rel=0.1, abs=1e-12)
    around = np.trace(expected) / 16 - of_mean
    assert ((rows - mean) ** 2).mean().item() == pytest.approx(around, rel=0.03)
    assert 0.21 < around < 0.24


def test_blocks_are_different_draws() -> None:
    like = torch.empty(3 * BLOCK + 5)
    drawn = torch.cat([block.clone() for _, block in blocks(7, like)])
    assert len(drawn) == len(like) and abs(drawn.mean()) < 0.01
    for first, second in itertools.combinations(drawn[: 3 * BLOCK].split(BLOCK), 2):
        assert abs((first * second).mean()) < 0.02
    again = torch.cat([block.clone() for _, block in blocks(7, like)])
    assert torch.equal(drawn, again)


def rows_alive(n: int) -> int:
    """Separate pieces of memory of ``n`` numbers or more that tensors hold now."""
    tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.numel() >= n]
    return len({one.untyped_storage().data_ptr() for one in tensors})


@pytest.mark.parametrize("method", [ZeroSumSharing, Muffliato, AntiCorSharing])
def test_a_node_needs_four_rows_whatever_its_degree(method: type[Sharing]) -> None:
    """The hub of a star: while it speaks, and while another one merges all that it said."""
    graph, n = star(24), 30_011
    node = method(noise_std=0.1, **({"self_noise": True} if method is ZeroSumSharing else {}))
    ctx = Context(0, 0, 0, graph, node.mixing(graph, 0), n, 3)
    before = rows_alive(n)
    x = torch.zeros(n)
    said: list[Message] = []
    for _, message in node.outgoing(x, ctx):
        said.append(message.stamped(0, ctx.round))
    most = rows_alive(n) - before
    for message in said:
        heard = message["params"]
        assert heard.any()
    most = max(most, rows_alive(n) - before)
    del heard
    node.merge(x, [], Context(0, 0, 0, Graph(24, []), Sharing().mixing(Graph(24, []), 0), n, 3))
    assert 2 <= most <= 4


def test_noise_in_time_sums_to_the_last_draw() -> None:
    """A node alone: after T iterations it is off by z_{T-1}; each z is of noise_std."""
    n = 40_000
    world = World((Graph(1, []),), n_parameters=n, length=n, dtype=torch.float32)
    rows, play = torch.zeros(1, n), Play(partial(AntiCorSharing, noise_std=0.5), world)
    spreads = []
    for t in range(6):
        rows = play.round(rows, t)
        spreads.append(rows.std().item())
    assert spreads == pytest.approx([0.5] * 6, rel=0.02)
    z = world.normal(world.context(0, 5).generator, 421)
    torch.testing.assert_close(rows[0], torch.from_numpy(0.5 * z).float(), rtol=0, atol=1e-5)


def test_accelerated_gossip_agrees_sooner() -> None:
    world, spread = World((ring(16),)), {}
    for fast in (False, True):
        play, rows = Play(partial(Muffliato, accelerated=fast), world), start(world)
        mean = rows.mean(0)
        for k in range(20):
            rows = play.round(rows, 0, k)
        spread[fast] = (rows - mean).norm().item()
    assert spread[True] < spread[False] / 3


@pytest.mark.parametrize("name", ["ring", "regular", "irregular", "star", "complete"])
def test_the_relaxation_is_the_authors(name: str) -> None:
    world = World(GRAPHS[name])
    assert relaxation(world.graph(0)) == pytest.approx(gamma(world.weights(0)), abs=1e-9)


def test_relaxation_of_graphs_in_parts() -> None:
    """A triangle beside nodes without edges counts as the triangle; edges one way have none."""
    assert relaxation(Graph.undirected(5, [(0, 1), (1, 2), (0, 2)])) == relaxation(ring(3))
    assert 1 <= relaxation(Graph(2, [])) <= 2
    with pytest.raises(ValueError, match="accelerated = False"):
        relaxation(GRAPHS["directed"][0])


def test_noise_of_a_chain_is_on_what_is_sent_alone() -> None:
    n = 50_000
    x, noise = torch.full((n,), 2.0), Gaussian(std=0.25)
    said = noise.apply(x, np.random.default_rng(1))
    assert torch.equal(x, torch.full((n,), 2.0))
    assert (said - x).std().item() == pytest.approx(0.25, rel=0.02)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a standard deviation"):
            Gaussian(std=wrong)


def test_feedback_loses_nothing_in_a_run() -> None:
    """All that a node has said, and what it still keeps, is all that it meant to say."""
    world = World(GRAPHS["irregular"], COMPRESSORS["feedback"], dtype=torch.float32)
    play, rows = Play(Sharing, world), start(world)
    meant, told = torch.zeros_like(rows, dtype=torch.float64), torch.zeros(rows.shape).double()
    for t in range(6):
        meant += rows
        merged = play.round(rows, t)
        for uid, _, message in play.said:
            told[uid] += play.nodes[uid].unpack(message, world.length)
        rows = merged
    for uid, node in enumerate(play.nodes):
        (memory,) = node.state()["packed"][""].values()
        torch.testing.assert_close(told[uid] + memory["residual"], meant[uid], rtol=0, atol=1e-5)
        assert memory["residual"].any()
