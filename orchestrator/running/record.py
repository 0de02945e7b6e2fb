"""What a ledger says of a run: what is held, what was started where, and how far it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.backends.base import Reservation
from orchestrator.planning.placed import Place
from orchestrator.running.execution import Loss
from orchestrator.running.ledger import read_ledger

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """The state of a run by its ledger.

    ``asked``: a reservation was begun and neither held nor given back since: it may exist.
    ``number`` counts the starts. ``places`` are those of the newest one, ``began`` when it began
    (seconds since the epoch).
    """

    reservation: Reservation | None = None
    asked: bool = False
    number: int = 0
    places: tuple[Place, ...] = ()
    offset: int = 0
    began: float | None = None
    losses: tuple[Loss, ...] = ()
    finished: float | None = None
    collected: bool = False
    detached: bool = False
    last: str = ""

    @property
    def held(self) -> bool:
        """Whether machines may still be reserved for the run."""
        return self.asked or self.reservation is not None

    @property
    def under_way(self) -> bool:
        """Whether the newest start, for all the ledger knows, has not come to an end."""
        return self.reservation is not None and bool(self.places) and self.finished is None


def read_record(path: Path) -> Record:
    """The state of the run whose ledger this is."""
    return recorded(read_ledger(path))


def recorded(entries: Sequence[Entry]) -> Record:
    """The state after these entries; what is unknown in them changes nothing."""
    record = Record()
    for entry in entries:
        record = replace(_after(record, entry), last=str(entry["event"]))
    return record


def _after(record: Record, entry: Entry) -> Record:
    event = entry["event"]
    if event == "reserving":
        return replace(record, asked=True, reservation=None, began=None)
    if event == "reserved":
        return replace(record, asked=True, reservation=_reservation(entry))
    if event == "submitted":
        return _submitted(record, entry)
    if event == "started":
        return replace(record, began=_moment(entry))
    if event in ("lost", "restarted"):
        return replace(record, losses=(*record.losses, _loss(entry)))
    if event == "finished":
        return replace(record, finished=_number(entry.get("seconds")), collected=False)
    if event == "collected":
        return replace(record, collected=True)
    if event == "released":
        return replace(record, asked=False, reservation=None)
    return replace(record, detached=event == "detached") if event == "detached" else record


def _submitted(record: Record, entry: Entry) -> Record:
    try:
        places = tuple(Place.from_json(value) for value in entry["places"])
        offset = int(entry["offset"])
    except (KeyError, TypeError, ValueError):
        places, offset = (), 0
    number = record.number + 1
    return replace(record, number=number, places=places, offset=offset, began=None, losses=(),
                   finished=None, collected=False, detached=False)  # fmt: skip


def _reservation(entry: Entry) -> Reservation | None:
    try:
        return Reservation.from_json(entry["reservation"])
    except (KeyError, TypeError, ValueError):
        return None


def _loss(entry: Entry) -> Loss:
    restart = entry.get("restart", 0)
    return Loss(
        machine=int(_number(entry.get("machine"))),
        cause=str(entry.get("cause", "")),
        restart=restart if isinstance(restart, int) else 0,
        most=int(_number(entry.get("most"))),
        awaited=bool(entry.get("awaited", False)),
    )


def _moment(entry: Entry) -> float | None:
    try:
        return datetime.fromisoformat(str(entry.get("time"))).timestamp()
    except ValueError:
        return None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
