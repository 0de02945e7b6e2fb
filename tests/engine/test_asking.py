"""Questions are answered by nodes that train, wait or have ended, under either clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from time import sleep
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from launching import Experiment
from teams import ALONE, FAR, LAYOUTS, NEAR, Scripted, scripted

from decentralizepy.engine import process
from decentralizepy.engine.failures import NodeFailedError
from decentralizepy.engine.worker import Worker
from decentralizepy.graphs.generators import ring
from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.effects import ANY, Ask, Drain, Now, Receive, Send, Sleep, Train
from decentralizepy.node.node import Node, Program

layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=["one worker", "two", "two machines"])
ONE_SECOND = {"links": {"latency_s": 0.5}, "compute": {"seconds_per_iteration": 10}}


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(4), cache)


def simulate(experiment: Experiment, value: Any = ONE_SECOND) -> tuple[str, str]:
    path = experiment.folder / "simulation.json"
    path.write_text(json.dumps(value))
    return "--simulate", str(path)


def doubles(node: Node, question: Message) -> Message:
    """Twice what it is asked, and where it has got to."""
    assert question.asks and question.sender == 0
    return Message({"twice": 2 * question["x"]}, {"round": node.round})


def waits(node: Node) -> Program:
    node.round = 11
    yield Receive([0], (9, 9))


def trains(node: Node) -> Program:
    node.round = 22
    yield Train(0)
    yield Train(1)


def ends(node: Node) -> Program:
    node.round = 33
    return
    yield


@layouts
def test_a_question_is_answered_whatever_a_node_is_doing(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    seen: list[Any] = []

    def asks(node: Node) -> Program:
        yield Sleep(0.05)
        for t in range(3):
            question = Message({"x": torch.tensor([t, 5])}, {"t": t})
            yield Ask([1, 2, 3], question, (t, 7))
            seen.append((yield Receive([1, 2, 3], (t, 7))))
        yield Send([([1], Message({}))], (9, 9))

    answers = dict.fromkeys((1, 2, 3), doubles)
    team = scripted(
        experiment, {0: asks, 1: waits, 2: trains, 3: ends}, layout=layout, answers=answers
    )
    for t, replies in enumerate(seen):
        assert [(one.sender, one.round, one.asks) for one in replies] == [
            (uid, (t, 7), False) for uid in (1, 2, 3)
        ]
        assert [one.meta["round"] for one in replies] == [11, 22, 33]
        assert all(one["twice"].tolist() == [2 * t, 10] for one in replies)
    seats = {uid: seat for worker in team.workers for uid, seat in worker.seats.items()}
    assert seats[0].traffic.data == 3 * 3 * 16, "questions count"
    assert all(seats[uid].traffic.data == 3 * 16 for uid in (1, 2, 3)), "so do answers"
    assert all(not len(seat.mailbox) for seat in seats.values()), "questions are no mail"


@layouts
def test_what_is_noted_of_a_question_stays_with_who_answers(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    """One that says nothing, too: what was written there went on to the others on its worker."""
    seen: list[Any] = []

    def asks(node: Node) -> Program:
        yield Ask([1, 2, 3], Message({}), (0, 0))
        seen.extend((yield Receive([1, 2, 3], (0, 0))))

    def notes(node: Node, question: Message) -> Message:
        question.meta["by"] = [*question.meta.get("by", []), node.uid]
        question.tensors["x"] = node.x
        return Message({}, question.meta)

    answers = dict.fromkeys((1, 2, 3), notes)
    scripted(
        experiment, {0: asks, **dict.fromkeys((1, 2, 3), ends)}, layout=layout, answers=answers
    )
    assert [one.meta for one in seen] == [{"by": [1]}, {"by": [2]}, {"by": [3]}]


@pytest.mark.parametrize("layout", [NEAR, FAR])
def test_a_worker_that_saves_its_weights_answers_meanwhile(
    experiment: Experiment, layout: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many large models take minutes to save; others ask until they are done, too."""
    answered, meanwhile = Event(), list[bool]()

    def serve(worker: Worker) -> None:
        given: Any = SimpleNamespace(intervals=SimpleNamespace(iterations=1), weights_dir=Path())
        for _ in range(200 if 3 in worker.seats else 0):
            if not answered.is_set():
                process._save(worker, given)
        meanwhile.append(answered.is_set())
        go_on(worker)

    def asks(node: Node) -> Program:
        yield Ask([2], Message({}), (0, 0))
        yield Receive([2], (0, 0))

    def answers(node: Node, question: Message) -> Message:
        answered.set()
        return question

    go_on = Worker.serve
    monkeypatch.setattr(Worker, "serve", serve)
    monkeypatch.setattr(process, "_save_one", lambda path, state: sleep(0.005))
    scripted(experiment, {0: asks}, layout=layout, answers={2: answers})
    assert meanwhile == [True, True]


@pytest.mark.parametrize("layout", [ALONE, NEAR])
def test_who_has_no_answer_stays_silent(experiment: Experiment, layout: Sequence[int]) -> None:
    seen: list[Any] = []

    def asks(node: Node) -> Program:
        yield Ask([1, 2], Message({"x": torch.ones(1)}), (0, 0))
        seen.extend((yield Receive([1, 2], (0, 0), deadline=0.3)))

    scripted(experiment, {0: asks}, layout=layout, answers={2: doubles})
    assert seen[0] == Missing(1, "deadline") and seen[1].sender == 2


