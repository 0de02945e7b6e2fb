"""Rounds of plain gossip that many nodes take together: the bits and bytes of the long way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import Experiment
from teams import ALONE, FAR, NEAR, Scripted, Team, scripted

from decentralizepy.engine import assemble, averaging, plain_gossip, sums
from decentralizepy.errors import RunError
from decentralizepy.graphs.generators import ring
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import MixingRow, uniform
from decentralizepy.mappings.placement import WorkerId
from decentralizepy.memory.rows import RowPool
from decentralizepy.messages.message import Message
from decentralizepy.node.dpsgd import DPSGD
from decentralizepy.node.dropout import Dropout
from decentralizepy.node.effects import Average, Receive, Report, Send, Train
from decentralizepy.node.node import Node, Program
from decentralizepy.sharing.sharing import Sharing, weighted_sum
from decentralizepy.transport.router import Router

#: degrees from 1 to 6; node 8 stands alone
IRREGULAR = Graph.undirected(
    9, [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (1, 2), (2, 3), (3, 7), (4, 5)]
)
#: nodes that nobody hears, nodes that hear nobody, and links that go one way and both ways
_LINKS = [(0, 1), (1, 2), (2, 0), (2, 1), (3, 0), (3, 1), (3, 4), (4, 5), (5, 7), (6, 7)]
ONE_WAY = (
    Graph(9, _LINKS, {(u, v): (1 + u) / 30 for u, v in _LINKS}),
    Graph(9, [(8, u) for u in range(7)], {(8, u): 0.25 for u in range(7)}),
)
THREE = (3,)


class Twice(DPSGD):
    """Two averaging rounds in each iteration."""

    def rounds(self):
        self.averaging_steps = 2
        return super().rounds()


class Fresh(DPSGD):
    """Another graph in each iteration."""

    averages_together = True

    def graph_at(self, t: int, k: int = 0) -> Graph:
        return _shifted(self.n, t)


class OneWay(DPSGD):
    """Who hears a node is not whom it hears, another way in each iteration."""

    averages_together = True

    def graph_at(self, t: int, k: int = 0) -> Graph:
        return ONE_WAY[t % len(ONE_WAY)]


def _shifted(n: int, t: int, _known: dict[tuple[int, int], Graph] = {}) -> Graph:  # noqa: B006
    step = 1 + t % 3
    links = [(i, (i + step) % n) for i in range(n)]
    return _known.setdefault((n, step), Graph.undirected(n, links))


KINDS: dict[str, Callable[[], Node]] = {
    "static": DPSGD, "twice": Twice, "fresh": Fresh, "one way": OneWay,
    "dropout": lambda: Dropout(dropout_rate=0.4),
}  # fmt: skip


@pytest.fixture
def irregular(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path / "e", IRREGULAR, cache, partition="iid")


def run(
    made: Experiment,
    kind: Callable[[], Node],
    layout: Sequence[int],
    name: str,
    iterations: int = 6,
) -> tuple[dict[int, torch.Tensor], dict[int, tuple[int, int]], list[averaging.Averaging | None]]:
    """Rows at the end, bytes of payload and headers, and what averaged."""
    quiet = ["-ta", "0", "-tea", "0"]
    team = Team(made, iterations, *quiet, layout=layout, node=kind, name=name).run()
    seats = {uid: seat for worker in team.workers for uid, seat in worker.seats.items()}
    rows = {uid: seat.rows["x"].clone() for uid, seat in seats.items()}
    sent = {uid: (seat.traffic.data, seat.traffic.meta) for uid, seat in seats.items()}
    return rows, sent, [worker.programs.averaging for worker in team.workers]


def same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    bits = torch.int32  # 0 and -0 are apart
    return all(torch.equal(one[uid].view(bits), other[uid].view(bits)) for uid in one)


@pytest.fixture
def long_way(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have all rounds go by messages."""
    return lambda: monkeypatch.setattr(assemble, "can_average", lambda seats, row_bytes: False)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_and_bytes_are_those_of_messages(
    irregular: Experiment, long_way: Callable[[], None], kind: str
) -> None:
    found = {layout: run(irregular, KINDS[kind], layout, str(layout)) for layout in (ALONE, THREE)}
    far = run(irregular, KINDS[kind], FAR, "far")
    long_way()
    rows, sent, used = run(irregular, KINDS[kind], ALONE, "long")
    assert used == [None] and far[2] == [None, None]
    for other in (*found.values(), far):
        assert same(rows, other[0]) and sent == other[1]
    assert all(one is not None for layout in found.values() for one in layout[2])


