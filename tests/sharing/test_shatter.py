"""Chunks of virtual nodes against the same rule over all of them at once, in NumPy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from decentralizepy.compression.base import Part
from decentralizepy.compression.chain import Chain
from decentralizepy.compression.error_feedback import ErrorFeedback
from decentralizepy.compression.fp16 import Fp16
from decentralizepy.compression.top_k import TopK
from decentralizepy.graphs.generators import regular
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.schedules import StaticSchedule
from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.effects import Receive, Send
from decentralizepy.node.membership import Epoch, Membership
from decentralizepy.node.node import Binding, Program
from decentralizepy.node.shatter import Shatter, chunks
from decentralizepy.sharing.sharing import Sharing

SEED, LENGTH = 5, 37


def seated(n: int, k: int, degree: int, membership: Membership) -> list[Shatter]:
    nodes = []
    for uid in range(n):
        node = Shatter(vnodes_per_node=k, graph_degree=degree)
        x = torch.randn(LENGTH, generator=torch.Generator().manual_seed(uid))
        node.bind(
            Binding(uid, n, 3, StaticSchedule(Graph(n, [])), Sharing(), LENGTH, membership,
                  seed=SEED, rows={"x": x})
        )  # fmt: skip
        node.setup()
        nodes.append(node)
    return nodes


def iterate(nodes: Sequence[Shatter], gone: int = -1) -> Counter[int]:
    """All nodes through one iteration; numbers sent by each. ``gone`` is lost as it speaks."""
    programs = [node.program() for node in nodes]
    waiting: dict[int, Receive] = {}
    mail: dict[tuple[int, int, tuple[int, int]], Message] = {}
    sent = Counter[int]()
    for node, program in zip(nodes, programs, strict=True):
        waiting[node.uid] = _speak(node.uid, program, mail, sent)
    for node, program in zip(nodes, programs, strict=True):
        effect = waiting[node.uid]
        while isinstance(effect, Receive):
            heard = [
                Missing(uid, "gone") if uid == gone else mail.pop((uid, node.uid, effect.round))
                for uid in effect.sources
            ]
            effect = program.send(heard)
    assert gone >= 0 or not mail, "all that is said is heard"
    return sent


def _speak(uid: int, program: Program, mail: dict, sent: Counter[int]) -> object:
    effect = next(program)
    while not isinstance(effect, Receive):
        effect = program.send(None)
        if isinstance(effect, Send):
            for receivers, message in effect.outgoing:
                for receiver in receivers:
                    key = uid, receiver, effect.round
                    assert key not in mail
                    mail[key] = message.stamped(uid, effect.round)
                    sent[uid] += message["params"].numel()
    return effect


def replayed(rows: np.ndarray, k: int, degree: int, gone: int = -1, left: int = -1) -> np.ndarray:
    """Virtual node by virtual node: every link hands a chunk to the node behind it."""
    n = len(rows)
    graph, parts = regular(n * k, degree, SEED * 100_000), chunks(SEED, LENGTH, k)
    total, count = rows.copy(), np.ones_like(rows)
    for source, receiver in graph.edges:
        (j, c), i = divmod(source, k), receiver // k
        if i != j and j not in (gone, left) and i != left:
            total[i, parts[c]] += rows[j, parts[c]]
            count[i, parts[c]] += 1
    return total / count


@pytest.mark.parametrize("n, k, degree", [(2, 1, 1), (6, 1, 3), (5, 4, 4), (3, 8, 10), (4, 40, 4)])
def test_chunks_travel_as_virtual_nodes_are_linked(n: int, k: int, degree: int) -> None:
    """Also with more chunks than coordinates, and where two links join the same two nodes."""
    nodes = seated(n, k, degree, Membership(n))
    rows = torch.stack([node.x for node in nodes]).double().numpy()
    sent = iterate(nodes)
    merged = torch.stack([node.x for node in nodes]).double().numpy()
    np.testing.assert_allclose(merged, replayed(rows, k, degree), atol=1e-6)
    assert max(sent.values()) <= degree * LENGTH


def test_who_is_lost_weighs_nothing() -> None:
    nodes = seated(5, 4, 4, Membership(5))
    rows = torch.stack([node.x for node in nodes]).double().numpy()
    iterate(nodes, gone=2)
    merged = torch.stack([node.x for node in nodes]).double().numpy()
    np.testing.assert_allclose(merged, replayed(rows, 4, 4, gone=2), atol=1e-6)


def test_who_has_left_is_not_spoken_to() -> None:
    membership = Membership(5)
    membership.add(Epoch(0, (3,), "test"))
    nodes = seated(5, 4, 4, membership)
    rows = torch.stack([node.x for node in nodes]).double().numpy()
    others = [node for node in nodes if node.uid != 3]
    iterate(others)
    merged = torch.stack([node.x for node in others]).double().numpy()
    np.testing.assert_allclose(merged, replayed(rows, 4, 4, left=3)[[0, 1, 2, 4]], atol=1e-6)


@pytest.mark.parametrize(
    "parts, off", [((ErrorFeedback(), Fp16()), 1e-2), ((TopK(alpha=1.0),), 1e-6)]
)
def test_chunks_are_compressed(parts: tuple[Part, ...], off: float) -> None:
    """Twice, since each chunk has a memory of its own."""
    nodes = seated(5, 4, 4, Membership(5))
    rows = torch.stack([node.x for node in nodes]).double().numpy()
    for node in nodes:
        node.sharing.compression = Chain(*parts)
    iterate(nodes)
    merged = torch.stack([node.x for node in nodes]).double().numpy()
    np.testing.assert_allclose(merged, replayed(rows, 4, 4), atol=off)
    iterate(nodes)


@pytest.mark.parametrize("length, k", [(0, 3), (1, 3), (37, 1), (37, 5), (1000, 16)])
def test_chunks_cover_the_row_once(length: int, k: int) -> None:
    parts = chunks(SEED, length, k)
    assert len(parts) == k
    assert sorted(torch.cat(parts).tolist()) == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if length > k > 1:
        assert any(len(part) > 1 and part.diff().max() > 1 for part in parts), "by chance"


def test_there_is_a_virtual_node_at_least() -> None:
    with pytest.raises(ValueError, match="vnodes_per_node = 0: at least 1"):
        Shatter(vnodes_per_node=0)
