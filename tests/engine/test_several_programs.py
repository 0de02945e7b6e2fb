"""What a node with several programs has to say, and that only one of them counts the rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from launching import Experiment
from teams import LAYOUTS, Scripted, scripted

from decentralizepy.engine.failures import NodeFailedError
from decentralizepy.errors import RunError
from decentralizepy.graphs.generators import ring
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import ANY, Checkpoint, Drain, Receive, Send, Train
from decentralizepy.node.node import Node, Program


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(2), cache)


# --------------------------------------------------------------------- who counts


def trains(node: Node) -> Program:
    for t in node.rounds():
        yield Train(t)
        yield Checkpoint(t)


def test_two_programs_that_count_the_rounds_are_told(experiment: Experiment) -> None:
    """They would skip rounds, for each moves on the same number."""
    told = "node 1 failed in iteration 1: RuntimeError: only one program of a node counts its rou"
    with pytest.raises(NodeFailedError, match=told):
        scripted(experiment, {1: (trains, trains)})


def test_one_counts_and_others_take_a_range(experiment: Experiment) -> None:
    done = []

    def follows(node: Node) -> Program:
        for t in range(node.round, node.iterations):
            yield Send([([node.uid], Message({}))], (t, 0))
            yield Receive([node.uid], (t, 0))
            done.append(t)

    scripted(experiment, {1: (trains, follows)}, iterations=5)
    assert done == list(range(5))


@pytest.mark.parametrize("leave", ["break", "end"])
def test_who_has_left_its_rounds_may_begin_again(experiment: Experiment, leave: str) -> None:
    begun = []

    def program(node: Node) -> Program:
        for t in node.rounds():
            yield Train(t)
            if leave == "break" and t == 2:
                break
        for t in node.rounds():
            begun.append(t)
            yield Train(t)

    scripted(experiment, {1: program}, iterations=5)
    assert begun == ([2, 3, 4] if leave == "break" else [])


def test_a_resumed_node_counts_on(experiment: Experiment) -> None:
    begun = []

    def program(node: Node) -> Program:
        begun.append(node.round)
        yield from trains(node)

    flags, scripts = ("--checkpoint_after", "2"), dict.fromkeys(range(2), program)
    scripted(experiment, scripts, *flags, iterations=3)
    scripted(experiment, scripts, *flags, iterations=5, name="on", restore=("team", 2))
    assert begun == [0, 0, 2, 2]


# ------------------------------------------------------------------ what is given


class Several(Scripted):
    def program(self) -> Program:
        yield Train(0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda node: [], r"returns a list of generators, as \[self.program\(\)\], not \[\] "),
        (lambda node: None, "returns a list of generators, .* not None"),
        (lambda node: node.program(), "returns a list of generators, .* not <generator"),
        (lambda node: [node.program(), node.program], "number 2 is no generator but <bound met"),
        (lambda node: [Train(0)], "number 1 is no generator but Train"),
    ],
)
def test_what_is_no_list_of_programs_is_named(
    experiment: Experiment, given: Callable[[Node], Any], told: str
) -> None:
    kind = type("K", (Several,), {"programs": given})
    with pytest.raises(RunError, match=rf"^K\.programs:? {told}"):
        scripted(experiment, {}, kind=kind)


# ------------------------------------------------------------------ how they end


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_endless_listener_ends_with_a_word_of_its_node(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    """As the guide shows it; all that another node has said by then is heard."""
    heard: dict[int, list[int]] = {0: [], 1: []}

    def listens(node: Node) -> Program:
        while True:
            (message,) = yield Receive(ANY, (0, 1), count=1)
            if "end" in message.meta:
                return
            heard[node.uid].append(message.meta["t"])

    def speaks(node: Node) -> Program:
        for t in node.rounds():
            yield Train(t)
            yield Send([([1 - node.uid], Message({}, {"t": t}))], (0, 1))
        yield Drain()
        yield Send([([node.uid], Message({}, {"end": True}))], (0, 1))

    scripts = dict.fromkeys(range(2), (listens, speaks))
    scripted(experiment, scripts, layout=layout, iterations=4)
    assert heard == {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}
