"""Who waits for whom, told when no node can go on.

Each worker says it of its own nodes (`Stuck`), the root worker puts it into one text. A few nodes
are enough for an error, so the telling ones come first: those that wait for messages before those
that wait for all to rest, and of these the ones that are behind the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain
from typing import Any, Final, NamedTuple

from decentralizepy.engine.averaging import Averaging
from decentralizepy.engine.seat import Seat, Strand
from decentralizepy.node.effects import ANY, Drain

#: nodes that are named: of all that wait, and in each list of whom one waits for
_NAMED: Final = 8
#: uids that a worker tells at most; a header has to hold them
_MOST_UIDS: Final = 4096


class Waits(NamedTuple):
    """A program that waits, in the order in which they are told."""

    for_rest: bool
    iteration: int
    uid: int
    text: str


@dataclass(frozen=True)
class Stuck:
    """Why the nodes of a worker do not go on: ``waits`` are the first of ``number`` programs that
    wait, ``wanted`` the nodes that these wait for, ``ended`` nodes of this worker. ``held`` says
    which faults hold messages back."""

    waits: tuple[Waits, ...] = ()
    number: int = 0
    wanted: tuple[int, ...] = ()
    ended: tuple[int, ...] = ()
    held: tuple[str, ...] = ()

    def value(self) -> dict[str, Any]:
        """As JSON, for the root worker."""
        return {
            "waits": [list(one) for one in self.waits],
            "number": self.number,
            "wanted": list(self.wanted),
            "ended": list(self.ended),
            "held": list(self.held),
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Stuck:
        """What `value` gave; raises KeyError, TypeError or ValueError for anything else."""
        waits = tuple(
            Waits(bool(for_rest), int(iteration), int(uid), str(text))
            for for_rest, iteration, uid, text in value["waits"]
        )
        wanted, ended = (tuple(int(uid) for uid in value[key]) for key in ("wanted", "ended"))
        held = tuple(str(text) for text in value["held"])
        return cls(waits, int(value["number"]), wanted, ended, held)


def stuck(
    seats: Iterable[Seat],
    averaging: Averaging | None = None,
    sending: Collection[Strand] = (),
    held: Sequence[str] = (),
) -> Stuck:
    """Who of these nodes waits for whom; programs that are ``sending`` wait for room."""
    strands, ended = list[Strand](), list[int]()
    for seat in seats:
        strands += _telling(seat, sending)
        if seat.ended:
            ended.append(seat.uid)
    first = nsmallest(_NAMED, strands, key=_order)
    whom = sorted({uid for strand in first for uid in _absent(strand, averaging)})
    return Stuck(
        tuple(
            Waits(*_order(strand), describe(strand, averaging, strand in sending))
            for strand in first
        ),
        len(strands),
        tuple(whom[:_MOST_UIDS]),
        tuple(ended[:_MOST_UIDS]),
        tuple(held),
    )


def _telling(seat: Seat, sending: Collection[Strand]) -> list[Strand]:
    """The programs of a node that hold it up: where one waits for rest, others may listen on."""
    live = [strand for strand in seat.strands if not strand.ended]
    if all(strand.resting is None for strand in live):
        return live
    return [strand for strand in live if strand.resting is not None or strand in sending]


def _order(strand: Strand) -> tuple[bool, int, int]:
    return strand.resting is not None, strand.seat.node.round, strand.seat.uid


def told(workers: Sequence[Stuck]) -> str:
    """What the workers say, as one text."""
    number = sum(one.number for one in workers)
    first = sorted(chain.from_iterable(one.waits for one in workers))[:_NAMED]
    texts = [one.text for one in first]
    if number > len(first):
        texts.append(f"and {number - len(first)} more")
    wanted = {uid for one in workers for uid in one.wanted}
    ended = sorted(wanted.intersection(uid for one in workers for uid in one.ended))
    if ended:
        texts.append(f"node {_some(ended)} has ended" if len(ended) == 1 else
                     f"nodes {_some(ended)} have ended")  # fmt: skip
    return "; ".join([*texts, *(text for one in workers for text in one.held)])


def describe(strand: Strand, averaging: Averaging | None = None, sending: bool = False) -> str:
    """What a program waits for."""
    where = f"node {strand.seat.uid} waits in iteration {strand.seat.node.round + 1}"
    if sending:
        unread = "its messages on another machine are unread"
        return f"{where} to send: {unread}; is a Receive missing, or mailbox_budget too small?"
    if strand.resting is not None:
        return f"{where} {'in Drain' if isinstance(strand.resting, Drain) else 'at a checkpoint'}"
    wanted = strand.waiting
    if wanted is None:
        absent = averaging.absent(strand) if averaging is not None else None
        return where if absent is None else f"{where} for {_some(absent[1])} in round {absent[0]}"
    round_ = "" if wanted.round is ANY else f" in round ({wanted.round[0]}, {wanted.round[1]})"
    if wanted.sources is ANY:
        return f"{where} for {strand.needed} message(s) of anybody{round_}"
    return f"{where} for {_some(sorted(strand.absent))}{round_}"


def _absent(strand: Strand, averaging: Averaging | None) -> Iterable[int]:
    """Named nodes that a program waits for."""
    if strand.resting is not None:
        return ()
    if strand.waiting is not None:
        return () if strand.waiting.sources is ANY else strand.absent
    found = averaging.absent(strand) if averaging is not None else None
    return () if found is None else found[1]


def _some(absent: Sequence[int]) -> str:
    more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
    return f"{', '.join(map(str, absent[:_NAMED]))}{more}"
