"""Sharing methods with compression against dense matrices: graphs x methods x chains."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from compression_table import chain, vector

from decentralizepy.compression.base import CompressionError, Sparse
from decentralizepy.graphs.generators import erdos_renyi, ring, star
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import mixing_matrix
from decentralizepy.messages.message import Message, Missing
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.plain_average import PlainAverageSharing
from decentralizepy.sharing.sharing import Sharing

P = 37
GRAPHS = {
    "ring": ring(5),
    "star": star(6),
    "irregular": erdos_renyi(7, 0.4, 1),
    "pair": Graph.undirected(2, [(0, 1)]),
    "nobody": Graph.undirected(2, []),
}
METHODS = {"Metropolis-Hastings": Sharing, "plain average": PlainAverageSharing}
SPARSE = ("top_k(alpha=0.2)", "top_k(alpha=0.3) + fp16 + elias_gamma + lz4", "random_k(alpha=0.4)")
CHAINS = (*SPARSE, "", "fp16", "qsgd(levels=5)", "scaled_sign", "low_rank", "error_feedback + bf16")


def contexts(graph: Graph, sharing: Sharing, t: int = 0) -> list[Context]:
    return [Context(i, t, 0, graph, sharing.mixing(graph, i), P, 9) for i in range(graph.n)]


def nodes(method: type[Sharing], graph: Graph, text: str) -> list[Sharing]:
    made = [method() for _ in range(graph.n)]
    for one in made:
        one.compression = chain(text)
    return made


def gossip(
    methods: list[Sharing], graph: Graph, rows: torch.Tensor, t: int = 0, absent: tuple = ()
) -> torch.Tensor:
    """Everybody speaks, then everybody merges; messages go through their headers."""
    around, heard = contexts(graph, methods[0], t), {}
    for uid, ctx in enumerate(around):
        for receivers, message in methods[uid].outgoing(rows[uid], ctx):
            for receiver in receivers:
                heard[uid, receiver] = message.stamped(uid, ctx.round)
    return torch.stack([
        methods[uid].merge(
            rows[uid],
            [Missing(j, "lost") if (j, uid) in absent else heard[j, uid] for j in ctx.sources],
            ctx,
        )
        for uid, ctx in enumerate(around)
    ])  # fmt: skip


def replay(
    method: type[Sharing], graph: Graph, rows: torch.Tensor, text: str, t: int = 0
) -> np.ndarray:
    """The same with a dense matrix: what is left out counts as the receiver's own."""
    matrix = mixing_matrix(graph, method().mixing)
    said = []
    for uid, ctx in enumerate(contexts(graph, method(), t)):
        one, x = chain(text), rows[uid]
        packed = one.compress(x, ctx.compression_generator())
        found = one.decompress(packed.tensors, packed.meta, P)
        there = torch.ones(P) if isinstance(found, torch.Tensor) else torch.zeros(P)
        if isinstance(found, Sparse):
            there[found.indices] = 1
            found = found.dense()
        said.append((found.double().numpy(), there.double().numpy()))
    mine = rows.double().numpy()
    out = np.diag(matrix)[:, None] * mine
    for i, j in graph.edges:  # i speaks, j hears
        values, there = said[i]
        out[j] += matrix[j, i] * (there * values + (1 - there) * mine[j])
    return out


@pytest.mark.parametrize(("graph", "method", "text"), [*product(GRAPHS, METHODS, CHAINS)])
def test_a_round_is_the_dense_product(graph: str, method: str, text: str) -> None:
    one, how = GRAPHS[graph], METHODS[method]
    rows = torch.stack([vector(P, seed=i) for i in range(one.n)])
    merged = gossip(nodes(how, one, text), one, rows)
    np.testing.assert_allclose(merged, replay(how, one, rows, text), rtol=1e-4, atol=1e-5)
    assert torch.equal(rows[0], vector(P, seed=0)), "one's own row stays"


