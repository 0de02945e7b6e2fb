"""A node's place on a worker: its programs, its rows, its mailbox, what is counted for it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from decentralizepy.engine.clock import Timer
from decentralizepy.engine.mailbox import Mailbox
from decentralizepy.engine.records import Seconds
from decentralizepy.engine.unyielded import unyielded
from decentralizepy.errors import RunError
from decentralizepy.memory.rows import NodeRows
from decentralizepy.messages.message import Message
from decentralizepy.messages.meta import shown
from decentralizepy.node.effects import ANY, Checkpoint, Effect, Receive, Report, Train
from decentralizepy.node.node import Node, Program
from decentralizepy.training.trainer import Learner
from decentralizepy.transport.router import Traffic


@dataclass(eq=False, slots=True)
class Strand:
    """One program of a node, and what it waits for.

    ``absent`` are the named sources that have not spoken yet; ``needed`` counts messages to come
    where any sender will do. ``resting`` is the effect (`Drain`, `Checkpoint`) at which it waits
    for the whole run. ``polls`` have found nothing, one after the other, since it last waited.
    """

    seat: Seat
    program: Program
    waiting: Receive | None = None
    absent: AbstractSet[int] = frozenset()
    needed: int = 0
    since: float = 0.0
    timer: Timer | None = None
    resting: Any = None
    polls: int = 0
    ended: bool = False

    def expect(self, wanted: Receive, gone: frozenset[int], now: float) -> bool:
        """Begin to wait; True if all that is wanted is there already."""
        self.waiting, self.since = wanted, now
        return self._count(wanted, gone)

    def waits_no_longer(self) -> None:
        """What it waited for is there, or its time is over."""
        self.waiting = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def rest(self, effect: Any, now: float) -> None:
        """Begin to wait for the whole run."""
        self.resting, self.since = effect, now

    def rested(self, now: float) -> None:
        """Count the seconds of that wait, as far as it has come."""
        self.seat.seconds.wait += now - self.since
        self.since = now

    def _count(self, wanted: Receive, gone: frozenset[int]) -> bool:
        """Count what is still to come; True if nothing is."""
        mailbox = self.seat.mailbox
        if wanted.sources is ANY:
            count = wanted.count or 1
            self.needed = count - mailbox.number(wanted.round, count)
            return self.needed <= 0
        self.absent = mailbox.absent(wanted, gone)
        return not self.absent

    def heard(self, message: Message, gone: frozenset[int]) -> bool:
        """A message has come into the mailbox; True if it was the last that was waited for."""
        wanted = self.waiting
        if wanted is None or (wanted.round is not ANY and wanted.round != message.round):
            return False
        if wanted.sources is ANY:
            self.needed -= 1
            if self.needed > 0:
                return False
        else:
            absent = self.absent
            if message.sender not in absent:
                return False
            if len(absent) > 1:
                assert isinstance(absent, set)
                absent.discard(message.sender)
                return False
        # another program may have heard what came before, or newer mail pushed it out
        return self._count(wanted, gone)

    def lost(self, gone: frozenset[int]) -> bool:
        """Nodes have left; True if nobody else was waited for."""
        wanted = self.waiting
        if wanted is None or wanted.sources is ANY or not self.absent:
            return False
        return self._count(wanted, gone)


@dataclass(eq=False, slots=True)
class Seat:
    """A node on this worker, with all that the engine keeps for it.

    ``used`` are seconds of heavy work, by which nodes take turns. A node that ``answers`` does so
    while it trains, too; ``has_deadlines`` says whether a `Receive` had one; ``saved`` are the
    iterations in the node's newest checkpoint.
    """

    node: Node
    learner: Learner
    rows: NodeRows
    mailbox: Mailbox
    strands: list[Strand] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)
    seconds: Seconds = field(default_factory=Seconds)
    answers: bool = False
    used: float = 0.0
    #: the least that a piece of work of a kind has taken
    least: dict[str, float] = field(default_factory=dict)
    has_deadlines: bool = False
    saved: int = 0
    #: the iterations from `begun` to before this one were reported
    next_report: int = 0
    #: a bit for each that was reported out of turn, after one that was not
    reported: int = 0
    #: the iteration that it began with; how many it has done, as its `Train` and `Report` show
    begun: int = 0
    done: int = 0
    lost: bool = False
    ended: bool = False
    uid: int = field(init=False)

    def __post_init__(self) -> None:
        self.uid = self.node.uid

    def charge(self, kind: str, seconds: float, pieces: int = 1) -> None:
        """Count heavy work, each piece as the least that one of its kind has taken so far.

        For a piece takes less time the more nodes are taken together, and more when the machine is
        busy with something else or, once, the first time. Equal nodes are to stay side by side.
        """
        if not pieces:
            return
        known, each = self.least.get(kind), seconds / pieces
        self.least[kind] = each = each if known is None else min(known, each)
        if known is not None:
            self.used += each * pieces

    def report(self, t: int, iterations: int) -> None:
        """Note that iteration ``t`` is reported; raises ValueError if it can't be, or was before:
        the means over the nodes would count this one twice."""
        if t >= iterations:
            raise ValueError(f"Report: t = {t}: the last of this run is t = {iterations - 1}")
        if self.begun <= t < self.next_report or self.reported >> t & 1:
            raise ValueError(
                f"Report: node {self.uid} has reported t = {t} before: report each iteration once, "
                "in one of the node's programs"
            )
        if t == self.next_report:
            self.next_report += 1
        else:
            self.reported |= 1 << t

    @property
    def _counts(self) -> bool:
        """Whether ``node.round`` says where the node is: a program may never move it."""
        return self.node.counts_rounds or self.node.round != self.begun

    @property
    def iteration(self) -> int:
        """The iteration (0-based) that the node is in, as far as it has shown."""
        return self.node.round if self._counts else max(self.node.round, self.done)

    def during(self, effect: Effect) -> int:
        """The iteration that the node is in as it yields an effect, which may name it."""
        if isinstance(effect, Train):
            return effect.t
        if isinstance(effect, Report | Checkpoint) and not self._counts:
            return effect.t
        return self.iteration

    def waits_just_for(self, message: Message) -> bool:
        """Whether the node's only program waits for this message and no other."""
        strands = self.strands
        wanted = strands[0].waiting if len(strands) == 1 else None
        if wanted is None or wanted.sources is ANY or len(wanted.sources) != 1:
            return False
        return (
            wanted.round == message.round and message.sender in wanted.sources
            and self.mailbox.lets_past(message.round)
        )  # fmt: skip

    @property
    def waits(self) -> list[Strand]:
        """The programs that wait for messages."""
        return [strand for strand in self.strands if strand.waiting is not None]

    def start(self) -> None:
        """Make the node's programs, which have not run yet; one that had ended gets none."""
        if self.ended:
            return
        self.begun = self.next_report = self.node.round
        programs, dropped = self._programs(), unyielded(type(self.node))
        if dropped:
            raise RunError(f"an effect is made and not yielded, so nothing would happen: {dropped}")
        self.strands = [Strand(self, program) for program in programs]

    def _programs(self) -> Sequence[Program]:
        kind, programs = type(self.node).__name__, self.node.programs()
        if not isinstance(programs, Sequence) or not programs:
            raise RunError(
                f"{kind}.programs returns a list of generators, as [self.program()], not "
                f"{shown(programs)}"
            )
        for number, program in enumerate(programs, 1):
            if isinstance(program, Generator):
                continue
            if type(self.node).programs is Node.programs:
                raise RunError(f"{kind}.program is no generator: it has to yield effects")
            raise RunError(
                f"{kind}.programs: number {number} is no generator but {shown(program)}: call a "
                "method that yields effects"
            )
        return programs
