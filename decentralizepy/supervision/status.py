"""Where a machine is now: ``status.json``, replaced twice a second."""

from __future__ import annotations

import contextlib
import mmap
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from decentralizepy.files import write_json
from decentralizepy.memory.shared import ArenaPlan, Counters
from decentralizepy.node.membership import Membership
from decentralizepy.settings import Settings
from decentralizepy.supervision.progress import say

_EVERY: Final = 0.5


class Transport:
    """Sums of what the transport between machines counted, over the workers and the supervisor."""

    def __init__(self) -> None:
        self._refused: Counter[str] = Counter()
        self._counts: Counter[str] = Counter(
            {"reconnects": 0, "resent": 0, "held": 0, "duplicates": 0}
        )

    def add(self, counts: Mapping[str, Any]) -> None:
        """What one of them counted: ``refused`` by kind, and whole numbers."""
        self._refused.update(counts.get("refused", {}))
        self._counts.update({key: value for key, value in counts.items() if key != "refused"})

    @property
    def value(self) -> dict[str, Any]:
        return {"refused": dict(sorted(self._refused.items())), **self._counts}


class Status:
    """Collects what the workers tell and what their shared counters say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._control: Counters | None = None
        self.membership = Membership(settings.mapping.n)
        self.notes: list[str] = []
        self.round_start = 0
        self.attempt = settings.attempt
        self._rounds = [0]
        self._records: dict[int, list[Mapping[str, Any]]] = {}
        self._written = 0.0
        self._start: float | None = None
        #: seconds of training before the checkpoint that the run goes on from
        self.past = 0.0
        self._elapsed: list[float] = []
        self._total: float | None = None
        self._simulated = 0.0
        self.began: float | None = None
        self.error: str | None = None
        self.transport = Transport()

    @property
    def going(self) -> bool:
        """Whether training has begun."""
        return self._start is not None

    def start(self) -> None:
        """Training begins now."""
        self._start, self._total = time.monotonic() - self.past, None
        self.began = time.time()

    def finish(self, elapsed: float) -> None:
        """A worker's nodes are all done, so many seconds after their first step."""
        self._elapsed.append(elapsed)

    def watch(self, memory: int, plan: ArenaPlan) -> None:
        """Read progress from the workers' shared counters."""
        self._control = Counters(mmap.mmap(memory, plan.control_bytes), plan)

    def busy_with(self, worker: int) -> tuple[int, int] | None:
        """The node and (0-based) iteration that a worker last worked on."""
        return self._control.busy_with(worker) if self._control else None

    def forget(self) -> None:
        """The workers and their counters are no more."""
        if self._control is not None:
            self._rounds = list(self._control.rounds)
        self._control = None
        self._total = self.seconds
        self._elapsed.clear()
        self._start = None

    def call(self, worker: int) -> None:
        """Make a worker look for orders, however busy it is."""
        if self._control is not None:
            self._control.call(worker)

    def beats(self, worker: int) -> int:
        """How often a worker's main loop went round."""
        return self._control.beats(worker) if self._control else 0

    def note(self, text: str) -> None:
        """Something happened that a reader of the results must know."""
        self.notes.append(text)
        say(text)

    def add(self, record: Mapping[str, Any]) -> None:
        """A node was evaluated."""
        self._records.setdefault(record["iteration"], []).append(record)
        self._simulated = max(self._simulated, record.get("elapsed_s", 0.0))
        for old in sorted(self._records)[:-4]:
            del self._records[old]

    def write_now_and_then(self, state: str) -> None:
        """Write the file if the last time is long enough ago."""
        if time.monotonic() - self._written >= _EVERY:
            self.write(state)

    def write(self, state: str) -> None:
        """Replace the file; a full disk must not end the run for this."""
        self._written = time.monotonic()
        with contextlib.suppress(OSError):
            write_json(self._settings.folder.status, self.value(state))

    def value(self, state: str) -> dict[str, Any]:
        """What the file says."""
        rounds = self._rounds_of_members()
        simulated = {"simulated_s": self._simulated} if self._settings.simulation else {}
        return {
            "state": state,
            "machine": self._settings.machine,
            "workers": self._settings.workers,
            "nodes": len(self._settings.uids),
            "members": len(set(self._settings.uids) - self.membership.left),
            "iterations": self._settings.intervals.iterations,
            "round_start": self.round_start,
            "round_min": min(rounds, default=0),
            "round_mean": sum(rounds) / max(len(rounds), 1),
            "round_max": max(rounds, default=0),
            "elapsed_s": round(self.seconds, 6),
            "past_s": round(self.past, 6),
            **simulated,
            "test_acc": self._latest("test_acc"),
            "train_loss": self._latest("train_loss"),
            "refused": sum(self.transport.value["refused"].values()),
            "error": self.error,
            "notes": self.notes,
        }

    def _rounds_of_members(self) -> list[int]:
        if self._control is not None:
            self._rounds = list(self._control.rounds)
        left, first = self.membership.left, self._settings.uids.start
        here = self._rounds[: len(self._settings.uids)]  # servers come after them
        return [done for i, done in enumerate(here) if first + i not in left] or [0]

    @property
    def seconds(self) -> float:
        """Seconds of training on the wall; at the end those of the slowest worker."""
        if len(self._elapsed) == self._settings.workers:
            self._total = max(self._elapsed)
        if self._total is not None:
            return self._total
        return time.monotonic() - self._start if self._start is not None else 0.0

    def _latest(self, column: str) -> dict[str, Any] | None:
        """Mean over the nodes evaluated in the newest iteration that has the column.

        Servers count only where no node has it.
        """
        for iteration in sorted(self._records, reverse=True):
            rows = [row for row in self._records[iteration] if column in row]
            nodes = [row[column] for row in rows if row["uid"] >= 0]
            values = nodes or [row[column] for row in rows]
            if values:
                mean = sum(values) / len(values)
                return {"iteration": iteration, "mean": mean, "nodes": len(values)}
        return None