@pytest.mark.parametrize("text", [*SPARSE, "", "fp16", "error_feedback + bf16", "fpzip"])
def test_nodes_that_agree_stay_agreed(text: str) -> None:
    """Where nothing is lost: coordinates that are left out pull nobody to zero."""
    one = GRAPHS["irregular"]
    rows = vector(P).to(torch.bfloat16).to(torch.float16).float().expand(one.n, P).contiguous()
    merged = gossip(nodes(Sharing, one, text), one, rows)
    torch.testing.assert_close(merged, rows, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("text", ["", *SPARSE, "fp16"])
def test_the_weight_of_a_lost_message_goes_home(text: str) -> None:
    one = GRAPHS["star"]
    rows = torch.stack([vector(P, seed=i) for i in range(one.n)])
    merged = gossip(nodes(Sharing, one, text), one, rows, absent=((0, 3),))
    torch.testing.assert_close(merged[3], rows[3], rtol=1e-6, atol=1e-6)


def test_error_feedback_reaches_the_mean_where_rounding_alone_stops_short() -> None:
    """Gossip of numbers on a coarse grid: with feedback the mean drifts less."""
    one, gaps = GRAPHS["ring"], {}
    start = torch.stack([vector(P, seed=i) for i in range(one.n)])
    for text in ("uniform(levels=4)", "error_feedback + uniform(levels=4)"):
        methods, rows, seen = nodes(Sharing, one, text), start.clone(), []
        for t in range(60):
            rows = gossip(methods, one, rows, t)
            seen.append(rows.mean(0))
        gaps[text] = float((torch.stack(seen[-30:]).mean(0) - start.mean(0)).norm())
    assert gaps["error_feedback + uniform(levels=4)"] < 0.5 * gaps["uniform(levels=4)"]


def test_uncompressed_the_row_itself_is_sent() -> None:
    ctx, x = contexts(GRAPHS["pair"], Sharing())[0], vector(P)
    message = Sharing().pack(x, ctx, {"degree": 1})
    assert message["params"] is x and message.meta == {"degree": 1}
    assert Sharing().unpack(message, P) is x
    chosen = Sparse(torch.tensor([1, 5]), x[[1, 5]], P)
    found = Sharing().unpack(Sharing().pack(chosen, ctx), P)
    assert isinstance(found, Sparse) and found.indices.tolist() == [1, 5]


def test_a_message_that_is_made_later_is_made_at_once_when_compressed() -> None:
    ctx, x, made = contexts(GRAPHS["pair"], Sharing())[0], vector(P), []

    def make() -> torch.Tensor:
        made.append(1)
        return x + 1

    later = Sharing().pack_later(make, x, ctx, 1)
    assert later.is_deferred and not made and torch.equal(later["params"], x + 1)
    method = Sharing()
    method.compression = chain("fp16")
    soon = method.pack_later(make, x, ctx, 1)
    assert not soon.is_deferred and soon["params"].dtype == torch.float16
    assert torch.equal(method.unpack(soon, P), (x + 1).half().float())


def test_messages_for_one_receiver_draw_and_remember_apart() -> None:
    ctx, x, method = contexts(GRAPHS["star"], Sharing())[0], vector(P), Sharing()
    method.compression = chain("error_feedback + random_k(alpha=0.5)")
    seeds = {
        who: method.pack(x, ctx, receiver=who).meta["packed"]["chosen"]["seed"]
        for who in (None, 0, 1, 2, -1)
    }
    assert len(set(seeds.values())) == 5
    assert set(method.state()["packed"]) == {"", "0", "1", "2", "-1"}
    other = Sharing()
    other.compression = chain("error_feedback + random_k(alpha=0.5)")
    other.load(method.state())
    pair = [one.pack(2 * x, ctx, receiver=1) for one in (method, other)]
    assert torch.equal(pair[0]["params"], pair[1]["params"])


def test_compression_leaves_the_methods_own_draws_as_they_are() -> None:
    one, other = contexts(GRAPHS["pair"], Sharing()), contexts(GRAPHS["pair"], Sharing())
    method = Sharing()
    method.compression = chain("qsgd")
    method.pack(vector(P), one[0])
    assert one[0].generator.random() == other[0].generator.random()


def test_meta_that_is_no_meta_of_a_chain_is_told() -> None:
    method = Sharing()
    method.compression = chain("random_k(alpha=0.5)")
    for packed in (7, {"chosen": 7}, {"chosen": {"seed": "x", "k": 18}}):
        with pytest.raises(CompressionError):
            method.unpack(Message({"params": torch.zeros(18)}, {"packed": packed}), P)


def test_the_replay_can_fail() -> None:
    one = GRAPHS["irregular"]
    rows = torch.stack([vector(P, seed=i) for i in range(one.n)])
    merged = gossip(nodes(Sharing, one, "top_k(alpha=0.2)"), one, rows)
    assert not np.allclose(merged, replay(Sharing, one, rows, ""), atol=1e-3)
