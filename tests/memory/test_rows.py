"""Rows are values: memory is written again only when the last one who has any of it lets go."""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from decentralizepy.memory import shared
from decentralizepy.memory.arena import Arena
from decentralizepy.memory.rows import NodeRows, RowPool, WrittenError
from decentralizepy.memory.shared import ArenaPlan

LENGTH = 10
PLAN = ArenaPlan((2, 1), LENGTH)
MINE = len(PLAN.own_rows(0))


def two_pools() -> tuple[RowPool, RowPool]:
    """The rows of two workers, each with its own mapping of one memory."""
    memory = shared.create()
    shared.resize(memory, PLAN)
    pools = RowPool(Arena(memory, PLAN), 0), RowPool(Arena(memory, PLAN), 1)
    os.close(memory)
    return pools


@pytest.fixture
def pools() -> tuple[RowPool, RowPool]:
    return two_pools()


@pytest.fixture
def pool(pools: tuple[RowPool, RowPool]) -> RowPool:
    return pools[0]


def full(value: float) -> torch.Tensor:
    return torch.full((LENGTH,), value)


def filled(pool: RowPool, value: float) -> NodeRows:
    rows = NodeRows(pool)
    rows["x"] = full(value)
    return rows


def taken(pool: RowPool) -> list[int]:
    """Take all rows that nobody has, one by one."""
    found = []
    for _ in range(3 * MINE):
        index = pool.acquire_shared()
        if index is not None:
            found.append(index)
    return found


# ----------------------------------------------------------------------------- leases

HOLDERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "the row": lambda x: x,
    "a view": lambda x: x.view(2, 5),
    "a part": lambda x: x[3:5],
    "a detached part of a part": lambda x: x[2:8].detach()[1:2],
    "other bits": lambda x: x.view(torch.int32),
    "one number": lambda x: x.unbind()[7],
    "its storage": lambda x: x.untyped_storage(),
    "an array": lambda x: x.numpy(),
    "a part of an array": lambda x: np.asarray(x)[::2],
    "bytes of an array": lambda x: memoryview(x.numpy()),
    "a closure": lambda x: lambda: x.sum(),
    "a circle": lambda x: _circle(x),
}


def _circle(x: torch.Tensor) -> list[Any]:
    found: list[Any] = [x[:1]]
    found.append(found)
    return found


@pytest.mark.parametrize("holder", HOLDERS)
def test_whoever_has_any_of_a_row_keeps_it_from_being_written(pool: RowPool, holder: str) -> None:
    rows = filled(pool, 1.0)
    index = rows.held("x").index
    kept = HOLDERS[holder](rows["x"])
    rows["x"] = full(2.0)  # the old row is given back
    gc.collect()
    free = taken(pool)
    assert index not in free and len(free) == MINE - 2
    del kept
    gc.collect()
    assert taken(pool) == [index], "nobody has it any more"


def test_a_copy_keeps_nothing(pool: RowPool) -> None:
    rows = filled(pool, 1.0)
    index = rows.held("x").index
    kept = [rows["x"].clone(), rows["x"].tolist(), copy.deepcopy(rows["x"]), rows["x"] + 1]
    rows["x"] = full(2.0)
    assert index in taken(pool)
    assert float(kept[0].sum()) == LENGTH  # type: ignore[union-attr]


def test_a_row_read_by_another_worker_comes_back_when_that_lets_go(
    pools: tuple[RowPool, RowPool],
) -> None:
    mine, theirs = pools
    rows = filled(mine, 1.0)
    index = rows.held("x").index
    assert index is not None
    mine.publish(index, [1])
    rows["x"] = full(2.0)
    assert index not in taken(mine), "the message is on its way"
    theirs_of_it = theirs.reading(index)
    part = theirs_of_it[1:3].numpy()
    del theirs_of_it
    assert taken(mine) == [] and part.tolist() == [1.0, 1.0]
    del part
    assert taken(mine) == [index]


def test_the_rows_of_a_dead_worker_are_free(pools: tuple[RowPool, RowPool]) -> None:
    mine, theirs = pools
    rows = filled(mine, 1.0)
    index = rows.held("x").index
    assert index is not None
    mine.publish(index, [1, 1])
    kept = theirs.reading(index)
    own = rows["x"]
    rows["x"] = full(2.0)
    mine.forgive(1)
    assert index not in taken(mine), "a node here has it too"
    del own
    assert index in taken(mine)
    del kept


# ------------------------------------------------------------------------ rows of a node


