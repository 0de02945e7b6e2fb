"""A planned kill comes at the first thing that a node does in its iteration, or is told of."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import Experiment
from teams import ALONE, FAR, NEAR, Script, Team, scripted

from decentralizepy.graphs.generators import ring
from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.effects import Ask, Effect, Now, Receive, Report, Send, Sleep, Train
from decentralizepy.node.node import Node, Program
from decentralizepy.words import NodesLost, Note

ONE_SECOND = {"compute": {"seconds_per_iteration": 1}, "links": {"latency_s": 0.5}}


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(4), cache)


def written(experiment: Experiment, name: str, value: Any) -> str:
    path = experiment.folder / name
    path.write_text(json.dumps(value))
    return str(path)


def run(
    experiment: Experiment, scripts: dict[int, Script], faults: Any, layout: Sequence[int] | None,
    *more: str, **options: Any,
) -> Team:  # fmt: skip
    """In simulated time without a layout."""
    flags = ["--faults", written(experiment, "faults.json", faults), *more]
    if layout is None:
        flags += ["--simulate", written(experiment, "simulation.json", ONE_SECOND)]
    return scripted(experiment, scripts, *flags, layout=layout or ALONE, **options)


def fired(experiment: Experiment) -> list[tuple[int, str, int, int]]:
    lines = [
        json.loads(line)
        for path in sorted(experiment.folder.glob("team/machine*/faults.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return [(line["fault"], line["event"], line["uid"], line["round"]) for line in lines]


def never_trains(node: Node) -> Program:
    """Tells node 0 in which iteration it is."""
    for t in node.rounds():
        yield Send([([0], Message({}, {"t": t}))], (t, 0))
        yield Sleep(0.001)


def listens(seen: dict[int, Any], source: int, rounds: int) -> Script:
    def program(node: Node) -> Program:
        for t in range(rounds):
            (heard,) = yield Receive([source], (t, 0), deadline=3.0)
            seen[t] = "missing" if isinstance(heard, Missing) else heard.meta["t"]

    return program


@pytest.mark.parametrize("layout", [None, ALONE, NEAR, FAR])
def test_a_node_that_never_trains_dies_in_its_iteration(
    experiment: Experiment, layout: Sequence[int] | None
) -> None:
    seen: dict[int, Any] = {}
    faults = [{"kill": {"node": 3}, "round": 4}]
    team = run(experiment, {0: listens(seen, 3, 4), 3: never_trains}, faults, layout)
    assert seen == {0: 0, 1: 1, 2: 2, 3: "missing"}
    assert fired(experiment) == [(1, "fired", 3, 4)]
    seats = {uid: seat for worker in team.workers for uid, seat in worker.seats.items()}
    assert [uid for uid, seat in seats.items() if seat.lost] == [3]
    assert [word for word in team.told if isinstance(word, NodesLost)] == [NodesLost((3,), 4)]
    assert not [word for word in team.told if isinstance(word, Note)]


@pytest.mark.parametrize("layout", [None, NEAR])
def test_a_node_that_skips_the_iteration_dies_in_the_next(
    experiment: Experiment, layout: Sequence[int] | None
) -> None:
    seen: list[int] = []

    def skips(node: Node) -> Program:
        for node.round in (0, 1, 6, 7):
            yield Now()
            seen.append(node.round)

    run(experiment, {2: skips}, [{"kill": {"node": 2}, "round": 4}], layout)
    assert seen == [0, 1] and fired(experiment) == [(1, "fired", 2, 7)]


def never_counts(shows: Callable[[int], Effect]) -> Script:
    """Tells node 0 in which iteration it is, but moves no round; an effect at the end shows it."""

    def program(node: Node) -> Program:
        for t in range(6):
            yield Send([([0], Message({}, {"t": t}))], (t, 0))
            yield shows(t)
            assert node.round == 0

    return program


@pytest.mark.parametrize("layout", [None, ALONE, NEAR, FAR])
def test_a_node_that_never_counts_its_rounds_dies_as_its_reports_say(
    experiment: Experiment, layout: Sequence[int] | None
) -> None:
    seen: dict[int, Any] = {}
    faults = [{"kill": {"node": 3}, "round": 4}]
    scripts = {0: listens(seen, 3, 4), 3: never_counts(Report)}
    team = run(experiment, scripts, faults, layout)
    assert seen == {0: 0, 1: 1, 2: 2, 3: "missing"}
    assert fired(experiment) == [(1, "fired", 3, 4)]
    assert [word for word in team.told if isinstance(word, NodesLost)] == [NodesLost((3,), 4)]


def test_and_one_that_only_trains_as_it_trains(experiment: Experiment) -> None:
    seen: dict[int, Any] = {}
    faults = [{"kill": {"node": 3}, "round": 4}]
    team = run(experiment, {0: listens(seen, 3, 5), 3: never_counts(Train)}, faults, None)
    assert seen == {0: 0, 1: 1, 2: 2, 3: 3, 4: "missing"}
    assert fired(experiment) == [(1, "fired", 3, 4)]
    assert [word for word in team.told if isinstance(word, NodesLost)] == [NodesLost((3,), 4)]


@pytest.mark.parametrize("layout", [None, ALONE, NEAR, FAR])
def test_links_fail_in_the_rounds_of_a_node_that_never_counts_them(
    experiment: Experiment, layout: Sequence[int] | None
) -> None:
    seen: dict[int, Any] = {}
    faults = [
        {"partition": [[3]], "rounds": [3, 3]},
        {"slow_link": {"from": 3, "to": 0, "factor": 2, "delay_s": 0.01}, "rounds": [5, 6]},
    ]
    run(experiment, {0: listens(seen, 3, 6), 3: never_counts(Report)}, faults, layout)
    assert seen == {t: t for t in range(6)}
    assert fired(experiment) == [(1, "fired", 3, 3), (1, "healed", 3, 4), (2, "fired", 3, 5)]


@pytest.mark.parametrize("effect", ["train", "report", "ask", "send"])
def test_whatever_a_node_wants_to_do_it_dies_before(experiment: Experiment, effect: str) -> None:
    heard: list[Any] = []
    before: list[torch.Tensor] = []

    def does(node: Node) -> Program:
        before.append(node.x.clone())
        yield {
            "train": Train(0), "report": Report(0), "ask": Ask([0], Message({}), (0, 0)),
            "send": Send([([0], Message({}))], (0, 0)),
        }[effect]  # fmt: skip
        heard.append("survived")

    def listener(node: Node) -> Program:
        heard.extend((yield Receive([1], (0, 0), deadline=5.0)))

    team = run(
        experiment, {0: listener, 1: does}, [{"kill": {"node": 1}, "round": 1}], None, "-ta", "1",
        "-tea", "0", answers={0: lambda node, question: heard.append("asked")},
    )  # fmt: skip
    assert heard == [Missing(1, "deadline")]
    assert torch.equal(team.workers[0].seats[1].rows["x"], before[0])


@pytest.mark.parametrize("layout", [None, ALONE, NEAR, FAR])
def test_a_kill_that_never_comes_to_pass_is_told(
    experiment: Experiment, layout: Sequence[int] | None
) -> None:
    """Once, by the worker that it concerns; the node has ended before, or waits all the while."""

    def short(node: Node) -> Program:
        for node.round in range(2):
            yield Now()

    faults = [{"kill": {"node": 3}, "round": 5}, {"kill": {"node": 1}, "round": 2}]
    team = run(experiment, {1: short, 3: short}, faults, layout)
    notes = [word.text for word in team.told if isinstance(word, Note)]
    (note,) = notes
    home = team.workers[-1].me
    assert note.startswith(f"{home}: fault 1 (kill") and note.endswith("did not come to pass")
    assert fired(experiment) == [(2, "fired", 1, 2)]


def test_a_kill_of_a_whole_simulated_machine_needs_one_of_its_nodes(
    experiment: Experiment,
) -> None:
    """The first that comes to the iteration takes the others along, wherever they are."""
    seen: dict[int, Any] = {}

    def slow(node: Node) -> Program:
        for node.round in range(9):
            yield Sleep(100.0)
        seen["slow"] = "survived"  # type: ignore[index]

    value = ONE_SECOND | {"machines": [2, 2]}
    flags = ["--simulate", written(experiment, "machines.json", value)]
    plan = [{"kill": {"machine": 1}, "round": 3}]
    flags += ["--faults", written(experiment, "faults.json", plan)]
    scripts = {0: listens(seen, 2, 4), 2: never_trains, 3: slow}
    team = scripted(experiment, scripts, *flags)
    assert seen == {0: 0, 1: 1, 2: "missing", 3: "missing"}
    lost = [word.uids for word in team.told if isinstance(word, NodesLost)]
    assert lost == [(2,), (3,)] and fired(experiment) == [(1, "fired", 2, 3)]
