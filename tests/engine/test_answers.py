"""A node that trains answers between two local steps, with its model as it was before."""

from __future__ import annotations

from pathlib import Path

import torch
from launching import Experiment, finish

from decentralizepy.graphs.generators import ring

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