def test_what_was_lent_is_adopted_and_what_is_foreign_copied(pool: RowPool) -> None:
    rows = filled(pool, 1.0)
    before = rows["x"]
    out = rows.lend()
    torch.add(before, 5.0, out=out)
    rows["x"] = out
    assert rows["x"].data_ptr() == out.data_ptr() and pool.place(out) is not None
    foreign = full(9.0)
    rows["x"] = foreign
    foreign.zero_()
    assert rows["x"].tolist() == [9.0] * LENGTH
    assert before.tolist() == [1.0] * LENGTH and out.tolist() == [6.0] * LENGTH


def test_a_row_assigned_to_itself_stays_where_it_is(pool: RowPool) -> None:
    rows = filled(pool, 1.0)
    index = rows.held("x").index
    rows["x"] = rows["x"]
    assert rows.held("x").index == index
    rows["y"] = rows["x"]
    rows["y"][0]
    assert rows.held("y").index != index and list(rows) == ["x", "y"] and len(rows) == 2
    del rows["y"]
    assert list(rows) == ["x"]


@pytest.mark.parametrize("assigned", [False, True])
@pytest.mark.parametrize("full_arena", [False, True])
def test_what_is_written_aside_becomes_the_row(
    pool: RowPool, assigned: bool, full_arena: bool
) -> None:
    """What was read or sent before stays; what was assigned meanwhile is changed as much."""
    kept = taken(pool) if full_arena else []
    rows = filled(pool, 1)
    aside = rows.aside("x")
    aside.copy.tensor += 4
    seen = rows["x"]
    rows.shared("x")
    if assigned:
        rows["x"] = full(10)
    rows.take_back("x", aside)
    assert rows["x"].tolist() == [14 if assigned else 5] * LENGTH and seen.tolist() == [1] * LENGTH
    del seen, aside
    rows.clear()
    assert len(taken(pool)) + len(kept) == MINE


@pytest.mark.parametrize("name", ["x", "momentum"])
def test_a_row_that_was_written_in_place_is_told_at_its_assignment(
    pool: RowPool, name: str
) -> None:
    rows = NodeRows(pool)
    rows[name] = full(1)
    with pytest.raises(WrittenError, match=f"the row '{name}' was written in place"):
        rows[name] += 1


def test_who_keeps_what_was_lent_is_lent_another_row(pool: RowPool) -> None:
    rows = filled(pool, 1.0)
    first = rows.lend().data_ptr()
    assert rows.lend().data_ptr() == first, "nobody kept it"
    kept = rows.lend().fill_(3.0)
    other = rows.lend().fill_(4.0)
    assert other.data_ptr() != kept.data_ptr() == first
    rows["x"] = kept  # not the one that is lent now
    assert rows["x"].tolist() == kept.tolist() == [3.0] * LENGTH


def test_training_writes_in_place_only_where_nobody_looks(pool: RowPool) -> None:
    rows = filled(pool, 1.0)
    first = rows.held("x").index
    rows.thaw("x").add_(1.0)
    assert rows.held("x").index == first
    seen = rows["x"]
    rows.thaw("x").add_(1.0)
    assert rows.held("x").index != first
    assert seen.tolist() == [2.0] * LENGTH and rows["x"].tolist() == [3.0] * LENGTH


@pytest.mark.parametrize("shape", [(LENGTH - 1,), (LENGTH + 1,), (2, 5), ()])
def test_what_has_not_the_shape_of_a_row_is_refused(pool: RowPool, shape: tuple[int, ...]) -> None:
    rows = filled(pool, 1.0)
    with pytest.raises(ValueError, match=r"a row has the shape \(10,\), not "):
        rows["x"] = torch.zeros(shape)
    assert rows["x"].tolist() == [1.0] * LENGTH
    assert len(taken(pool)) == MINE - 1, "nothing was lost on the way"


def test_all_rows_come_back_from_a_node_that_leaves(pool: RowPool) -> None:
    rows = filled(pool, 1.0)
    rows["momentum"] = full(0.0)
    rows.lend()
    rows.clear()
    assert len(rows) == 0 and len(taken(pool)) == MINE


def test_without_free_rows_the_numbers_are_right_all_the_same(pool: RowPool) -> None:
    rows = filled(pool, 0.0)
    kept = []
    for step in range(1, 3 * MINE):
        rows.thaw("x").add_(1.0)
        kept.append((float(step), rows["x"]))
    assert rows.held("x").index is None and pool.place(rows["x"]) is None
    assert pool.keeps(rows["x"]) and not pool.keeps(rows["x"].clone())
    rows["x"] = rows.lend().copy_(rows["x"] + 0.5)
    rows.thaw("x").mul_(2.0)
    assert rows["x"].tolist() == [2 * (3 * MINE - 0.5)] * LENGTH
    for value, row in kept:
        assert row.tolist() == [value] * LENGTH
    kept.clear()
    del row
    for _ in range(3):  # it moves back as rows are free again
        rows.thaw("x")
        rows["x"] = rows.lend().copy_(rows["x"])
    assert rows.held("x").index is not None


