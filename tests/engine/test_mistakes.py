"""What a program says wrongly is told with its node and iteration, and its place in the file."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import Experiment
from teams import ALONE, LAYOUTS, NEAR, Script, Scripted, scripted

from decentralizepy.engine.failures import NodeFailedError
from decentralizepy.errors import RunError
from decentralizepy.graphs.generators import ring
from decentralizepy.graphs.mixing import MixingRow
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import (
    ANY,
    Ask,
    Average,
    Checkpoint,
    Forget,
    Gradient,
    Now,
    Receive,
    Report,
    Send,
    Sleep,
    Train,
)
from decentralizepy.node.node import Node, Program


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(4), cache)


def said(x: Any = None) -> Message:
    return Message({"x": torch.ones(3) if x is None else x})


#: what a program yields, and what is told of it
SENT: list[tuple[Any, str]] = [
    (lambda: [(3, said())], "receivers are a list of nodes, as [3], not 3 (of type int)"),
    (lambda: [("3", said())], "receivers are a list of nodes, as [3], not '3' (of type str)"),
    (lambda: ([3], said()), "pairs (receivers, Message(...)), not [3] (of type list)"),
    (lambda: {3: said()}, "pairs (receivers, Message(...)), not 3 (of type int)"),
    (lambda: [([3], said(), 1)], "pairs (receivers, Message(...)), not ([3], Message("),
    (lambda: [([3], {"x": 1})], "Send: a message is Message({...}), not {'x': 1} (of type dict)"),
    (lambda: [([3], said(np.ones(2)))], "tensor 'x' is array([1., 1.]) (of type numpy.ndarray)"),
    (lambda: [([3], Message([1]))], "Message takes a dictionary of tensors, and one of JSON"),
    (lambda: [([3], Message({}, 7))], "one of JSON values, not 7 (of type int)"),
    (lambda: [([3], Message({}, {"a": {1}}))], "meta['a'] = {1} is of type set"),
    (lambda: [([9], said())], "no node 9: the nodes are 0 to 3"),
    (lambda: [(np.array([2, 3]) / 1, said())], "receivers hold np.float64(2.0) (of type numpy.flo"),
    (lambda: [([torch.tensor(2.0)], said())], "receivers hold tensor(2.) (of type torch.Tensor)"),
    (lambda: [(torch.tensor(3), said())], "are a list of nodes, as [3], not tensor(3) (of type to"),
]


@pytest.mark.parametrize(("outgoing", "told"), SENT, ids=[text for _, text in SENT])
def test_what_cannot_be_sent_is_told_with_the_line_of_the_program(
    experiment: Experiment, outgoing: Callable[[], Any], told: str
) -> None:
    def helps(node: Node) -> Program:
        yield Send(outgoing(), (2, 0))  # here

    def program(node: Node) -> Program:
        node.round = 2
        yield from helps(node)

    line = helps.__code__.co_firstlineno + 1
    with pytest.raises(NodeFailedError) as raised:
        scripted(experiment, {1: program})
    first = str(raised.value).splitlines()[0]
    assert first.startswith("machine 0, worker 0: node 1 failed in iteration 3: ") and told in first
    assert first.endswith(f" ({__file__}, line {line}: yield Send(outgoing(), (2, 0))  # here)")


def test_what_a_method_gives_is_told_with_its_line(experiment: Experiment) -> None:
    def outgoing(node: Node) -> Any:
        yield [3], said()
        yield [2], {"x": node.x}

    def program(node: Node) -> Program:
        yield Send(outgoing(node), (0, 0))

    with pytest.raises(NodeFailedError) as raised:
        scripted(experiment, {1: program})
    assert str(raised.value).splitlines()[0].endswith('yield [2], {"x": node.x})')


#: effects that are refused as they are made
MADE: list[tuple[Callable[[], Any], str]] = [
    (lambda: Send([], 0), "Send: a round is a pair (iteration, averaging round), as (t, 0), not 0"),
    (lambda: Send([], (0, 0.5)), "as (t, 0), not (0, 0.5) (of type tuple)"),
    (lambda: Send(said(), (0, 0)), "Send takes pairs (receivers, Message(...)), not Message("),
    (lambda: Ask(3, said(), (0, 0)), "Ask: receivers are a list of nodes, as [3], not 3"),
    (lambda: Ask([3], {}, (0, 0)), "Ask: a message is Message({...}), not {} (of type dict)"),
    (lambda: Ask([3], said(), [0, 0]), "Ask: a round is a pair"),
    (lambda: Receive(3, (0, 0)), "Receive: sources are a list of nodes, as [3], not 3"),
    (lambda: Receive([3], 0), "Receive: a round is a pair"),
    (lambda: Receive(ANY, (0, 0), count=0), "Receive: count = 0 (of type int): at least 1"),
    (lambda: Receive(ANY, (0, 0), count=1.5), "Receive: count = 1.5 (of type float): at least 1"),
    (lambda: Receive([3], (0, 0), count=8), "count = 8 (of type int) goes with ANY; of named"),
    (lambda: Forget(3), "Forget: a round is a pair"),
    (lambda: Ask([1.0], said(), (0, 0)), "Ask: receivers hold 1.0 (of type float): a node is a"),
    (lambda: Receive(["1"], (0, 0)), "Receive: sources hold '1' (of type str): a node is a whole"),
    (lambda: Receive([[1]], (0, 0)), "Receive: sources hold [1] (of type list): a node is a whole"),
    (lambda: Send([], (torch.tensor(0.0), 0)), "as (t, 0), not (tensor(0.), 0) (of type tuple)"),
    (lambda: Send([], (0, -1)), "Send: a round's numbers are 0 or more, and below 2**62, not (0,"),
    (lambda: Receive(ANY, (-1, 0)), "Receive: a round's numbers are 0 or more"),
    (lambda: Ask([3], said(), (1 << 62, 0)), "Ask: a round's numbers are 0 or more, and below"),
    (lambda: Average(ring(4), 3), "Average: a round is a pair"),
    (lambda: Receive(ANY, deadline=math.nan), "Receive: deadline = nan (of type float): a finite"),
    (lambda: Receive(ANY, deadline="5"), "Receive: deadline = '5' (of type str): a number of sec"),
    (lambda: Sleep(math.inf), "Sleep: seconds = inf (of type float): a finite number of seconds"),
    (lambda: Sleep(None), "Sleep: seconds = None (of type NoneType): a number of seconds is ex"),
    (lambda: Train(0.5), "Train: t is an iteration, a whole number, not 0.5 (of type float)"),
    (lambda: Train(-1), "Train: t = -1 (of type int): iterations are numbered from 0"),
    (lambda: Train(0, steps=1.5), "Train: steps is a whole number, or None, not 1.5 (of type"),
    (lambda: Train(0, steps=-1), "Train: steps = -1 (of type int): at least 0, or None for those"),
    (lambda: Gradient("0"), "Gradient: t is an iteration, a whole number, not '0' (of type str)"),
    (lambda: Report(None), "Report: t is an iteration, a whole number, not None"),
    (lambda: Checkpoint(-2), "Checkpoint: t = -2 (of type int): iterations are numbered from 0"),
]


@pytest.mark.parametrize(("make", "told"), MADE, ids=[text for _, text in MADE])
def test_a_wrong_effect_is_refused_where_it_is_made(
    experiment: Experiment, make: Callable[[], Any], told: str
) -> None:
    def program(node: Node) -> Program:
        node.round = 2
        yield make()

    with pytest.raises(NodeFailedError) as raised:
        scripted(experiment, {1: program})
    text = str(raised.value)
    assert text.splitlines()[0].startswith("machine 0, worker 0: node 1 failed in iteration 3: ")
    assert told in text.splitlines()[0]
    assert f'"{__file__}", line {program.__code__.co_firstlineno + 2}, in program' in text


def test_numbers_of_numpy_are_numbers(experiment: Experiment) -> None:
    three, zero = np.int64(3), np.int64(0)
    heard = []

    def hears(node: Node) -> Program:
        heard.append((yield Receive(ANY, (zero, 0), count=np.int64(1))))
        heard.append((yield Receive({1}, (0, 1))))

    def speaks(node: Node) -> Program:
        yield Send([(np.array([three]), said())], (zero, zero))
        yield Send([[(three,), said()]], (0, 1))

    scripted(experiment, {1: speaks, 3: hears})
    assert [[message.sender for message in messages] for messages in heard] == [[1], [1]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_of_tensors_and_arrays_are_numbers(experiment: Experiment, layout: Any) -> None:
    two, zero = torch.tensor(2), torch.tensor(0)
    heard = {}

    def speaks(node: Node) -> Program:
        yield Send([(torch.tensor([1, 2]), said()), ([torch.tensor(3)], said())], (two, zero))
        yield Ask([two], said(), (zero, two))
        heard[0] = yield Receive([two], (torch.tensor(0), torch.tensor(2)), deadline=60 * two)

    def hears(node: Node) -> Program:
        heard[node.uid] = yield Receive(torch.tensor([0]), (np.int64(2), torch.tensor(0)))

    scripts = {0: speaks, 1: hears, 2: hears, 3: hears}
    scripted(experiment, scripts, layout=layout, answers={2: lambda node, question: said()})
    assert {uid: [one.sender for one in said_] for uid, said_ in heard.items()} == {
        0: [2], 1: [0], 2: [0], 3: [0],
    }  # fmt: skip
    senders = [one for messages in heard.values() for one in messages]
    assert {type(one.sender) for one in senders} == {int}
    assert {type(number) for one in senders for number in one.round} == {int}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nobody_waits_for_a_node_that_does_not_exist(experiment: Experiment, layout: Any) -> None:
    def program(node: Node) -> Program:
        yield Receive([1, 9], (0, 0), deadline=60.0)  # here

    with pytest.raises(NodeFailedError, match=r"node 0 failed in iteration 1: .*no node 9: the nod"
                       r"es are 0 to 3 .*line \d+: yield Receive"):  # fmt: skip
        scripted(experiment, {0: program}, layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_deadline_that_never_comes_is_none(experiment: Experiment, layout: Any) -> None:
    heard = []

    def speaks(node: Node) -> Program:
        yield Sleep(0.05)
        yield Send([([3], said())], (0, 0))
        yield Sleep(0.05)
        yield Send([([3], said())], (0, 1))

    def hears(node: Node) -> Program:
        heard.extend((yield Receive([0], (0, 0), deadline=math.inf)))
        heard.extend((yield Receive([0], (0, 1), deadline=sys.float_info.max)))

    scripted(experiment, {0: speaks, 3: hears}, layout=layout)
    assert [message.sender for message in heard] == [0, 0]


def test_mail_before_the_first_round_may_be_forgotten(experiment: Experiment) -> None:
    def program(node: Node) -> Program:
        yield Forget((-2, 0))

    scripted(experiment, {0: program})


@pytest.mark.parametrize("every", ["0", "2"])
def test_an_iteration_is_reported_once(experiment: Experiment, every: str) -> None:
    def first(node: Node) -> Program:
        yield Report(0)
        yield Report(1)

    def second(node: Node) -> Program:
        yield Sleep(0.01)
        yield Report(1)

    told = r"node 2 failed in iteration 1: .*has reported t = 1 before: .*line \d+: yield Report\(1"
    with pytest.raises(NodeFailedError, match=told):
        scripted(experiment, {2: [first, second]}, "-ta", every)


@pytest.mark.parametrize("order", [(0, 1, 0), (2, 0, 1, 2), (1, 0, 2, 3, 1), (3, 2, 1, 0, 3)])
def test_an_iteration_is_reported_once_in_any_order(
    experiment: Experiment, order: tuple[int, ...]
) -> None:
    def program(node: Node) -> Program:
        for t in order:
            yield Report(t)

    with pytest.raises(NodeFailedError, match=f"has reported t = {order[-1]} before"):
        scripted(experiment, {2: program})
    scripted(experiment, {2: _but_the_last(order)}, name="once")


def _but_the_last(order: tuple[int, ...]) -> Script:
    def program(node: Node) -> Program:
        for t in order[:-1]:
            yield Report(t)

    return program


def test_no_iteration_after_the_last_is_reported(experiment: Experiment) -> None:
    def program(node: Node) -> Program:
        yield Report(8)
        yield Report(9)

    told = r"node 2 failed in .*Report: t = 9: the last of this run is t = 8 .*: yield Report\(9"
    with pytest.raises(NodeFailedError, match=told):
        scripted(experiment, {2: program})


@pytest.mark.parametrize("use", [list, lambda heard: heard[0], lambda heard: 3 in heard])
def test_an_effect_that_was_not_yielded_says_so(
    experiment: Experiment, use: Callable[[Any], Any]
) -> None:
    def program(node: Node) -> Program:
        heard = Receive([2], (0, 0))
        use(heard)
        yield Report(0)

    told = "this Receive was not yielded, .*; yield it: heard = yield Receive"
    with pytest.raises(NodeFailedError, match=told):
        scripted(experiment, {1: program})


def _mixes(node: Node, row: Any) -> None:
    node.sharing.mixing = lambda graph, uid: row  # type: ignore[method-assign]
    context = node.context(ring(4), 2)
    node.sharing.merge(node.x, [Message({"params": node.x}, None, 2)], context)


def _takes(node: Node, row: Any) -> None:
    node.x = row


#: what is done, and what is told of it
DONE: list[tuple[Callable[[Node], Any], str]] = [
    (lambda node: Train(2, correction=torch.zeros(3)), "Train: correction has the shape [3], wher"),
    (lambda node: Train(2, anchor=node.x[None]), "Train: anchor has the shape [1, "),
    (lambda node: Train(2, correction=0.5), "Train: correction is a tensor ["),
    (lambda node: _mixes(node, None), "Sharing.mixing gives None (of type NoneType): a Mix"),
    (lambda node: _mixes(node, MixingRow(0.5, {0: 0.5})), "node 2 has no weight in this MixingRow"),
    (lambda node: _takes(node, None), "a row is a tensor [P], not None (of type NoneType)"),
    (lambda node: _takes(node, [0.5]), "not [0.5] (of type list): make one with torch.tensor"),
    (lambda node: _takes(node, np.ones(2)), "numpy.ndarray): make one with torch.from_numpy(a"),
    (lambda node: node.rows["m"], "'m': no such row; name it in row_names"),
    (lambda node: said()["params"], "'params': the tensors of this message are 'x'"),
]


@pytest.mark.parametrize(("does", "told"), DONE, ids=[text for _, text in DONE])
def test_what_a_users_method_gives_or_takes_wrongly_is_told(
    experiment: Experiment, does: Callable[[Node], Any], told: str
) -> None:
    def program(node: Node) -> Program:
        node.round = 2
        effect = does(node)
        yield effect

    with pytest.raises(NodeFailedError) as raised:
        scripted(experiment, {1: program})
    first = str(raised.value).splitlines()[0]
    assert first.startswith("machine 0, worker 0: node 1 failed in iteration 3: ") and told in first


@pytest.mark.parametrize("model", ["MLP", "Everything"])
def test_terms_of_gradients_may_come_from_gradients(
    tmp_path: Path, cache: Path, model: str
) -> None:
    """Stacked, and one by one: what a term was computed from is not trained."""
    package = {"package": "everything"} if model == "Everything" else {}
    options = {"model": model, **{f"model_{key}": value for key, value in package.items()}}
    rows = []

    def trains(graded: bool) -> Callable[[Node], Program]:
        def program(node: Node) -> Program:
            z = node.x[: node.n_parameters].clone().requires_grad_(graded)
            yield Train(0, correction=0.01 * z, anchor=z * 1.5, pull=0.3)
            rows.append(node.x)

        return program

    for graded in (False, True):
        one = Experiment(tmp_path / str(graded), ring(4), cache, **options)
        scripted(one, {1: trains(graded)})
    assert torch.equal(*rows) and not rows[1].requires_grad


def test_an_error_in_setup_names_the_node(experiment: Experiment) -> None:
    class Unprepared(Scripted):
        def setup(self) -> None:
            if self.uid == 2:
                raise LookupError("no such page")

    with pytest.raises(NodeFailedError, match=r"^machine 0, worker 0: node 2 failed in setup: Lo"):
        scripted(experiment, {}, kind=Unprepared)


def test_what_is_no_effect_is_told_with_its_line(experiment: Experiment) -> None:
    def program(node: Node) -> Program:
        yield Report(0)
        yield 3

    line = program.__code__.co_firstlineno + 2
    with pytest.raises(RunError, match="node 1 yielded 3, which is no effect, in iter") as raised:
        scripted(experiment, {1: program})
    assert f"iteration 1 ({__file__}, line {line}: yield 3" in str(raised.value)


@pytest.mark.parametrize("layout", [ALONE, NEAR])
@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ({"x": 1}, "Scripted.answer: a message is Message({...}), not {'x': 1} (of type dict)"),
        (said(np.ones(1)), "tensor 'x' is array([1.]) (of type numpy.ndarray)"),
        (Message({}, {"a": (1,)}), "meta['a'] = (1,) is of type tuple"),
    ],
)
def test_a_wrong_answer_is_the_fault_of_who_gives_it(
    experiment: Experiment, layout: Any, reply: Any, told: str
) -> None:
    def asks(node: Node) -> Program:
        yield Ask([2], said(), (0, 0))
        yield Receive([2], (0, 0))

    def waits(node: Node) -> Program:
        yield Receive([0], (9, 9))

    answers = {2: lambda node, question: reply}
    with pytest.raises(NodeFailedError) as raised:
        scripted(experiment, {0: asks, 2: waits}, answers=answers, layout=layout)
    first = str(raised.value).splitlines()[0]
    assert "node 2 failed in iteration 1: " in first and told in first


@pytest.mark.parametrize("way", ["assigned", "kept", "trained"])
def test_a_row_written_in_place_is_told_with_node_and_iteration(
    experiment: Experiment, way: str
) -> None:
    def program(node: Node) -> Program:
        node.round = 2
        mine = node.x
        mine += 1
        if way == "assigned":
            node.x = mine
        elif way == "kept":
            yield Average(node.graph_at(0), (2, 0))
        yield Train(2)

    with pytest.raises(NodeFailedError, match="the row 'x' was written in place") as raised:
        scripted(experiment, dict.fromkeys(range(4), program), kind=Averaged)
    assert "node 0 failed in iteration 3" in str(raised.value)


@pytest.mark.parametrize("heir", [False, True])
def test_an_effect_as_a_statement_is_told_at_the_start(experiment: Experiment, heir: bool) -> None:
    class Forgetful(Scripted):
        def program(self) -> Program:
            for t in self.rounds():
                Train(t)  # here
                yield Report(t)

    class Heir(Forgetful):
        pass

    line = Forgetful.program.__code__.co_firstlineno + 2
    told = re.escape(
        f"made and not yielded, so nothing would happen: {__file__}, line {line}: Trai"
    )
    with pytest.raises(RunError, match=told):
        scripted(experiment, {}, kind=Heir if heir else Forgetful)


def test_effects_that_are_kept_or_given_on_are_no_statements(experiment: Experiment) -> None:
    class Careful(Scripted):
        def program(self) -> Program:
            def refused() -> None:
                Train(0)

            first = Report(0)
            effects = [Report(t) for t in range(1, 3)]
            yield first
            yield from effects
            refused()

    scripted(experiment, {}, kind=Careful)


class Averaged(Scripted):
    averages_together = True


def test_a_program_that_exits_is_told_with_its_node(experiment: Experiment) -> None:
    def program(node: Node) -> Program:
        yield Now()
        raise SystemExit(0)

    with pytest.raises(NodeFailedError, match=r"node 1 failed in iteration 1: SystemExit: 0"):
        scripted(experiment, {1: program})


def test_a_question_that_nobody_can_answer_is_refused(experiment: Experiment) -> None:
    class Mute(Scripted):
        answer = Node.answer

    def program(node: Node) -> Program:
        yield Ask([2], said(), (0, 0))

    told = r"node 1 failed in iteration 1: TypeError: Ask: Mute defines no answer\(self, message\)"
    with pytest.raises(NodeFailedError, match=told):
        scripted(experiment, {1: program}, kind=Mute)