def test_other_weights_are_seen(
    irregular: Experiment, monkeypatch: pytest.MonkeyPatch, long_way: Callable[[], None]
) -> None:
    """The comparison above fails for sums that are off by one bit of one weight."""
    real = averaging.weighted_sums

    def off(rows, places, starts, weights):
        weights = weights.copy()
        weights[0] = np.nextafter(weights[0], np.float32(1))
        return real(rows, places, starts, weights)

    monkeypatch.setattr(averaging, "weighted_sums", off)
    monkeypatch.setattr(assemble, "sums_have_the_same_bits", lambda length: True)
    together = run(irregular, DPSGD, ALONE, "together")
    long_way()
    assert not same(together[0], run(irregular, DPSGD, ALONE, "long")[0])


def test_where_the_processor_sums_otherwise_messages_are_sent(
    irregular: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check at the start compares bits, not whether numbers are close."""
    together = run(irregular, DPSGD, ALONE, "together")
    real = sums.weighted_sums
    monkeypatch.setattr(
        sums, "weighted_sums", lambda *args: torch.nextafter(real(*args), torch.tensor(9.0))
    )
    sums.sums_have_the_same_bits.cache_clear()
    try:
        apart = run(irregular, DPSGD, ALONE, "apart")
    finally:
        sums.sums_have_the_same_bits.cache_clear()
    assert apart[2] == [None] and same(together[0], apart[0])


@pytest.mark.parametrize("layout", [ALONE, THREE])
def test_rows_outside_the_arena_are_averaged_too(
    irregular: Experiment, monkeypatch: pytest.MonkeyPatch, layout: tuple[int, ...]
) -> None:
    """As when programs keep so many rows that none is left: half of them have to be private."""
    expected = run(irregular, DPSGD, layout, "shared")
    real, asked, private, told = RowPool.acquire_shared, [0], [0], [0]

    def scarce(self: RowPool) -> int | None:
        asked[0] += 1
        return real(self) if asked[0] % 8 < 4 else None

    send = Router.send_collective

    def sent(self: Router, worker: WorkerId, kind: str, message: Message) -> None:
        told[0] += kind == "R"
        send(self, worker, kind, message)

    took = averaging.Averaging._average_one

    def counted(self, *args):
        private[0] += 1
        took(self, *args)

    monkeypatch.setattr(RowPool, "acquire_shared", scarce)
    monkeypatch.setattr(Router, "send_collective", sent)
    monkeypatch.setattr(averaging.Averaging, "_average_one", counted)
    found = run(irregular, DPSGD, layout, "scarce")
    assert private[0] > 5 and (layout == ALONE or told[0] > 5)
    assert same(expected[0], found[0]) and expected[1] == found[1]


@pytest.mark.parametrize("layout", [ALONE, THREE])
def test_rows_come_back(
    irregular: Experiment, monkeypatch: pytest.MonkeyPatch, layout: tuple[int, ...]
) -> None:
    """However long the run, a worker needs no more rows, and no round stays open."""
    touched: dict[int, set[int]] = {}
    real = RowPool.acquire_shared

    def noted(self: RowPool) -> int | None:
        found = real(self)
        touched.setdefault(id(self), set()).add(-1 if found is None else found)
        return found

    monkeypatch.setattr(RowPool, "acquire_shared", noted)
    _, _, used = run(irregular, DPSGD, layout, "long run", iterations=40)
    nodes = -(-IRREGULAR.n // layout[0])
    assert all(-1 not in rows and len(rows) <= 5 * nodes for rows in touched.values())
    assert all(one is not None and not one._tables for one in used)


@pytest.fixture
def pair(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path / "e", ring(4), cache, partition="iid")


class Averaged(Scripted):
    """Programs of the test's that all ask for `Average`."""

    averages_together = True


def averages(rounds: Sequence[tuple[int, int]]) -> Callable[[Node], Program]:
    def program(node: Node) -> Program:
        for key in rounds:
            yield Train(key[0])
            assert (yield Average(node.graph_at(0), key))

    return program


@pytest.mark.parametrize("layout", [ALONE, NEAR])
def test_who_waits_for_a_node_that_has_ended_is_told(
    pair: Experiment, layout: tuple[int, ...]
) -> None:
    scripts = {uid: averages([(0, 0), (1, 0)]) for uid in (0, 1, 3)} | {2: averages([(0, 0)])}
    told = r"no node can go on: (?=.*node 1 waits in iteration 1 for 2 in round \(1, 0\))"
    with pytest.raises(RunError, match=told):
        scripted(pair, scripts, layout=layout, kind=Averaged)


@pytest.mark.parametrize("layout", [ALONE, NEAR])
def test_an_average_and_the_long_way_do_not_meet(pair: Experiment, layout: tuple[int, ...]) -> None:
    """Where a class says that all average and one sends, a deadlock is told: no numbers."""

    def sends(node: Node) -> Program:
        ctx = node.context(node.graph_at(0), 0)
        yield Send(node.sharing.outgoing(node.x, ctx), (0, 0))
        yield Receive(ctx.sources, (0, 0))

    scripts = {uid: averages([(0, 0)]) for uid in (0, 1, 2)} | {3: sends}
    with pytest.raises(RunError, match="no node can go on"):
        scripted(pair, scripts, layout=layout, kind=Averaged)


@pytest.mark.parametrize("rounds", [[(0, 0), (0, 0)], [(1, 0), (0, 0)]])
@pytest.mark.parametrize("layout", [ALONE, NEAR])
def test_rounds_are_averaged_once_and_in_their_order(
    pair: Experiment, layout: tuple[int, ...], rounds: list[tuple[int, int]]
) -> None:
    scripts = {uid: averages(rounds) for uid in range(4)}
    with pytest.raises(RunError, match=r"averages round \(0, 0\) twice, or after a later one"):
        scripted(pair, scripts, layout=layout, kind=Averaged)


def test_a_row_that_was_written_in_place_is_told(pair: Experiment) -> None:
    def writes(node: Node) -> Program:
        node.x.add_(1)
        yield Average(node.graph_at(0), (0, 0))

    with pytest.raises(RunError, match="was written in place"):
        scripted(pair, dict.fromkeys(range(4), writes), kind=Averaged)


@pytest.mark.parametrize("layout", [ALONE, NEAR])
def test_what_a_program_has_read_stays_as_it_was(pair: Experiment, layout: tuple[int, ...]) -> None:
    kept: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {uid: [] for uid in range(4)}

    def reads(node: Node) -> Program:
        for t in range(8):
            yield Train(t)
            kept[node.uid].append((node.x, node.x.clone()))
            assert (yield Average(node.graph_at(0), (t, 0)))
            kept[node.uid].append((node.x, node.x.clone()))
            yield Report(t)

    scripted(pair, dict.fromkeys(range(4), reads), layout=layout, kind=Averaged)
    assert all(torch.equal(*both) for pairs in kept.values() for both in pairs)
    assert all(len(pairs) == 16 for pairs in kept.values())


class Attacked(DPSGD):
    """Node 0 sends the negative of its row; the others are as they are."""

    def program(self) -> Program:
        if self.uid:
            yield from super().program()
            return
        for t in self.rounds():
            ctx = self.context(self.graph_at(t), t)
            yield Send([(ctx.receivers, Message({"params": -self.x}))], (t, 0))
            yield Receive(ctx.sources, (t, 0))


class Changed(DPSGD):
    """Another sharing method from the start on, which is not said."""

    def rounds(self):
        self.sharing = Sharing()
        return super().rounds()


class WithSetup(DPSGD):
    def setup(self) -> None:
        """Nothing, but it might."""


class Same(DPSGD):
    """D-PSGD by another name."""


class Says(Attacked):
    averages_together = True


def test_who_overrides_how_nodes_gossip_takes_the_long_way(pair: Experiment) -> None:
    assert plain_gossip.averages_together(DPSGD) and plain_gossip.averages_together(Dropout)
    assert plain_gossip.averages_together(Averaged) and plain_gossip.averages_together(Says)
    for kind in (Attacked, WithSetup, Scripted, Node):
        assert not plain_gossip.averages_together(kind)
    rows, _, used = run(pair, Attacked, NEAR, "attacked")
    assert used == [None, None] and len(rows) == 4


def test_nodes_of_different_classes_take_the_long_way(pair: Experiment) -> None:
    kinds = iter([DPSGD] * 2 + [Same] * 9)
    _, _, used = run(pair, lambda: next(kinds)(), ALONE, "mixed")
    assert used == [None]


def test_a_method_that_is_replaced_is_told(pair: Experiment) -> None:
    with pytest.raises(RunError, match="another sharing method than at the start"):
        run(pair, Changed, ALONE, "changed")


def test_a_run_that_nodes_may_leave_sends_messages(pair: Experiment) -> None:
    """Who is waited for then changes while the others wait."""
    quiet = ["-ta", "0", "-tea", "0", "--on_loss", "drop"]
    team = Team(pair, 2, *quiet, layout=NEAR, name="drop").run()
    assert [worker.programs.averaging for worker in team.workers] == [None, None]


def test_large_rows_are_sent(pair: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_gossip, "_SMALL", 1000)
    assert run(pair, DPSGD, ALONE, "large")[2] == [None]


def test_zeros_have_no_sign() -> None:
    """A sum of negative zeros is 0 whichever way it is worked out."""
    rows = torch.full((3, 40), -0.0)
    mixing = MixingRow(0.5, {1: 0.25, 2: 0.25})
    heard = [Message({"params": rows[j]}, None, j) for j in mixing.weights]
    one = weighted_sum(rows[0], heard, mixing, None)
    weights = np.array([0.5, 0.25, 0.25], dtype=np.float32)
    many = sums.weighted_sums(rows, np.arange(3), np.array([0]), weights)
    assert not one.view(torch.int32).any() and not many.view(torch.int32).any()


def test_rows_that_nobody_reads_any_more_are_given_back(pair: Experiment) -> None:
    """The nodes of one worker end while those of the other go on telling them of rows."""
    one_way = Graph(4, [(0, 2), (1, 3), (0, 1), (1, 0)])

    def program(last: int) -> Callable[[Node], Program]:
        def found(node: Node) -> Program:
            for t in range(last):
                assert (yield Average(one_way, (t, 0)))

        return found

    class Uniform(Averaged):
        """As the links go one way."""

        def around(self, graph: Graph) -> Any:
            if self._mixed is None or self._mixed[0] is not graph:
                own = graph.out_neighbors(self.uid), graph.in_neighbors(self.uid)
                self._mixed = graph, uniform(graph, self.uid), own
            return self._mixed

        averages_together = True

    scripts = {0: program(9), 1: program(9), 2: program(2), 3: program(2)}
    team = scripted(pair, scripts, layout=NEAR, kind=Uniform)
    for worker in team.workers:
        assert worker.programs.averaging is not None and not worker.programs.averaging._tables
    first, second = team.workers
    second.router._take_notices()  # those that came as it had stopped looking
    shared = [row for row in range(len(first.pool._sent)) if first.pool._is_read(row)]
    assert not shared
