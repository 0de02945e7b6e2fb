"""What a node program may ask for. The program yields an effect; the engine performs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from torch import Tensor

from decentralizepy.messages.message import Message

Round = tuple[int, int]


class Everything(Enum):
    """Stands for every sender or every round in a `Receive`."""

    ANY = "ANY"


ANY: Final = Everything.ANY


class Train(NamedTuple):
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


class Gradient(NamedTuple):
    """Gives the mean gradient [n_parameters] at the node's row over the batches of iteration
    ``t``; the row stays as it is."""

    t: int


class Send(NamedTuple):
    """Give messages to other nodes: pairs (receivers, message), taken lazily.

    A row that is sent may not be written in place any more: assign the next one to ``self.x``.
    """

    outgoing: Iterable[tuple[Sequence[int], Message]]
    round: Round


class Ask(NamedTuple):
    """Ask nodes a question, which their `Node.answer` replies to, whatever they are doing.

    Replies come as ordinary messages of ``round``: take them with a `Receive`.
    """

    receivers: Sequence[int]
    message: Message
    round: Round


class Receive(NamedTuple):
    """Wait for messages; gives them as a list in ascending (uid, order of sending).

    With ``sources`` the program goes on when each of them has said something in ``round``; with
    `ANY`, when ``count`` messages are there (those that came first are taken). After ``deadline``
    seconds of the run's clock it goes on with what came, an absent source as `Missing`; what comes
    for such a round later is dropped. With a deadline of 0 it takes what is there. Without one it
    waits; `Missing` then stands only for a node that was lost.
    """

    sources: Sequence[int] | Everything
    round: Round | Everything = ANY
    count: int | None = None
    deadline: float | None = None


class Forget(NamedTuple):
    """Drop all mail of rounds before ``round``, what is there and what is still to come."""

    round: Round


class Drain(NamedTuple):
    """Wait until all nodes have ended or wait here, and every message has been delivered."""


class Sleep(NamedTuple):
    """Go on after that many seconds of the run's clock."""

    seconds: float


class Now(NamedTuple):
    """Gives the seconds of the run's clock."""


class Report(NamedTuple):
    """Evaluate if iteration ``t`` is due, and append the node's record.

    ``metrics`` are columns of the node's own. The program goes on once its row is evaluated; the
    record is written when the mean of all nodes, which consensus distance needs, is there: when
    every node has reported iteration ``t`` or a later one, or has ended.
    """

    t: int
    metrics: Mapping[str, float] | None = None


class Checkpoint(NamedTuple):
    """Save the node if a checkpoint is due after iteration ``t``.

    A synchronous program has nothing in flight then. For one that is ``asynchronous``, a due
    checkpoint is a meeting: all nodes wait until every message has been delivered, and unread mail
    is saved too.
    """

    t: int


Effect = (
    Train | Gradient | Send | Ask | Receive | Forget | Drain | Sleep | Now | Report | Checkpoint
)
#: what the engine gives back at a yield
Answer = Any
