"""What a node program may ask for. The program yields an effect; the runtime performs it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from decentralizepy.messages.message import Message


class Everything(Enum):
    """Stands for every sender or every round in a `Receive`."""

    ANY = "ANY"


ANY: Final = Everything.ANY


@dataclass(frozen=True, slots=True)
class Train:
    """Local training of iteration ``t`` on the node's row, in place."""

    t: int


@dataclass(frozen=True, slots=True)
class Send:
    """Give messages to other nodes: pairs (receivers, message), taken lazily.

    A row that is sent is frozen until every receiver has consumed it.
    """

    outgoing: Iterable[tuple[Sequence[int], Message]]
    round: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for messages; gives them as a list in ascending (uid, order of sending).

    With ``sources`` the program goes on when each of them has said something in ``round``; with
    `ANY`, when ``count`` messages are there. After ``deadline`` seconds of the run's clock it goes
    on with what came, an absent source as `Missing`. Without a deadline it waits; `Missing` then
    stands for a node that was lost only.
    """

    sources: Sequence[int] | Everything
    round: tuple[int, int] | Everything
    count: int | None = None
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Sleep:
    """Go on after that many seconds of the run's clock."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Now:
    """Gives the seconds of the run's clock."""


@dataclass(frozen=True, slots=True)
class Report:
    """Evaluate if iteration ``t`` is due, and append the node's record.

    A due evaluation is a meeting point of all nodes: the mean of their parameters, from which each
    one's consensus distance is taken, exists only once all have reached it.
    """

    t: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Save the node if a checkpoint is due after iteration ``t``: nothing of it is in flight."""

    t: int


Effect = Train | Send | Receive | Sleep | Now | Report | Checkpoint
#: what the runtime gives back at a yield
Answer = Any