def test_tensors_find_their_rows(pool: RowPool) -> None:
    rows = filled(pool, 1.0)
    x, index = rows["x"], rows.held("x").index
    assert pool.place(x) == (index, 0, 4 * LENGTH)
    assert pool.place(x[3:5]) == (index, 12, 8) and pool.keeps(x[3:5])
    assert pool.place(x.view(2, 5)[1]) == (index, 20, 20)
    assert pool.place(x[::2]) is None and pool.place(full(1.0)) is None
    assert pool.place(torch.empty(0)) is None and pool.place(x[:0]) is None


def test_rows_of_other_workers_are_not_ours(pools: tuple[RowPool, RowPool]) -> None:
    mine, theirs = pools
    rows = filled(mine, 1.0)
    index = rows.held("x").index
    assert index is not None
    mine.publish(index, [1])
    assert theirs.place(theirs.reading(index)) is None


# -------------------------------------------------------------------- anything that happens


class Nodes(RuleBasedStateMachine):
    """Two nodes do with rows whatever they like: what anybody has never changes."""

    @initialize()
    def start(self) -> None:
        self.pools = two_pools()
        self.nodes = [NodeRows(self.pools[0]) for _ in range(2)]
        self.values = [0.0, 0.0]
        self.kept: list[tuple[float, torch.Tensor]] = []
        self.sent: list[tuple[float, int]] = []
        self.fresh, self.dead = self._numbers(), False
        for node in self.nodes:
            node["x"] = full(0.0)

    @staticmethod
    def _numbers() -> Iterator[float]:
        number = 0.0
        while True:
            number += 1.0
            yield number

    nodes_ = st.integers(0, 1)

    @rule(i=nodes_)
    def train(self, i: int) -> None:
        self.values[i] = next(self.fresh)
        self.nodes[i].thaw("x").fill_(self.values[i])

    @rule(i=nodes_)
    def merge(self, i: int) -> None:
        self.values[i] = next(self.fresh)
        self.nodes[i]["x"] = self.nodes[i].lend().fill_(self.values[i])

    @rule(i=nodes_)
    def assign(self, i: int) -> None:
        self.values[i] = next(self.fresh)
        self.nodes[i]["x"] = full(self.values[i])

    @rule(i=nodes_, many=st.integers(1, 12))
    def keep(self, i: int, many: int) -> None:
        for _ in range(many):
            self.kept.append((self.values[i], self.nodes[i]["x"][2:4]))
            self.train(i)

    @rule(i=nodes_)
    def keep_what_is_lent(self, i: int) -> None:
        value = next(self.fresh)
        self.kept.append((value, self.nodes[i].lend().fill_(value)))

    @rule(i=nodes_)
    def take_from_the_other(self, i: int) -> None:
        self.nodes[i]["x"] = self.nodes[1 - i]["x"]
        self.values[i] = self.values[1 - i]

    @rule(which=st.integers(0, 1000), many=st.integers(1, 10))
    def let_go(self, which: int, many: int) -> None:
        for _ in range(min(many, len(self.kept))):
            self.kept.pop(which % len(self.kept))

    @precondition(lambda self: not self.dead)
    @rule(i=nodes_)
    def send(self, i: int) -> None:
        index = self.nodes[i].held("x").index
        if index is not None:
            self.pools[0].publish(index, [1])
            self.sent.append((self.values[i], index))

    @rule(keeps=st.booleans())
    def hear(self, keeps: bool) -> None:
        if self.sent:
            value, index = self.sent.pop(0)
            heard = self.pools[1].reading(index)
            assert heard.tolist() == [value] * LENGTH
            if keeps:
                self.kept.append((value, heard[5:]))

    @precondition(lambda self: not self.dead)
    @rule()
    def die(self) -> None:
        """The other worker is gone, and what it had."""
        self.dead = True
        theirs = self.pools[1].arena
        theirs.counters.release = lambda *_: None  # type: ignore[method-assign]  # it is dead
        self.pools[0].forgive(1)
        self.sent.clear()
        self.kept = [
            (value, row)
            for value, row in self.kept
            if not theirs.start <= row.data_ptr() < theirs.stop
        ]

    @invariant()
    def nothing_changes_that_anybody_has(self) -> None:
        for value, row in getattr(self, "kept", ()):
            assert row.tolist() == [value] * len(row)
        for value, node in zip(self.values, self.nodes, strict=True):
            assert node.held("x").tensor.tolist() == [value] * LENGTH


class TestNodes(Nodes.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=60, stateful_step_count=40)
