"""Whether a run is at rest, over a network that delays and mixes up what workers say."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from decentralizepy.engine.deadlock import Stuck, Waits
from decentralizepy.engine.rest import Position, Rest
from decentralizepy.errors import RunError
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.messages.message import Message

PATIENT = 2.0


class Worker:
    """Has work to do, which may make work for others; what it does at rest is the test's."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.work, self.mail = 1, 0
        self.sent: Counter[int] = Counter()
        self.received: Counter[int] = Counter()
        self.resting, self.saving = True, world.saving
        self.saves, self.goes = 0, 0
        me = WorkerId(0, number)
        self.rest = Rest(me, world.placement, self._say, self._position, self._save, self._go_on)

    def _say(self, worker: WorkerId, kind: str, message: Message) -> None:
        assert kind == "Q"
        self.world.lines[kind, self.number, worker.worker].append(message)

    def _position(self) -> Position:
        godot = Waits(False, 0, self.number, f"node {self.number} waits for Godot")
        who = Stuck() if self.resting else Stuck((godot,), 1)
        counts = dict(self.sent), dict(self.received)
        return Position(not self.work, self.resting and not self.work, self.saving, *counts, who)

    def _save(self) -> None:
        self.world.check_rest()
        assert self.world.phase == self.goes, "nobody has gone on before all are saved"
        self.saves += 1

    def _go_on(self, saved: bool) -> None:
        world = self.world
        if world.phase == self.goes:  # the first to go on
            world.check_rest()
            world.phase += 1
            if saved:
                assert min(one.saves for one in world.alive) >= world.phase
        assert saved == self.saving
        self.goes += 1
        assert self.goes == world.phase, "all go on together"
        if world.phase < world.phases:
            self.work += world.random.randrange(3)

    def do(self) -> None:
        """A piece of work, which may make messages."""
        self.work -= 1
        others = [one.number for one in self.world.alive if one is not self]
        for other in others:
            if self.world.budget and self.world.random.random() < 0.4:
                self.world.budget -= 1
                self.sent[other] += 1
                self.world.lines["M", self.number, other].append(None)

    def hear(self, kind: str, sender: int, message: Message | None) -> None:
        if message is None:
            self.received[sender] += 1
            self.work += self.world.random.randrange(2)
        else:
            self.rest.take(message)


class World:
    """Some workers, and lines between them on which messages of one kind stay in order."""

    def __init__(
        self, workers: int, random: Random, phases: int, budget: int, saving: bool = False
    ) -> None:
        self.saving = saving
        self.placement = Placement(Mapping((workers,)), (workers,))
        self.random, self.phases, self.phase, self.budget = random, phases, 0, budget
        self.lines: dict[tuple[str, int, int], deque[Message | None]] = {
            (kind, i, j): deque() for kind in "MQ" for i in range(workers) for j in range(workers)
        }
        self.alive = [Worker(self, i) for i in range(workers)]

    def check_rest(self) -> None:
        """Nobody is busy, and no node's message is on its way."""
        assert not any(one.work for one in self.alive), "somebody is busy"
        on_the_way = [key for key, line in self.lines.items() if key[0] == "M" and line]
        assert not on_the_way, "a message is in flight"

    def lose(self, number: int) -> None:
        """A worker is gone, and what it said, and what was said to it."""
        self.alive = [one for one in self.alive if one.number != number]
        for (_, i, j), line in self.lines.items():
            if number in (i, j):
                line.clear()
        for one in self.alive:
            one.rest.leave([WorkerId(0, number)])

    def _moves(self) -> Iterator[tuple[str, object]]:
        yield from (("deliver", key) for key, line in self.lines.items() if line)
        yield from (("work", one) for one in self.alive if one.work)
        yield from (("idle", one) for one in self.alive if not one.work)

    def step(self) -> bool:
        """Something happens anywhere; False once all is over."""
        moves = list(self._moves())
        what, where = moves[self.random.randrange(len(moves))]
        if what == "deliver":
            kind, sender, receiver = key = where  # type: ignore[misc]
            worker = next(one for one in self.alive if one.number == receiver)
            worker.hear(kind, sender, self.lines[key].popleft())
        elif what == "work":
            where.do()  # type: ignore[attr-defined]
        else:
            where.rest.check(self.random.choice([0.0, PATIENT]))  # type: ignore[attr-defined]
        return any(one.goes < self.phases for one in self.alive)

    def run(self, most: int) -> None:
        """Go on until all are at rest as often as they should be."""
        for _ in range(most):
            if not self.step():
                return
        raise AssertionError("nobody found out that all are at rest")


#: programs of which all go on after a rest, several times, and what they say to each other
worlds = st.builds(
    World, st.integers(1, 4), st.builds(Random, st.integers(0, 1 << 30)), st.integers(1, 4),
    st.integers(0, 60), st.booleans(),
)  # fmt: skip
many = settings(max_examples=250)


@many
@given(worlds)
@example(World(3, Random(36), 4, 30))  # somebody settles between its reply and another's
@example(World(4, Random(280), 4, 30))
def test_rest_is_found_whatever_the_network_does_and_never_too_early(world):
    world.run(20_000)
    for one in world.alive:
        assert one.saves == (world.phases if world.saving else 0)


@many
@given(worlds, st.integers(0, 60), st.integers(0, 3))
def test_rest_is_found_among_those_that_are_left(world, when, who):
    for _ in range(when):
        world.step()
        if world.phase:
            return
    if who < len(world.alive) > 1:
        world.lose(who)
    world.run(20_000)


@many
@given(worlds, st.integers(0, 3))
def test_a_deadlock_is_told_with_who_waits(world, who):
    stuck = world.alive[who % len(world.alive)]
    stuck.resting = False
    with pytest.raises(RunError, match=f"^no node can go on: node {stuck.number} waits for Godot$"):
        world.run(20_000)
    world.check_rest()
