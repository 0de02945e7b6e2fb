"""Node programs under the virtual clock: time-outs, sleeping, taking any message, frozen rows."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import build, inject
from launching import Experiment

from decentralizepy.engine.clock import VirtualClock
from decentralizepy.engine.failures import NodeFailedError
from decentralizepy.engine.mailbox import Mailbox
from decentralizepy.engine.worker import Worker
from decentralizepy.errors import RunError
from decentralizepy.graphs.generators import ring
from decentralizepy.memory.rows import Row
from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.effects import ANY, Now, Receive, Report, Send, Sleep, Train
from decentralizepy.node.mail import Mail
from decentralizepy.node.node import Node, Program

SEEN: dict[int, list[Any]] = {}


def run(tmp_path: Path, cache: Path, programs: dict[int, Any], nodes: int = 3) -> Worker:
    """Run hand-written programs on a ring; those not given end at once."""
    SEEN.clear()
    worker = build(Experiment(tmp_path, ring(nodes), cache), 1, "-ta", "0", "-tea", "0")
    worker.clock = VirtualClock()
    inject(worker, programs)
    worker.run()
    return worker


def say(node: Node, receivers: list[int], value: float, round_: tuple[int, int] = (0, 0)) -> Send:
    return Send([(receivers, Message({"params": torch.full((4,), value)}))], round_)


def test_time_passes_only_when_nothing_can_happen(tmp_path: Path, cache: Path) -> None:
    def sleeper(seconds: float):
        def program(node: Node) -> Program:
            for _ in range(3):
                yield Sleep(seconds)
                SEEN.setdefault(node.uid, []).append((yield Now()))

        return program

    run(tmp_path, cache, {0: sleeper(10.0), 1: sleeper(3600.0)})
    assert SEEN == {0: [10.0, 20.0, 30.0], 1: [3600.0, 7200.0, 10800.0]}


def test_a_deadline_gives_what_came_and_says_what_did_not(tmp_path: Path, cache: Path) -> None:
    def patient(node: Node) -> Program:
        heard = yield Receive((1, 2), (0, 0), deadline=5.0)
        SEEN[0] = [heard, (yield Now())]
        SEEN[0].append((yield Receive((2,), (0, 1)))[0].sender)

    def early(node: Node) -> Program:
        yield say(node, [0], 1.0)

    def late(node: Node) -> Program:
        yield Sleep(7.0)
        yield say(node, [0], 2.0)
        yield say(node, [0], 3.0, (0, 1))

    worker = run(tmp_path, cache, {0: patient, 1: early, 2: late})
    heard, now, other = SEEN[0]
    assert now == 5.0
    assert heard[0].sender == 1 and float(heard[0]["params"][0]) == 1.0
    assert heard[1] == Missing(2, "deadline")
    assert other == 2
    assert not len(worker.seats[0].mailbox), "what came too late was dropped"


def test_without_a_deadline_the_late_one_is_waited_for(tmp_path: Path, cache: Path) -> None:
    def patient(node: Node) -> Program:
        SEEN[0] = yield Receive((2,), (0, 0))

    def late(node: Node) -> Program:
        yield Sleep(7.0)
        yield say(node, [0], 2.0)

    run(tmp_path, cache, {0: patient, 2: late})
    assert float(SEEN[0][0]["params"][0]) == 2.0


def test_any_message_in_order_of_sender_and_sending(tmp_path: Path, cache: Path) -> None:
    def listener(node: Node) -> Program:
        heard = yield Receive(ANY, ANY, count=3)
        SEEN[0] = [(m.sender, float(m["params"][0])) for m in heard]

    def speaker(value: float):
        def program(node: Node) -> Program:
            yield say(node, [0], value, (1, 0))
            yield say(node, [0], value + 1, (1, 0))

        return program

    run(tmp_path, cache, {0: listener, 1: speaker(10.0), 2: speaker(20.0)})
    assert SEEN[0] == [(1, 10.0), (1, 11.0), (2, 20.0)]


def test_a_row_that_was_sent_is_frozen_until_it_was_read(tmp_path: Path, cache: Path) -> None:
    """Node 1 trains right after sending: node 0, which reads later, must see what was sent."""

    def sender(node: Node) -> Program:
        SEEN[1] = [node.x.clone()]
        yield Send([([0], Message({"params": node.x}))], (0, 0))
        yield Train(0)
        SEEN[1].append(node.x.clone())

    def reader(node: Node) -> Program:
        yield Sleep(5.0)
        heard = yield Receive((1,), (0, 0))
        SEEN[0] = heard[0]["params"].clone()

    run(tmp_path, cache, {0: reader, 1: sender})
    assert torch.equal(SEEN[0], SEEN[1][0])
    assert not torch.equal(SEEN[1][0], SEEN[1][1]), "it did train in between"


def test_rows_come_back_once_they_were_read(tmp_path: Path, cache: Path) -> None:
    """Thousands of exchanges use a handful of rows."""
    worker = build(Experiment(tmp_path, ring(4), cache), 300, "-ta", "0", "-tea", "0")
    used = set()
    acquire = worker.pool.acquire

    def watched() -> Row:
        row = acquire()
        used.add(row.index)
        return row

    worker.pool.acquire = watched  # type: ignore[method-assign]
    worker.run()
    assert None not in used and len(used) <= 3 * 4, "two a node, and a little for who lags"


def test_programs_that_wait_for_each_other_are_named(tmp_path: Path, cache: Path) -> None:
    def waits(node: Node) -> Program:
        yield Receive((1,), (0, 0))

    with pytest.raises(
        RunError, match=r"no node can go on: node 0 waits in iteration 1 for 1 in round \(0, 0\)"
    ):
        run(tmp_path, cache, {0: waits})


def test_what_is_no_effect_is_refused(tmp_path: Path, cache: Path) -> None:
    def strange(node: Node) -> Program:
        yield "coffee"  # type: ignore[misc]

    with pytest.raises(RunError, match="'coffee', which is no effect"):
        run(tmp_path, cache, {0: strange})


def test_an_error_while_sending_names_the_node(tmp_path: Path, cache: Path) -> None:
    def outgoing():
        yield [0], Message({"params": torch.zeros(2)})
        raise OverflowError("too much")

    def program(node: Node) -> Program:
        yield Send(outgoing(), (0, 0))

    with pytest.raises(NodeFailedError, match="node 1 failed in iteration 1: OverflowError"):
        run(tmp_path, cache, {1: program})


@pytest.mark.parametrize(
    ("part", "does"), [("trainer", "train"), ("evaluations.evaluator", "measure")]
)
def test_an_error_in_training_or_evaluating_names_the_node(
    part: str, does: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise IndexError("index out of range in self")

    worker = build(Experiment(tmp_path, ring(3), cache), 2, "-ta", "1", "-tea", "0")
    monkeypatch.setattr(attrgetter(part)(worker), does, fail)
    with pytest.raises(NodeFailedError, match="node 0 failed in iteration 1: IndexError: index"):
        worker.run()


def test_a_method_may_return_a_row_of_its_own(tmp_path: Path, cache: Path) -> None:
    def program(node: Node) -> Program:
        node.x = torch.ones_like(node.x)
        yield Report(0)
        SEEN[0] = [node.x]

    worker = run(tmp_path, cache, {0: program})
    assert bool((worker.seats[0].node.x == 1).all())
    held = worker.seats[0].rows.held("x")
    assert held.index is not None
    assert SEEN[0][0].data_ptr() == worker.pool.tensor(held.index).data_ptr(), "adopted"


def test_two_programs_of_a_node_take_from_one_mailbox(tmp_path: Path, cache: Path) -> None:
    """What one has heard is not counted for the other, which waits for as much as it asked for."""

    def speaker(node: Node) -> Program:
        for t in range(3):
            yield say(node, [0], float(t), (t, 0))
            yield Sleep(1.0)

    def counts(node: Node) -> Program:
        heard = yield Receive(ANY, count=2)
        SEEN[0] = [[m.round[0] for m in heard], (yield Now())]

    def names(node: Node) -> Program:
        (heard,) = yield Receive([1], (0, 0))
        SEEN[1] = [heard.round[0], (yield Now())]

    run(tmp_path, cache, {0: [counts, names], 1: speaker})
    assert SEEN == {0: [[1, 2], 2.0], 1: [0, 0.0]}


def test_mail_that_pushes_other_mail_out_is_counted_once(tmp_path: Path, cache: Path) -> None:
    def speaker(node: Node) -> Program:
        yield Sleep(float(node.uid))
        for t in range(3):
            yield say(node, [0], float(t), (t, 0))

    def listener(node: Node) -> Program:
        heard = yield Receive(ANY, count=2)
        SEEN[0] = [[(m.sender, m.round[0]) for m in heard], (yield Now())]

    worker = build(Experiment(tmp_path, ring(3), cache), 1, "-ta", "0", "-tea", "0")
    worker.clock, worker.seats[0].mailbox = VirtualClock(), Mailbox(Mail(newest=1))
    inject(worker, {0: listener, 1: speaker, 2: speaker})
    SEEN.clear()
    worker.run()
    assert SEEN == {0: [[(1, 2), (2, 0)], 2.0]}


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [
        ({"test_acc": 1.0}, "'test_acc' is a column of the engine"),
        ({"my lag": 1.0}, "'my lag' is no name of a column"),
        ({"lag": torch.ones(1)}, "lag is a Tensor, not a number"),
    ],
)
def test_columns_that_cannot_be_recorded_name_the_node(
    tmp_path: Path, cache: Path, metrics: dict[str, Any], problem: str
) -> None:
    def program(node: Node) -> Program:
        yield Report(0, metrics)

    with pytest.raises(NodeFailedError, match=f"node 1 failed in iteration 1: .*{problem}"):
        run(tmp_path, cache, {1: program})
