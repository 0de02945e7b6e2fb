"""What a node program may ask for. The program yields an effect; the engine performs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from types import GeneratorType
from typing import Any, Final, NoReturn

from torch import Tensor

from decentralizepy.graphs.graph import Graph
from decentralizepy.messages.message import Message
from decentralizepy.messages.meta import shown
from decentralizepy.node.checks import (
    check_count,
    check_iteration,
    check_message,
    check_round,
    check_seconds,
    check_steps,
    check_uids,
)

Round = tuple[int, int]
#: what a `Send` is mostly given, recognized faster than by the abstract class
_USUAL: Final = frozenset({list, tuple, GeneratorType})


class Everything(Enum):
    """Stands for every sender or every round in a `Receive`."""

    ANY = "ANY"


ANY: Final = Everything.ANY


class Wish:
    """What all effects are: nothing but what the program gives to the engine at a yield."""

    __slots__ = ()

    def __iter__(self) -> NoReturn:
        raise self._unyielded()

    def __getitem__(self, key: object) -> NoReturn:
        raise self._unyielded()

    def __contains__(self, item: object) -> NoReturn:
        raise self._unyielded()

    def _unyielded(self) -> TypeError:
        kind = type(self).__name__
        return TypeError(
            f"this {kind} was not yielded, or by yield from; yield it: heard = yield {kind}(...)"
        )


@dataclass(slots=True)
class Train(Wish):
    """Local training of iteration ``t`` on the node's row.

    ``steps`` replaces the number of local steps that the INI asks for. ``correction``
    [n_parameters] is added to the gradient of every step (SCAFFOLD: c - c_i). With ``anchor``
    [n_parameters] and ``pull``, pull * (x - anchor) is added too (FedProx, Li et al. 2020).
    """

    t: int
    steps: int | None = None
    correction: Tensor | None = None
    anchor: Tensor | None = None
    pull: float = 0.0

    def __post_init__(self) -> None:
        self.t = check_iteration("Train", self.t)
        if self.steps is not None:
            self.steps = check_steps(self.steps)


@dataclass(slots=True)
class Gradient(Wish):
    """Gives the mean gradient [n_parameters] at the node's row over the batches of iteration
    ``t``; the row stays as it is."""

    t: int

    def __post_init__(self) -> None:
        self.t = check_iteration("Gradient", self.t)


@dataclass(slots=True)
class Send(Wish):
    """Give messages to other nodes: pairs (receivers, message), taken lazily.

    A row that is sent may not be written in place any more: assign the next one to ``self.x``.
    """

    outgoing: Iterable[tuple[Sequence[int], Message]]
    round: Round

    def __post_init__(self) -> None:
        self.round = check_round("Send", self.round)
        said = self.outgoing
        if type(said) not in _USUAL and (isinstance(said, Wish) or not isinstance(said, Iterable)):
            raise TypeError(
                f"Send takes pairs (receivers, Message(...)), not {shown(self.outgoing)}"
            )


@dataclass(slots=True)
class Average(Wish):
    """A round of plain gossip over ``graph``: the row becomes the weighted sum of it and of the
    neighbours' rows, all as they were when each node asked.

    Gives True once that is done, and at once False where the engine does not do it for many nodes
    together (see `decentralizepy.engine.averaging`): the program then takes the long way, `Send`,
    `Receive` and `Sharing.merge`, which gives the same bits.

    All nodes ask for it with the same graph, each by one program, once in a round and in ascending
    rounds; a class of which that is true says ``averages_together = True``.
    """

    graph: Graph
    round: Round

    def __post_init__(self) -> None:
        self.round = check_round("Average", self.round)


@dataclass(slots=True)
class Ask(Wish):
    """Ask nodes a question, which their `Node.answer` replies to, whatever they are doing.

    Replies come as ordinary messages of ``round``: take them with a `Receive`.
    """

    receivers: Sequence[int]
    message: Message
    round: Round

    def __post_init__(self) -> None:
        self.round = check_round("Ask", self.round)
        self.receivers = check_uids("Ask", "receivers", self.receivers)
        check_message(self.message, "Ask")


@dataclass(slots=True)
class Receive(Wish):
    """Wait for messages; gives them as a list in ascending (uid, order of sending).

    With ``sources`` the program goes on when each of them has said something in ``round``; with
    `ANY`, when ``count`` messages are there (those that came first are taken). After ``deadline``
    seconds of the run's clock it goes on with what came, an absent source as `Missing`; what
    that source says in the round later is dropped, unless the program asks for it again by name.
    With a deadline of 0 it takes what is there. Without one it waits; `Missing` then stands only
    for a node that was lost.
    """

    sources: Sequence[int] | Everything
    round: Round | Everything = ANY
    count: int | None = None
    deadline: float | None = None

    def __post_init__(self) -> None:
        if self.round is not ANY:
            self.round = check_round("Receive", self.round)
        if self.sources is not ANY:
            self.sources = check_uids("Receive", "sources", self.sources)
        if self.count is not None:
            check_count(self.count, self.sources is not ANY)
        if self.deadline is not None:
            self.deadline = check_seconds("Receive: deadline", self.deadline, or_none=True)
            if self.deadline == inf:
                self.deadline = None


@dataclass(slots=True)
class Forget(Wish):
    """Drop all mail of rounds before ``round``, what is there and what is still to come."""

    round: Round

    def __post_init__(self) -> None:
        # before the first round there is nothing, as in Forget((t - 2, 0))
        self.round = check_round("Forget", self.round, -(1 << 62))


@dataclass(slots=True)
class Drain(Wish):
    """Wait until all nodes have ended or wait here, and every message has been delivered."""


@dataclass(slots=True)
class Sleep(Wish):
    """Go on after that many seconds of the run's clock."""

    seconds: float

    def __post_init__(self) -> None:
        self.seconds = check_seconds("Sleep: seconds", self.seconds)


@dataclass(slots=True)
class Now(Wish):
    """Gives the seconds of the run's clock."""


@dataclass(slots=True)
class Report(Wish):
    """Evaluate if iteration ``t`` is due, and append the node's record.

    ``metrics`` are columns of the node's own. The program goes on once its row is evaluated; the
    record is written when the mean of all nodes, which consensus distance needs, is there: when
    every node has reported iteration ``t`` or a later one, or has ended. A node that reports an
    earlier iteration than before is not in that mean, and has no consensus distance.
    """

    t: int
    metrics: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        self.t = check_iteration("Report", self.t)


@dataclass(slots=True)
class Checkpoint(Wish):
    """Save the node if a checkpoint is due after iteration ``t``.

    A synchronous program has nothing in flight then. For one that is ``asynchronous``, a due
    checkpoint is a meeting: all nodes wait until every message has been delivered, and unread mail
    is saved too.
    """

    t: int

    def __post_init__(self) -> None:
        self.t = check_iteration("Checkpoint", self.t)


Effect = (
    Train
    | Gradient
    | Send
    | Average
    | Ask
    | Receive
    | Forget
    | Drain
    | Sleep
    | Now
    | Report
    | Checkpoint
)
#: what the engine gives back at a yield
Answer = Any
