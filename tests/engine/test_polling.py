"""Programs that never wait: they ask whether something is there, or talk to themselves, for ever.

All that others are due happens nevertheless; in simulated time, where a poll takes none, polling
for what cannot come is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from in_process import build, inject
from launching import Experiment
from teams import LAYOUTS, scripted
from test_virtual import simulation

from decentralizepy.errors import RunError
from decentralizepy.graphs.generators import ring
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import ANY, Ask, Effect, Now, Receive, Send, Sleep, Train
from decentralizepy.node.node import Node, Program

NOTHING = Message({})


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(4), cache)


def poller(source: int | None = None) -> Callable[[Node], Program]:
    """Asks whether something of round (0, 0) is there until it is."""

    def program(node: Node) -> Program:
        wanted = Receive(ANY if source is None else [source], (0, 0), deadline=0)
        while not any(isinstance(one, Message) for one in (yield wanted)):
            pass

    return program


def tells(receiver: int, *before: Effect) -> Callable[[Node], Program]:
    """Does something first, and then says a word."""

    def program(node: Node) -> Program:
        yield from before
        yield Send([([receiver], NOTHING)], (0, 0))

    return program


@pytest.mark.parametrize("before", [(), (Sleep(0.01),), (Train(0), Train(1))])
@pytest.mark.parametrize("source", [None, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_who_polls_hears_at_last(
    experiment: Experiment, layout: Sequence[int], source: int | None, before: Sequence[Effect]
) -> None:
    """What it waits for comes after a moment or a training, from this worker or another."""
    scripts = {0: poller(source), 3: tells(0, *before), 1: poller(2), 2: tells(1, *before)}
    team = scripted(experiment, scripts, layout=layout)
    assert all(seat.ended for worker in team.workers for seat in worker.seats.values())


def test_two_programs_of_a_node_that_poll_take_turns(experiment: Experiment) -> None:
    def both(node: Node) -> Program:
        yield from poller(1)(node)
        yield Send([([0], NOTHING)], (1, 0))

    def last(node: Node) -> Program:
        while not (yield Receive(ANY, (1, 0), deadline=0)):
            pass

    scripts = {0: (both, last), 1: tells(0, Train(0))}
    (worker,) = scripted(experiment, scripts).workers
    assert worker.seats[0].ended


def endless(kind: str, done: list[int]) -> Callable[[Node], Program]:
    """Never waits for anybody else, until ``done``."""

    def program(node: Node) -> Program:
        while not done:
            if kind == "now":
                yield Now()
            elif kind == "send":
                yield Send([([node.uid], NOTHING)], (0, 0))
                yield Receive(ANY, deadline=0)
            else:
                yield Ask([node.uid], NOTHING, (0, 0))
                yield Receive([node.uid], (0, 0))

    return program


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["now", "send", "ask"])
def test_who_talks_to_itself_for_ever_starves_nobody(
    experiment: Experiment, layout: Sequence[int], kind: str
) -> None:
    """Others sleep, hear each other across workers, and train."""
    done: list[int] = []

    def works(node: Node) -> Program:
        for t in range(3):
            yield Sleep(0.001)
            yield Train(t)
            yield Send([([3 - node.uid], NOTHING)], (t, 0))
            yield Receive([3 - node.uid], (t, 0))
        done.append(node.uid)

    scripts = {uid: endless(kind, done) for uid in (1, 2)} | dict.fromkeys((0, 3), works)
    answers = dict.fromkeys((1, 2), lambda node, question: NOTHING)
    scripted(experiment, scripts, layout=layout, answers=answers)
    assert sorted(done) == [0, 3]


class StoppedError(Exception):
    """The supervisor has ended the run."""


@pytest.mark.parametrize("simulated", [True, False])
@pytest.mark.parametrize("kind", ["now", "poll"])
def test_the_supervisor_is_heard(
    experiment: Experiment, tmp_path: Path, kind: str, simulated: bool
) -> None:
    """Also where no simulated time passes."""
    flags = simulation(tmp_path, {"links": {"latency_s": 0}}) if simulated else ()
    worker = build(experiment, 1, *flags, "-ta", "0", "-tea", "0")

    def stop() -> tuple[()]:
        raise StoppedError

    def program(node: Node) -> Program:
        worker.arena.counters.call(0)
        while True:
            yield Now()
            if kind == "poll":
                yield Receive(ANY, deadline=0)

    worker._orders = stop
    inject(worker, {0: program})
    with pytest.raises(StoppedError):
        worker.run()
    assert worker.arena.counters.busy_with(0) == (0, 0), "it is not an innocent node that is blamed"


# ------------------------------------------------------------------- simulated time


@pytest.mark.parametrize("teller", [1, 3])
def test_a_poll_lets_happen_what_is_due_at_its_time(
    experiment: Experiment, tmp_path: Path, teller: int
) -> None:
    """Node 2 polls at 1 s; it hears what another node says at 1 s, and no time passes."""
    heard_at = []

    def program(node: Node) -> Program:
        yield Sleep(1.0)
        yield from poller(teller)(node)
        heard_at.append((yield Now()))

    scripts = {2: program, teller: tells(2, Sleep(0.5), Sleep(0.5)), 0: tells(1, Sleep(9.0))}
    flags = simulation(tmp_path, {"links": {"latency_s": 0}})
    scripted(experiment, scripts, *flags)
    assert heard_at == [1.0]


def test_polling_for_what_comes_later_is_told(experiment: Experiment, tmp_path: Path) -> None:
    flags = simulation(tmp_path, {"links": {"latency_s": 0}})
    scripts = {1: poller(3), 3: tells(1, Sleep(1.0)), 0: tells(2, Sleep(0.5))}
    told = r"node 1 polls in iteration 1 .*: Sleep between polls \(.*test_polling.py, line \d+: wh"
    with pytest.raises(RunError, match=told):
        scripted(experiment, scripts, *flags)


def test_polls_between_sleeps_go_on(experiment: Experiment, tmp_path: Path) -> None:
    """More of them than are in vain at one time; what is polled for is heard at its time."""
    heard_at = []

    def program(node: Node) -> Program:
        while not (yield Receive(ANY, (0, 0), deadline=0)):
            yield Sleep(0.001)
        heard_at.append((yield Now()))

    flags = simulation(tmp_path, {"links": {"latency_s": 0}})
    scripted(experiment, {1: program, 3: tells(1, Sleep(11.0))}, *flags)
    assert heard_at == [pytest.approx(11.0, abs=0.002)]
