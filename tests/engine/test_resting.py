"""Whole runs that come to rest: to be saved with their mail, to end together, or in a deadlock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import Experiment, digests
from teams import ALONE, FAR, LAYOUTS, NEAR, Script, Scripted, Team, scripted

from decentralizepy.errors import RunError
from decentralizepy.graphs.generators import ring
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import (
    ANY,
    Checkpoint,
    Drain,
    Forget,
    Now,
    Receive,
    Report,
    Send,
    Sleep,
    Train,
)
from decentralizepy.node.node import Node, Program
from decentralizepy.runfolder import MachineFolder
from decentralizepy.words import NodeSaved, Note

layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=["one worker", "two", "two machines"])
KEEP = ("--checkpoint_after", "1")


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(4), cache)


Heard = dict[int, list[tuple[int, tuple[int, int], Any, dict[str, torch.Tensor]]]]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@layouts
def test_mail_that_nobody_has_read_is_saved_and_read_after_the_run_goes_on(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    """What was sent right before the checkpoint is in it, in order, though it is still on its way
    when its sender comes there; also rows of which several messages carry parts."""
    heard: Heard = {}

    def program(node: Node) -> Program:
        if node.round == 0:
            for i in range(10):
                tensors = [
                    {"params": node.x}, {"a": node.x[:9], "b": node.x[5:]}, {}, {"z": torch.ones(i)}
                ][i % 4]  # fmt: skip
                yield Send([([1, 3], Message(tensors, {"i": i}))], (i, 0))
            yield Checkpoint(0)
            node.round = 1
        mine = heard[node.uid] = []
        for _ in range(40 if node.uid in (1, 3) else 0):
            (one,) = yield Receive(ANY, count=1)
            mine.append((one.sender, one.round, one.meta, dict(one.tensors)))

    scripts = dict.fromkeys(range(4), program)
    first = scripted(experiment, scripts, *KEEP, layout=layout)
    saved = [word for word in first.told if isinstance(word, NodeSaved)]
    assert sorted((word.uid, word.iterations) for word in saved) == [(u, 1) for u in range(4)]
    before = dict(heard)
    heard.clear()
    scripted(experiment, scripts, *KEEP, layout=layout, name="again", restore=("team", 1))
    assert len(before[1]) == len(before[3]) == 40 and heard.keys() == before.keys()
    assert equal(heard, before)


def test_what_a_node_no_longer_wants_is_dropped_after_the_run_goes_on_too(
    experiment: Experiment,
) -> None:
    """Node 1 forgets all before round 40, and waits in vain for node 0 in round 50."""
    heard: dict[int, list[int]] = {}

    def program(node: Node) -> Program:
        if node.round == 0:
            if node.uid == 1:
                yield Forget((40, 0))
                yield Receive([0], (50, 0), deadline=0.01)
            yield Checkpoint(0)
            node.round = 1
        if node.uid == 0:
            for t in (39, 40, 50, 51):
                yield Send([([1], Message({}))], (t, 0))
        if node.uid == 1:
            heard[1] = []
            for _ in range(2):
                heard[1] += [one.round[0] for one in (yield Receive(ANY, count=1))]
        yield Drain()

    scripts = dict.fromkeys(range(4), program)
    scripted(experiment, scripts, *KEEP)
    whole, heard[1] = heard[1], []
    scripted(experiment, scripts, *KEEP, name="again", restore=("team", 1))
    assert heard[1] == whole == [40, 51]


def gossip(node: Node) -> Program:
    """Asynchronous gossip: hear what is there, in whatever round it was said."""
    generator = node.generator(node.round)
    for t in node.rounds():
        yield Train(t)
        peer = (node.uid + 1 + int(generator.integers(3))) % 4
        yield Send([([peer], Message({"params": node.x}, {"t": t}))], (t, 0))
        yield Sleep(0.05)
        for message in (yield Receive(ANY, deadline=0.0)):
            node.x = 0.5 * (node.x + message["params"])
        yield Report(t)
        yield Checkpoint(t)
        generator = node.generator(t + 1)


def test_an_asynchronous_simulation_goes_on_with_the_same_bits(experiment: Experiment) -> None:
    value = {
        "links": {"latency_s": 0.4},
        "compute": {"seconds_per_iteration": {"default": 0.1, "1": 1.0, "2": 0.35}},
    }
    path = experiment.folder / "simulation.json"
    path.write_text(json.dumps(value))
    flags = ("--simulate", str(path), "--checkpoint_after", "3", "--digests")
    scripts = dict.fromkeys(range(4), gossip)
    scripted(experiment, scripts, *flags, iterations=8, name="whole")
    scripted(experiment, scripts, *flags, iterations=5, name="cut")
    whole = digests(experiment.folder / "whole")
    assert len(whole) == 32 and len(set(whole.values())) == 32
    scripted(experiment, scripts, *flags, iterations=8, name="resumed", restore=("cut", 3))
    resumed = digests(experiment.folder / "resumed")
    assert resumed == {key: value for key, value in whole.items() if key[0] > 3}


@layouts
def test_all_are_saved_at_the_same_time_and_before_anybody_goes_on(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    order: list[Any] = []

    def program(node: Node) -> Program:
        for t in node.rounds():
            yield Sleep(0.02 * node.uid)
            order.append((t, "comes"))
            yield Checkpoint(t)
            order.append((t, "goes"))

    team = scripted(
        experiment, dict.fromkeys(range(4), program), *KEEP, layout=layout, iterations=4
    )
    for t in range(3):
        at = [i for i, one in enumerate(order) if one == (t, "comes")]
        then = [i for i, one in enumerate(order) if one == (t, "goes")]
        assert max(at) < min(then) and len(at) == len(then) == 4
    saved = [(word.iterations, word.uid) for word in team.told if isinstance(word, NodeSaved)]
    assert sorted(saved) == [(t, uid) for t in (1, 2, 3) for uid in range(4)]


@layouts
def test_who_waits_for_the_end_waits_until_all_others_are_done(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    """Also beyond checkpoints of theirs, and with a program of its own that has ended."""
    order: list[str] = []

    def waits(node: Node) -> Program:
        yield Drain()
        order.append("drained")

    def ends(node: Node) -> Program:
        yield Now()

    def works(node: Node) -> Program:
        for t in range(3):
            yield Checkpoint(t)
            yield Send([([0, 3], Message({}))], (t, 0))
            order.append("said")

    scripts = {0: [waits, ends], 1: works, 2: works, 3: waits}
    team = scripted(experiment, scripts, *KEEP, layout=layout)
    assert order == ["said"] * 6 + ["drained"] * 2
    seats = {uid: seat for worker in team.workers for uid, seat in worker.seats.items()}
    assert all(seat.ended for seat in seats.values())


@pytest.mark.parametrize("layout", [ALONE, NEAR, FAR])
def test_a_deadlock_is_told_with_who_waits_for_whom(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    def waits(sources: Any, round_: Any = ANY, count: int | None = None) -> Any:
        def program(node: Node) -> Program:
            node.round = node.uid
            yield Send([([(node.uid + 1) % 4], Message({}))], (7, 0))
            yield Receive(sources, round_, count)

        return program

    def rests(node: Node) -> Program:
        yield Drain()

    scripts = {0: waits([3, 1], (5, 2)), 1: waits([2]), 2: waits(ANY, count=3), 3: rests}
    with pytest.raises(RunError) as told:
        scripted(experiment, scripts, layout=layout)
    assert str(told.value) == (
        "no node can go on: node 0 waits in iteration 1 for 1, 3 in round (5, 2); "
        "node 1 waits in iteration 2 for 2; node 2 waits in iteration 3 for 2 message(s) of "
        "anybody; node 3 waits in iteration 1 in Drain"
    )


@layouts
def test_a_deadlock_is_told_with_those_who_cause_it(tmp_path: Path, cache: Path, layout) -> None:
    """Most nodes rest or wait for their turn; named first is who waits for a node that has ended,
    and last how many are left out."""

    def ends(node: Node) -> Program:
        return
        yield

    def rests(effect: Drain | Checkpoint) -> Any:
        def program(node: Node) -> Program:
            yield effect

        return program

    def waits(source: int, iteration: int) -> Any:
        def program(node: Node) -> Program:
            node.round = iteration
            yield Receive([source], (iteration, 0))

        return program

    listens = [rests(Drain()), waits(0, 0)]  # of these two the first alone holds the node up
    scripts = {0: ends, 1: listens, 2: rests(Checkpoint(0)), 10: waits(11, 5), 11: waits(0, 4)}
    others = dict.fromkeys(range(3, 10), rests(Drain()))
    with pytest.raises(RunError) as told:
        experiment = Experiment(tmp_path, ring(12), cache)
        scripted(experiment, others | scripts, *KEEP, layout=layout)
    *named, more, last = str(told.value).split("; ")
    assert named == [
        "no node can go on: node 11 waits in iteration 5 for 0 in round (4, 0)",
        "node 10 waits in iteration 6 for 11 in round (5, 0)",
        "node 1 waits in iteration 1 in Drain",
        "node 2 waits in iteration 1 at a checkpoint",
        *(f"node {uid} waits in iteration 1 in Drain" for uid in range(3, 7)),
    ]
    assert (more, last) == ("and 3 more", "node 0 has ended")


@pytest.mark.parametrize("layout", [NEAR, FAR])
def test_a_slow_node_is_no_deadlock(experiment: Experiment, layout: Sequence[int]) -> None:
    """All others wait, for longer than the patience with which deadlocks are looked for."""

    def slow(node: Node) -> Program:
        yield Sleep(1.5)
        yield Send([([0, 1, 2], Message({}))], (0, 0))

    def waits(node: Node) -> Program:
        yield Receive([3], (0, 0))

    team = scripted(experiment, {0: waits, 1: waits, 2: waits, 3: slow}, layout=layout)
    assert all(seat.ended for worker in team.workers for seat in worker.seats.values())


@layouts
def test_a_node_rests_though_another_program_of_it_listens(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    """One that trains and one that takes in whatever comes, for as long as there is anything."""
    heard: dict[int, list[int]] = {uid: [] for uid in range(4)}

    def speaks(node: Node) -> Program:
        for t in node.rounds():
            yield Send([([(node.uid + 1) % 4, (node.uid + 2) % 4], Message({}, {"t": t}))], (t, 0))
            yield Checkpoint(t)
            assert t == 2 or len(heard[node.uid]) >= 2 * (t + 1), "all was delivered, and heard"
        yield Drain()
        yield Send([([node.uid], Message({}, {"t": -1}))], (99, 0))

    def listens(node: Node) -> Program:
        while True:
            (message,) = yield Receive(ANY, count=1)
            if message.meta["t"] < 0:
                return
            heard[node.uid].append(message.meta["t"])

    scripts = {uid: [speaks, listens] for uid in range(4)}
    team = scripted(experiment, scripts, *KEEP, layout=layout, iterations=3)
    assert all(sorted(found) == [0, 0, 1, 1, 2, 2] for found in heard.values())
    saved = [(word.iterations, word.uid) for word in team.told if isinstance(word, NodeSaved)]
    assert sorted(saved) == [(t, uid) for t in (1, 2) for uid in range(4)]


@layouts
def test_a_checkpoint_is_whole_though_a_node_never_reports(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    """It is told once the records of before are written, which do not wait for that node."""
    told: list[int] = []

    def program(node: Node) -> Program:
        for t in node.rounds():
            if node.uid != 3:
                yield Report(t)
            yield Checkpoint(t)
            yield Sleep(0.05)
            told.append(sum(isinstance(word, NodeSaved) for word in team.told))

    flags = (*KEEP, "-ta", "1", "-tea", "0")
    node = partial(Scripted, dict.fromkeys(range(4), program))
    team = Team(experiment, 4, *flags, layout=layout, node=node)
    team.run()
    assert max(told[:8]) >= 4, "long before the end"
    assert len([word for word in team.told if isinstance(word, NodeSaved)]) == 12


def test_waiting_for_all_others_counts_as_waiting(experiment: Experiment) -> None:
    """At a checkpoint, at the end, and in the seconds that a resumed run starts with."""
    steps = {"seconds_per_iteration": {"default": 0.5, "3": 2.0}}
    path = experiment.folder / "simulation.json"
    path.write_text(json.dumps({"compute": steps}))

    def program(node: Node) -> Program:
        for t in node.rounds():
            yield Train(t)
            yield Checkpoint(t)
        yield Drain()

    def waited(team: Team) -> list[float]:
        return [seat.seconds.wait for seat in team.workers[0].seats.values()]

    scripts = dict.fromkeys(range(4), program)
    flags = ("--simulate", str(path), *KEEP)
    assert waited(scripted(experiment, scripts, *flags, iterations=4)) == [6.0] * 3 + [0.0]
    again = scripted(experiment, scripts, *flags, iterations=4, name="again", restore=("team", 2))
    assert waited(again) == [6.0] * 3 + [0.0]


class Synchronous(Scripted):
    asynchronous = False


def notes(team: Team) -> list[str]:
    return [word.text for word in team.told if isinstance(word, Note)]


def tells(before: bool, wanted: bool = True) -> dict[int, Script]:
    """Node 1 is sent mail of iteration 1 before its checkpoint, or once it is saved."""

    def says(node: Node) -> Program:
        if not before:
            yield Receive([1], (5, 0))
        yield Send([([1], Message({}))], (0, 0))
        yield Send([([1], Message({}))], (0, 1))

    def hears(node: Node) -> Program:
        if before:
            yield Receive([0], (0, 1))
        if not wanted:
            yield Forget((1, 0))
        yield Checkpoint(0)
        yield Send([([0], Message({}))], (5, 0))
        if wanted:
            yield Receive([0], (0, 0))

    return {0: says, 1: hears}


@layouts
@pytest.mark.parametrize("before", [True, False], ids=["unread", "on its way"])
def test_mail_that_a_synchronous_checkpoint_lacks_is_told(
    experiment: Experiment, layout: Sequence[int], before: bool
) -> None:
    one = scripted(experiment, tells(before), *KEEP, layout=layout, kind=Synchronous)
    (text,) = notes(one)
    assert "node 1 had not read all mail of iteration 1 at the checkpoint after" in text
    assert "set asynchronous = True in Synchronous" in text
    log = MachineFolder(experiment.folder / "team/machine0").log(1).read_text()
    assert text in log


def test_mail_that_a_checkpoint_holds_or_nobody_wants_is_not(experiment: Experiment) -> None:
    assert not notes(scripted(experiment, tells(True), *KEEP))
    forgets = scripted(experiment, tells(True, False), *KEEP, kind=Synchronous, name="forgets")
    assert not notes(forgets)