@layouts
def test_an_answer_may_be_a_row_which_stays_as_it_was(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    """Node 3 is asked again and again while it trains."""
    rows: dict[int, torch.Tensor] = {}
    heard: list[Message] = []

    def asks(node: Node) -> Program:
        for t in range(20):
            yield Ask([3], Message({}), (t, 0))
            heard.extend((yield Receive([3], (t, 0))))
        yield Send([([3], Message({}))], (99, 0))

    def trains_on(node: Node) -> Program:
        rows[0] = node.x.clone()
        for node.round in range(1, 10):
            yield Train(node.round)
            rows[node.round] = node.x.clone()
        yield Receive([0], (99, 0))

    def tells(node: Node, question: Message) -> Message:
        here = [t for t, row in rows.items() if torch.equal(row, node.x)]
        return Message({"params": node.x}, {"at": here[-1:]})

    scripted(experiment, {0: asks, 3: trains_on}, layout=layout, answers={3: tells})
    assert len(heard) == 20 and len(rows) == 10
    for message in heard:
        (at,) = message.meta["at"] or [None]
        found = [t for t, row in rows.items() if torch.equal(row, message["params"])]
        assert found and (at is None or at in found)


@layouts
def test_an_error_in_an_answer_names_who_gave_it(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    def fails(node: Node, question: Message) -> Message:
        raise LookupError("no such page")

    def asks(node: Node) -> Program:
        yield Ask([3], Message({}), (0, 0))
        yield Receive([3], (0, 0))

    with pytest.raises(NodeFailedError, match=r"node 3 failed in .*LookupError: no such page"):
        scripted(experiment, {0: asks}, layout=layout, answers={3: fails})


class Synchronous(Scripted):
    """As any program that has nothing on its way at a checkpoint."""

    asynchronous = False


@pytest.mark.parametrize("kind", [Scripted, Synchronous])
def test_questions_and_answers_take_their_simulated_time(
    experiment: Experiment, kind: type[Scripted]
) -> None:
    """Half a second each way, also to a node that is in the middle of ten seconds of training.

    Node 3 has trained with the same step by then; where nodes are trained together, not this one.
    """
    seen: dict[Any, Any] = {}

    def asks(node: Node) -> Program:
        yield Sleep(1.0)
        yield Ask([1, 2, 3], Message({"x": torch.ones(1)}), (0, 0))
        for uid in (1, 2, 3):
            (reply,) = yield Receive([uid], (0, 0))
            seen[uid] = reply["params"].clone(), (yield Now())
        yield Send([([1], Message({}))], (9, 9))

    def trains_once(node: Node) -> Program:
        seen["before"] = node.x.clone()
        yield Train(0)
        seen["after"] = node.x.clone(), (yield Now())

    def trains_first(node: Node) -> Program:
        yield Train(0)

    def tells(node: Node, question: Message) -> Message:
        return Message({"params": node.x})

    pace = {"default": 10, "3": 0.25}
    more = simulate(experiment, ONE_SECOND | {"compute": {"seconds_per_iteration": pace}})
    scripted(
        experiment, {0: asks, 1: waits, 2: trains_once, 3: trains_first}, *more, kind=kind,
        answers=dict.fromkeys((1, 2, 3), tells),
    )  # fmt: skip
    assert [seen[uid][1] for uid in (1, 2, 3)] == [2.0, 2.0, 2.0]
    after, when = seen["after"]
    assert when == 10.0 and not torch.equal(after, seen["before"])
    assert torch.equal(seen[2][0], seen["before"]), "it had not trained yet"


def test_an_answer_in_the_middle_of_training_changes_no_number(experiment: Experiment) -> None:
    """A row that was given away while its training is simulated is not written."""
    found: dict[str, torch.Tensor] = {}

    def program(name: str) -> Any:
        def trains_twice(node: Node) -> Program:
            yield Train(0)
            yield Train(1)
            found[name] = node.x.clone()

        return trains_twice

    def asks(node: Node) -> Program:
        for t in range(3):
            yield Sleep(4.0)
            yield Ask([2], Message({}), (t, 0))
        yield Receive(ANY, count=3)

    def tells(node: Node, question: Message) -> Message:
        return Message({"params": node.x})

    more = simulate(experiment)
    scripted(experiment, {2: program("alone")}, *more)
    scripted(experiment, {0: asks, 2: program("asked")}, *more, answers={2: tells}, name="asked")
    assert torch.equal(found["alone"], found["asked"])


@pytest.mark.parametrize("layout", [NEAR, FAR])
def test_a_run_is_not_at_rest_while_a_question_is_on_its_way(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    """All others wait in a `Drain` for what the answers to the answers say."""
    order: list[str] = []

    def asks(node: Node) -> Program:
        yield Drain()
        order.append("drained")
        for t in range(5):
            yield Ask([2], Message({}), (t, 0))
            yield Receive([2], (t, 0))
            order.append(f"answer {t}")
        yield Drain()
        order.append("end")

    def rests(node: Node) -> Program:
        yield Drain()
        yield Drain()
        order.append("end")

    answers = {2: lambda node, question: Message({})}
    scripted(experiment, {0: asks, 1: rests, 2: rests, 3: rests}, layout=layout, answers=answers)
    assert order == ["drained", *(f"answer {t}" for t in range(5)), *["end"] * 4]
