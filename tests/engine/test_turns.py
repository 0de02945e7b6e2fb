"""Heavy work is shared out by what it takes, and starves neither timers nor messages.

Time is counted, not measured: a training takes as long as the test says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from in_process import Script, build, inject
from launching import Experiment

from decentralizepy.engine import worker, workload
from decentralizepy.engine.clock import RealClock
from decentralizepy.engine.worker import Worker
from decentralizepy.graphs.generators import ring
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import ANY, Gradient, Receive, Report, Send, Sleep, Train
from decentralizepy.node.node import Node, Program


class Day:
    """A worker whose trainings take the seconds in ``costs``, by uid, and do nothing."""

    def __init__(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch,
        costs: Mapping[int, float], *more: str,
    ) -> None:  # fmt: skip
        self.now, self.costs = 0.0, costs
        self.events: list[Any] = []
        flags = more or ("-ta", "0", "-tea", "0")
        self.worker: Worker = build(Experiment(tmp_path, ring(len(costs)), cache), 1000, *flags)
        self.worker.clock = RealClock()
        self.worker.programs.stopwatch = lambda: self.now
        for module in (worker, workload):
            monkeypatch.setattr(module, "perf_counter", lambda: self.now)
        monkeypatch.setattr(type(self.worker.trainer), "takes_groups", False)
        monkeypatch.setattr(self.worker.trainer, "train", self._train)
        monkeypatch.setattr(self.worker.trainer, "gradient", lambda work: self._train([work]))

    def _train(self, works: Any) -> None:
        (work,) = works
        work.learner.gradients += 1
        self._pass(work.learner.uid, self.costs[work.learner.uid])

    def _pass(self, what: Any, seconds: float) -> None:
        self.events.append(what)
        self.now += seconds

    def run(self, scripts: Mapping[int, Script]) -> Counter[Any]:
        inject(self.worker, scripts)
        self.worker.run()
        return Counter(self.events)


@pytest.fixture
def day(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda costs, *more: Day(tmp_path, cache, monkeypatch, costs, *more)


def trainer(rounds: int, effect: Any = Train) -> Script:
    def program(node: Node) -> Program:
        for node.round in range(rounds):
            yield effect(node.round)

    return program


@pytest.mark.parametrize("effect", [Train, Gradient])
def test_who_trains_longer_gets_fewer_turns(day: Any, effect: Any) -> None:
    """Three nodes train twenty times while the fourth, which takes twenty times as long, once."""
    here = day({0: 1.0, 1: 1.0, 2: 1.0, 3: 20.0})
    here.run(dict.fromkeys(range(4), trainer(200, effect)))
    until = here.events[: max(i for i, uid in enumerate(here.events) if uid == 0)]
    turns = Counter(until)
    assert 9 <= turns[3] <= 11 and max(turns[uid] for uid in (0, 1, 2)) >= 199
    for start in range(0, 500, 25):
        window = Counter(here.events[start : start + 63])
        assert window[3] <= 2 and all(19 <= window[uid] <= 22 for uid in (0, 1, 2))


def test_equal_nodes_take_turns(day: Any) -> None:
    here = day(dict.fromkeys(range(5), 1.0))
    here.run(dict.fromkeys(range(5), trainer(20)))
    for start in range(0, 100, 5):
        assert sorted(here.events[start : start + 5]) == list(range(5))


def test_who_is_hindered_once_takes_turns_as_before(day: Any) -> None:
    """What a machine did meanwhile, or the first time costs, is not the node's."""
    here = day(dict.fromkeys(range(4), 1.0))
    delays = {0: 50.0, 6: 30.0, 21: 400.0}
    train = here.worker.trainer.train

    def hindered(works: Any) -> None:
        here.now += delays.get(len(here.events), 0.0)
        train(works)

    here.worker.trainer.train = hindered
    here.run(dict.fromkeys(range(4), trainer(50)))
    for start in range(0, 200, 4):
        assert sorted(here.events[start : start + 4]) == list(range(4))


def test_who_has_waited_for_long_is_not_preferred_ever_after(day: Any) -> None:
    """It gets its share from then on, and does not make up for what it missed."""

    def wakes_others(node: Node) -> Program:
        for node.round in range(200):
            yield Train(node.round)
            if node.round == 100:
                yield Send([([2], Message({}))], (0, 0))

    def late(node: Node) -> Program:
        yield Receive(ANY)
        yield from trainer(50)(node)

    here = day({0: 1.0, 1: 1.0, 2: 1.0})
    here.run({0: wakes_others, 1: trainer(200), 2: late})
    first = here.events.index(2)
    turns = Counter(here.events[first : first + 60])
    assert all(18 <= turns[uid] <= 22 for uid in range(3))


def test_evaluation_counts_as_work(day: Any) -> None:
    """A node that is evaluated, for ten seconds, trains less than one that is not."""

    def reports(node: Node) -> Program:
        for node.round in range(20):
            yield Train(node.round)
            yield Report(node.round)

    here = day({0: 1.0, 1: 1.0, 2: 1.0}, "-ta", "1", "-tea", "0")
    here.worker.evaluations.evaluator.measure = lambda *rest: here._pass("evaluate", 10.0) or {}
    here.run({0: reports, 1: trainer(200)})
    until = Counter(here.events[: max(i for i, one in enumerate(here.events) if one == 1)])
    assert 16 <= until[0] <= 20 and until[1] == 199


def test_timers_go_off_between_two_pieces_of_work(day: Any) -> None:
    def ticks(node: Node) -> Program:
        for _ in range(40):
            yield Sleep(0.0)
            events.append("tick")

    here = day({0: 1.0, 1: 1.0, 2: 1.0})
    events = here.events
    here.run({0: ticks, 1: trainer(50), 2: trainer(50)})
    last = len(events) - events[::-1].index("tick")
    assert Counter(events[:last])["tick"] == 40
    between = "".join("t" if one == "tick" else "w" for one in events[:last])
    assert "www" not in between, "never two trainings in a row beside the one that is under way"


def test_messages_pass_between_two_pieces_of_work(day: Any) -> None:
    """Two nodes that only talk go round as often as the others train."""

    def talks(node: Node) -> Program:
        other = 1 - node.uid
        for t in range(30):
            yield Send([([other], Message({}))], (t, 0))
            yield Receive([other], (t, 0))
            events.append("talk")

    here = day(dict.fromkeys(range(4), 1.0))
    events = here.events
    here.run({0: talks, 1: talks, 2: trainer(50), 3: trainer(50)})
    assert events[:60] == ["talk"] * 60, "programs go before work"


def test_who_is_always_ready_leaves_work_its_turn(day: Any) -> None:
    """A node that talks to itself, a millisecond each time, until another has trained."""
    trained = []

    def talks(node: Node) -> Program:
        while not trained:
            yield Send([([0], Message({}))], (0, 0))
            yield Receive([0], (0, 0))
            here._pass("talk", 0.001)

    def trains(node: Node) -> Program:
        yield from trainer(5)(node)
        trained.append(node.uid)

    here = day({0: 1.0, 1: 1.0})
    turns = here.run({0: talks, 1: trains})
    assert turns[1] == 5 and turns["talk"] > 5, "programs first, but not for ever"
