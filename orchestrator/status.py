"""Where each machine is now: its ``status.json``, which the core replaces twice a second."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from decentralizepy.jsonfile import read_object
from decentralizepy.text import time_left

STATES: Final = ("starting", "running", "done", "failed", "interrupted")


@dataclass(frozen=True)
class Status:
    """One machine at one moment; zeros before it has told anything."""

    machine: int
    state: str = "starting"
    nodes: int = 0
    iterations: int = 0
    round_min: int = 0
    round_mean: float = 0.0
    round_max: int = 0
    elapsed_s: float = 0.0
    past_s: float = 0.0  # of these, before the checkpoint that the attempt began at
    accuracy: tuple[int, float, int] | None = None  # iteration, mean per cent, nodes
    error: str | None = None
    round_start: int = 0
    notes: tuple[str, ...] = ()
    members: int | None = None  # nodes that have not left; None if it does not say


def read_status(path: Path, machine: int) -> Status:
    """A machine's status; what is missing or not understood keeps its default."""
    value = read_object(path)
    state, error = value.get("state"), value.get("error")
    return Status(
        machine=machine,
        state=state if state in STATES else "starting",
        nodes=int(_number(value.get("nodes"))),
        iterations=int(_number(value.get("iterations"))),
        round_min=int(_number(value.get("round_min"))),
        round_mean=_number(value.get("round_mean")),
        round_max=int(_number(value.get("round_max"))),
        elapsed_s=_number(value.get("elapsed_s")),
        past_s=_number(value.get("past_s")),
        accuracy=_accuracy(value.get("test_acc")),
        error=error if isinstance(error, str) and error else None,
        round_start=int(_number(value.get("round_start"))),
        notes=_notes(value.get("notes")),
        members=int(_number(value["members"])) if "members" in value else None,
    )


def _notes(value: Any) -> tuple[str, ...]:
    return tuple(note for note in value if isinstance(note, str)) if isinstance(value, list) else ()


def _number(value: Any) -> float:
    sane = isinstance(value, int | float) and abs(value) < 1e15 and math.isfinite(value)
    return float(value) if sane else 0.0


def _accuracy(value: Any) -> tuple[int, float, int] | None:
    if not isinstance(value, dict) or not isinstance(value.get("mean"), int | float):
        return None
    nodes = int(_number(value.get("nodes"))) or 1
    return int(_number(value.get("iteration"))), _number(value["mean"]), nodes


@dataclass(frozen=True)
class Overview:
    """All machines together, as the progress display shows them."""

    done: int
    total: int
    round_mean: float
    accuracy: float | None
    accuracy_iteration: int
    slowest: int | None
    running: bool
    attempt_s: float  # seconds of training in the present attempt
    start: int = 0  # iterations that were done when the present attempt began

    @property
    def seconds_left(self) -> float | None:
        """By the speed of this attempt so far; None before there is any."""
        return time_left(self.done, self.total, self.start, self.attempt_s)


def overview(statuses: Sequence[Status], total: int) -> Overview:
    """Sum up: the round that all have done, and the mean accuracy of the latest evaluation.

    Machines whose nodes have all left do not count, unless there are no others.
    """
    statuses = [status for status in statuses if status.members != 0] or statuses
    done = min((status.round_min for status in statuses), default=0)
    iteration, accuracy = _mean_accuracy(statuses)
    rounds = {status.round_mean for status in statuses}
    behind = min(statuses, key=lambda s: s.round_mean) if len(rounds) > 1 else None
    return Overview(
        done=min(done, total),
        total=total,
        round_mean=sum(s.round_mean for s in statuses) / max(len(statuses), 1),
        accuracy=accuracy,
        accuracy_iteration=iteration,
        slowest=behind.machine if behind else None,
        running=any(status.state == "running" for status in statuses),
        attempt_s=max((status.elapsed_s - status.past_s for status in statuses), default=0.0),
        start=min((status.round_start for status in statuses), default=0),
    )


def _mean_accuracy(statuses: Sequence[Status]) -> tuple[int, float | None]:
    """The latest iteration that every machine tested, and the mean as a fraction over nodes."""
    known = [status.accuracy for status in statuses if status.accuracy is not None]
    if not known or len(known) < len(statuses):
        return 0, None
    nodes = sum(count for _, _, count in known)
    return min(i for i, _, _ in known), sum(mean * count for _, mean, count in known) / nodes / 100


def merged_notes(lists: Iterable[Sequence[str]]) -> list[str]:
    """What all machines have noted, each event once: most events are noted by every machine."""
    found: list[str] = []
    for notes in lists:
        known = Counter(found)
        for note, count in Counter(notes).items():
            found += [note] * (count - known[note])
    return found
