"""Means of nodes that take part when they like, on workers that may be lost."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from launching import Experiment
from teams import ALONE, LAYOUTS, NEAR, Team, scripted

from decentralizepy.engine.evaluation import Evaluations, distance
from decentralizepy.engine.meeting import Frontier, Meeting
from decentralizepy.engine.records import Seconds
from decentralizepy.graphs.generators import ring
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import Checkpoint, Receive, Report, Send, Sleep, Train
from decentralizepy.node.node import Node, Program
from decentralizepy.runfolder import MachineFolder, machine_records
from decentralizepy.settings import Intervals
from decentralizepy.training.trainer import Learner
from decentralizepy.training.training import Training
from decentralizepy.transport.router import Traffic

# ------------------------------------------------------------------------------ frontier

steps = st.tuples(st.integers(-1, 5), st.integers(0, 3) | st.none())


@given(st.lists(steps, max_size=60))
@example([(0, 3), (1, 1), (0, None), (0, 0)])
def test_the_frontier_is_the_least_of_those_that_count(changes):
    frontier, at = Frontier(), {}
    for member, more in changes:
        if more is None:
            frontier.leave(member)
            at.pop(member, None)
        else:
            at[member] = at.get(member, 0) + more
            frontier.move(member, at[member])
        assert frontier.least == min(at.values(), default=None)


# ------------------------------------------------------------------------------- meeting


class World:
    """Workers that are past one iteration after the other, and lines between them.

    What node u says in iteration t is 2^u + 100 t, so that every mean tells who was in it.
    """

    def __init__(self, counts: tuple[int, ...], random: Random, iterations: int) -> None:
        self.random, self.iterations = random, iterations
        self.given_up: set[int] = set()
        self.may_give_up = False
        self.placement = Placement(Mapping((sum(counts),)), (len(counts),))
        self.ids = list(self.placement.all())
        self.alive = list(range(len(self.ids)))
        self.at = [0] * len(self.ids)
        self.lines: dict[tuple[int, int], deque[tuple[str, Message]]] = defaultdict(deque)
        self.joined: list[dict[int, list[int]]] = [{} for _ in self.ids]
        self.means: list[dict[int, list[float | None]]] = [defaultdict(list) for _ in self.ids]
        self.meetings = [self._meeting(number) for number in self.alive]

    def _meeting(self, number: int) -> Meeting:
        def send(worker: WorkerId, kind: str, message: Message) -> None:
            self.lines[number, worker.worker].append((kind, message))

        def arrived(t: int, mean: torch.Tensor | None) -> None:
            self.means[number][t].append(None if mean is None else float(mean[0]))

        return Meeting(self.ids[number], self.placement, 1, send, arrived)

    def go_on(self, number: int) -> None:
        """A worker gets past its next iteration, in which some of its nodes took part, or none."""
        t = self.at[number]
        self.at[number] += 1
        if t == self.iterations:
            self.meetings[number].past(None)
            return
        if self.may_give_up and self.random.random() < 0.2:
            self.given_up.add(t)
            self.meetings[number].forgo(t)
            return
        uids = [u for u in self.placement.uids(self.ids[number]) if self.random.random() < 0.6]
        if uids:
            self.joined[number][t] = uids
            rows = {u: torch.tensor([2.0**u + 100 * t, 7.0]) for u in uids}
            self.meetings[number].join(t, rows)
        else:
            self.meetings[number].past(t + 1)

    def step(self) -> bool:
        """Something happens; False if nothing is left to do."""
        moves: list[Any] = [key for key, line in self.lines.items() if line]
        moves += [number for number in self.alive if self.at[number] <= self.iterations]
        if not moves:
            return False
        move = self.random.choice(moves)
        if isinstance(move, tuple):
            kind, message = self.lines[move].popleft()
            self.meetings[move[1]].take(kind, message)
        else:
            self.go_on(move)
        return True

    def lose(self, number: int) -> None:
        """A worker is gone, once what it has said has arrived; nobody moves meanwhile."""
        for (sender, receiver), line in list(self.lines.items()):
            while sender == number and line:
                self.meetings[receiver].take(*line.popleft())
            if receiver == number:
                line.clear()
        self.alive.remove(number)
        for other in self.alive:
            self.meetings[other].leave([self.ids[number]])

    def expected(self, t: int, workers: list[int]) -> float:
        uids = [u for number in workers for u in self.joined[number].get(t, ())]
        return sum(2.0**u for u in uids) / len(uids) + 100 * t


worlds = st.builds(
    World,
    st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple),
    st.builds(Random, st.integers(0, 1 << 30)),
    st.integers(1, 8),
)
many = settings(max_examples=200)


@many
@given(worlds)
def test_everybody_hears_the_mean_of_all_who_took_part_once(world):
    while world.step():
        pass
    for number in world.alive:
        for t in world.joined[number]:
            (mean,) = world.means[number][t]
            assert mean == pytest.approx(world.expected(t, world.alive), rel=1e-12)
    assert all(not meeting._sums for meeting in world.meetings)


@many
@given(worlds)
def test_what_one_worker_has_given_up_has_no_mean(world):
    world.may_give_up = True
    while world.step():
        pass
    for number in world.alive:
        assert all(world.means[number][t] == [None] for t in world.given_up)
        for t in world.joined[number].keys() - world.given_up:
            (mean,) = world.means[number][t]
            assert mean == pytest.approx(world.expected(t, world.alive), rel=1e-12)
    assert all(not meeting._sums for meeting in world.meetings)


@many
@given(worlds, st.integers(0, 100), st.integers(0, 3))
def test_when_a_worker_is_lost_the_others_hear_of_each_other_all_the_same(world, when, who):
    everybody = list(world.alive)
    for _ in range(when):
        world.step()
    if who < len(world.alive) > 1:
        world.lose(who)
    while world.step():
        pass
    for number in world.alive:
        for t in world.joined[number]:
            likely = {world.expected(t, world.alive), world.expected(t, everybody)}
            means = world.means[number][t]
            assert means and all(any(m == pytest.approx(one) for one in likely) for m in means)


# --------------------------------------------------------------------------- evaluations


class Desk:
    """Evaluations of one worker of several, with all around them made up."""

    def __init__(self, intervals: Intervals) -> None:
        self.written: list[tuple[int, int, bool]] = []
        self.said: list[Any] = []
        evaluator: Any = SimpleNamespace(
            intervals=intervals, measure=lambda t, row, learner: {"loss": float(row[0])},
            trainer=SimpleNamespace(training=Training()),
        )  # fmt: skip
        reporter: Any = SimpleNamespace(record=self._record)
        meeting: Any = SimpleNamespace(
            join=lambda t, rows: self.said.append((t, sorted(rows))),
            forgo=lambda t: self.said.append((t, None)),
            past=lambda t: self.said.append(t),
        )
        self.desk = Evaluations(
            evaluator, reporter, meeting, lambda seat: seat.row, lambda word: None
        )

    def _record(self, uid: int, iteration: int, values: Any) -> dict[str, Any]:
        self.written.append((uid, iteration, "consensus_distance" in values))
        return {}

    def report(self, seat: Any, t: int) -> None:
        if self.desk.due(t):
            self.desk.evaluate(seat, t, {}, lambda: 0.0, 1.0)
        else:
            self.desk.passed(seat, t)


def seat(uid: int) -> Any:
    row = torch.full((2,), float(uid))
    rows = SimpleNamespace(held=lambda name: SimpleNamespace(tensor=row))
    node = SimpleNamespace(round=0)
    learner = Learner(uid, torch.arange(3).numpy(), None, None)  # type: ignore[arg-type]
    return SimpleNamespace(
        uid=uid, row=row, rows=rows, node=node, learner=learner, traffic=Traffic(),
        seconds=Seconds(),
    )  # fmt: skip


def intervals(every: int, iterations: int = 100) -> Intervals:
    return Intervals(iterations, test_after=every, train_evaluate_after=0, checkpoint_after=0)


def test_a_record_waits_for_the_mean_and_a_checkpoint_for_the_record() -> None:
    desk = Desk(intervals(2))
    one, two = seat(1), seat(2)
    desk.desk.expect(one)
    desk.desk.expect(two)
    saved: list[int] = []
    desk.report(one, 0)
    desk.desk.once_written(0, lambda: saved.append(0))
    assert desk.said == [] and not saved, "node 2 may still take part"
    desk.report(two, 0)
    assert desk.said == [(0, [1, 2])] and desk.written == [] and desk.desk.waiting
    desk.desk.mean_arrived(0, torch.zeros(2, dtype=torch.float64))
    assert desk.written == [(1, 1, True), (2, 1, True)] and saved == [0]
    desk.desk.once_written(1, lambda: saved.append(1))
    assert saved == [0, 1] and not desk.desk.waiting


def test_a_node_that_goes_on_is_waited_for_in_no_iteration_that_it_is_past() -> None:
    desk = Desk(intervals(2))
    fast, slow = seat(1), seat(2)
    for one in (fast, slow):
        desk.desk.expect(one)
    for t in range(6):  # iterations 1, 2, 4 and 6 are due
        desk.report(fast, t)
    assert desk.said == []
    desk.report(slow, 3)  # it sat out the first three
    assert desk.said == [(0, [1]), (1, [1]), (3, [1, 2])]
    desk.desk.leave([slow.uid])
    assert desk.said[3:] == [(5, [1])]
    desk.desk.leave([fast.uid])
    assert desk.said[4:] == [None], "and nothing more is to come"


def test_a_report_of_an_earlier_iteration_is_in_no_mean() -> None:
    """Others did not wait for it there, so that they have had a mean without it."""
    desk = Desk(intervals(1))
    one, two = seat(1), seat(2)
    for node in (one, two):
        desk.desk.expect(node)
    desk.report(one, 2)
    desk.report(one, 1)
    assert desk.written == [(1, 2, False)] and desk.said == []
    desk.report(two, 1)
    assert desk.said == [(1, [2]), 2]
    desk.report(two, 2)
    assert desk.said[2:] == [(2, [1, 2])]


def test_who_has_nothing_to_say_says_so() -> None:
    desk = Desk(intervals(2))
    one = seat(1)
    desk.desk.expect(one)
    desk.desk.passed(one, 5)
    assert desk.said == [6]


def test_records_do_not_wait_for_ever_for_a_node_far_behind() -> None:
    desk = Desk(intervals(1, 1000))
    fast, slow = seat(1), seat(2)
    for one in (fast, slow):
        desk.desk.expect(one)
    for t in range(200):
        desk.report(fast, t)
    given_up = 200 - 64
    assert desk.written == [(1, t, False) for t in range(1, given_up + 1)]
    for t in range(given_up + 1):  # no mean of these few is one of all
        desk.report(slow, t)
    assert desk.written[given_up:] == [(2, t, False) for t in range(1, given_up + 1)]
    assert desk.said == [*((t, None) for t in range(given_up)), (given_up, [1, 2])]
    desk.desk.mean_arrived(given_up, torch.zeros(2, dtype=torch.float64))
    assert desk.written[2 * given_up :] == [(uid, given_up + 1, True) for uid in (1, 2)]
    desk.desk.finish()
    assert len(desk.written) == 200 + given_up + 1 and not desk.desk.waiting


def test_nobody_waits_for_the_mean_of_nodes_that_have_left() -> None:
    desk = Desk(intervals(1))
    one = seat(1)
    desk.desk.expect(one)
    desk.report(one, 0)
    saved: list[int] = []
    desk.desk.once_written(0, lambda: saved.append(0))
    desk.desk.leave([1])
    desk.desk.drop(1)
    assert not desk.desk.waiting and desk.written == [] and saved == [0]


def test_the_distance_is_taken_in_double_precision() -> None:
    row = torch.full((1_000_003,), 1e-4)
    mean = torch.zeros(1_000_000, dtype=torch.float64)
    assert distance(row, mean) == pytest.approx(0.1, rel=1e-6)


# ----------------------------------------------------------------------- in whole workers


def records(team: Team, root: Path) -> list[dict[str, Any]]:
    return [
        row
        for machine in range(len(team.layout))
        for row in machine_records(MachineFolder(root / "team" / f"machine{machine}")).rows
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nodes_that_report_now_and_then_wait_for_nobody(
    tmp_path: Path, cache: Path, layout: tuple[int, ...]
) -> None:
    """Node 0 reports all iterations, 1 every second one, 2 the first, 3 none; 0 ends last."""

    def reports(every: int) -> Any:
        def program(node: Node) -> Program:
            for t in node.rounds():
                if every and t % every == 0:
                    yield Train(t)
                    yield Report(t, {"own": float(node.uid)})
            if node.uid == 0:
                yield Send([((1, 3), Message({}))], (0, 0))
            elif node.uid != 2:
                yield Receive([0])
            yield Sleep(0.01 * node.uid)

        return program

    team = scripted(
        Experiment(tmp_path, ring(4), cache),
        {uid: reports(every) for uid, every in enumerate((1, 2, 99, 0))},
        "-ta", "1", "-tea", "0", layout=layout, iterations=5,
    )  # fmt: skip
    found = {(row["uid"], row["iteration"]): row for row in records(team, tmp_path)}
    expected = {(0, t) for t in range(1, 6)} | {(1, 1), (1, 3), (1, 5), (2, 1)}
    assert found.keys() == expected and len(records(team, tmp_path)) == len(expected)
    for (uid, iteration), row in found.items():
        assert row["own"] == uid and "test_acc" in row
        alone = iteration in (2, 4)
        assert (row["consensus_distance"] == 0.0) == alone


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nobody_leaves_before_the_mean_of_the_last_iteration(
    tmp_path: Path, cache: Path, layout: tuple[int, ...]
) -> None:
    """Nodes that end much earlier have all their columns too."""

    def reports(node: Node) -> Program:
        yield Sleep(0.3 * (node.uid == 3))
        for t in node.rounds():
            yield Train(t)
            yield Report(t)
            yield Checkpoint(t)

    team = scripted(
        Experiment(tmp_path, ring(4), cache), dict.fromkeys(range(4), reports),
        "-ta", "1", "-tea", "0", layout=layout, iterations=3,
    )  # fmt: skip
    rows = records(team, tmp_path)
    assert Counter(row["iteration"] for row in rows) == {1: 4, 2: 4, 3: 4}
    assert all(row["consensus_distance"] > 0 for row in rows)
    if layout == ALONE:
        return
    again = tmp_path / "alone"
    alone = scripted(
        Experiment(again, ring(4), cache), dict.fromkeys(range(4), reports),
        "-ta", "1", "-tea", "0", iterations=3,
    )  # fmt: skip
    distances = {(r["uid"], r["iteration"]): r["consensus_distance"] for r in records(alone, again)}
    for row in rows:
        expected = distances[row["uid"], row["iteration"]]
        assert row["consensus_distance"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("layout", [ALONE, NEAR])
def test_a_node_without_programs_holds_nobody_up(
    tmp_path: Path, cache: Path, layout: tuple[int, ...]
) -> None:
    def reports(node: Node) -> Program:
        yield Report(0)

    team = scripted(
        Experiment(tmp_path, ring(4), cache), {0: reports, 1: reports},
        "-ta", "1", "-tea", "0", layout=layout, iterations=1,
    )  # fmt: skip
    rows = records(team, tmp_path)
    assert [row["consensus_distance"] for row in rows] == [0.0, 0.0]
