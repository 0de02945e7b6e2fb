"""A node that trains answers between two local steps, with its model as it was before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from launching import Experiment, finish
from teams import Scripted, scripted

from decentralizepy.graphs.generators import ring
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import Ask, Gradient, Now, Sleep, Train
from decentralizepy.node.node import Node, Program

STEPS = 1_500
PROGRAM = """\
import time
from pathlib import Path

import torch

from decentralizepy import Ask, Checkpoint, Message, Node, Receive, Report, Sleep, Train
from decentralizepy.training.training import Training

TRAINS, ANSWERED, SEEN = Path("trains"), Path("answered"), Path("seen")


class Waits(Training):
    '''Takes its time until the answer has come, and notes the step in which it has.'''

    def gradient(self, step):
        super().gradient(step)
        if step.index:  # there is one step in the rehearsal
            TRAINS.touch()
        if not ANSWERED.exists():
            time.sleep(0.002)
        elif not SEEN.exists():
            SEEN.write_text(str(step.index))


class Asks(Node):
    '''Node 3 asks node 0 while that trains, which sets its model to 1 as it answers if it takes.'''

    asynchronous = True
    shares = packs = False

    def __init__(self, *, takes: bool = False) -> None:
        self.takes = takes

    def answer(self, message):
        said = Message({"x": self.x})
        if self.takes:
            self.x = torch.ones_like(self.x)
        return said

    def program(self):
        if self.uid == 0:
            before = self.x
            yield Train(0)
            torch.save((before, self.x), "model.pt")
        if self.uid == 3:
            while not TRAINS.exists():
                yield Sleep(0.001)
            yield Ask([0], Message({}), (0, 0))
            (heard,) = yield Receive([0], (0, 0))
            torch.save(heard["x"].clone(), "heard.pt")
            ANSWERED.touch()
        yield Report(0)
        yield Checkpoint(0)
"""


def answered(folder: Path, cache: Path, takes: str) -> tuple[torch.Tensor, ...]:
    """Node 0's model before and after its training, and what it said meanwhile."""
    made = Experiment(
        folder, ring(4), cache, node=f"node_package = asks\nnode_class = Asks\ntakes = {takes}",
        training_package="asks", training="Waits", rounds=str(STEPS),
    )  # fmt: skip
    (folder / "asks.py").write_text(PROGRAM)
    finish(made.start((4,), 2, 1)[1])
    assert int((folder / "seen").read_text()) > 0, "the answer came while node 0 trained"
    return (*torch.load(folder / "model.pt"), torch.load(folder / "heard.pt"))


def test_a_node_answers_while_it_trains(tmp_path: Path, cache: Path) -> None:
    before, after, said = answered(tmp_path / "a", cache, "no")
    assert torch.equal(said, before) and not torch.equal(after, before)
    same, moved, said = answered(tmp_path / "b", cache, "yes")
    assert torch.equal(same, before) and torch.equal(said, before)
    torch.testing.assert_close(moved - 1, after - before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("effect", [Train, Gradient])
@pytest.mark.parametrize("by", ["answer", "program"])
def test_in_simulated_time_training_begins_with_the_row_as_it_was(
    tmp_path: Path, cache: Path, by: str, effect: type[Train] | type[Gradient]
) -> None:
    """Also where the row is assigned while it takes its time."""
    found: list[torch.Tensor] = []
    times: list[float] = []

    def moves(node: Node) -> None:
        times.append(1.0)
        node.x = node.x + len(found)  # the first run adds 0, the second 1

    def trains(node: Node) -> Program:
        got = yield effect(0)
        assert (yield Now()) == 1.0 and len(times) == 1
        found.append(node.x.clone() if got is None else got)
        times.clear()

    def meanwhile(node: Node) -> Program:
        yield Sleep(0.5)
        moves(node)

    def asks(node: Node) -> Program:
        yield Sleep(0.5)
        yield Ask([0], Message({}), (0, 0))

    value = {"compute": {"seconds_per_iteration": {"default": 1.0}}, "links": {"latency_s": 0.01}}
    (tmp_path / "simulation.json").write_text(json.dumps(value))
    experiment = Experiment(tmp_path, ring(4), cache)
    for name in ("still", "moved"):
        scripted(
            experiment,
            {0: trains, 1: asks} if by == "answer" else {0: [trains, meanwhile]},
            "--simulate", str(tmp_path / "simulation.json"),
            answers={0: lambda node, message: moves(node)} if by == "answer" else None,
            kind=Scripted if by == "answer" else Mute, name=name,
        )  # fmt: skip
    still, moved = found
    if effect is Gradient:
        assert torch.equal(moved, still) and still.any()
    else:
        torch.testing.assert_close(moved - 1, still, rtol=0, atol=1e-6)


class Mute(Scripted):
    """Answers nothing."""

    answer = Node.answer
