"""Where a machine is now: ``status.json``, replaced twice a second."""

from __future__ import annotations

import contextlib
import mmap
import time
from collections.abc import Mapping
from typing import Any, Final

from decentralizepy.runfolder import write_json
from decentralizepy.runtime.settings import Settings
from decentralizepy.runtime.shared import ArenaPlan, Control

_EVERY: Final = 0.5


class Status:
    """Collects what the workers tell and what their shared counters say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._control: Control | None = None
        self._records: dict[int, list[Mapping[str, Any]]] = {}
        self._written = 0.0
        self._start: float | None = None
        self._elapsed: list[float] = []
        self._simulated = 0.0
        self.began: float | None = None
        self.error: str | None = None

    @property
    def going(self) -> bool:
        """Whether training has begun."""
        return self._start is not None

    def start(self) -> None:
        """Training begins now."""
        self._start = time.monotonic()
        self.began = time.time()

    def finish(self, elapsed: float) -> None:
        """A worker's nodes are all done, so many seconds after their first step."""
        self._elapsed.append(elapsed)

    def watch(self, memory: int, plan: ArenaPlan) -> None:
        """Read progress from the workers' shared counters."""
        self._control = Control(mmap.mmap(memory, plan.control_bytes), plan)

    def busy_with(self, worker: int) -> tuple[int, int] | None:
        """The node and (0-based) iteration that a worker last worked on."""
        return self._control.busy_with(worker) if self._control else None

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
        rounds = list(self._control.rounds) if self._control else [0]
        simulated = {"simulated_s": self._simulated} if self._settings.simulation else {}
        return {
            "state": state,
            "machine": self._settings.machine,
            "workers": self._settings.workers,
            "nodes": len(self._settings.uids),
            "iterations": self._settings.intervals.iterations,
            "round_min": min(rounds, default=0),
            "round_mean": sum(rounds) / max(len(rounds), 1),
            "round_max": max(rounds, default=0),
            "elapsed_s": round(self.seconds, 6),
            **simulated,
            "test_acc": self._latest("test_acc"),
            "train_loss": self._latest("train_loss"),
            "error": self.error,
        }

    @property
    def seconds(self) -> float:
        """Seconds on the wall since the first training step; at the end the slowest worker's."""
        if len(self._elapsed) == self._settings.workers:
            return max(self._elapsed)
        return time.monotonic() - self._start if self._start is not None else 0.0

    def _latest(self, column: str) -> dict[str, Any] | None:
        """Mean over the nodes evaluated in the newest iteration that has the column."""
        for iteration in sorted(self._records, reverse=True):
            values = [row[column] for row in self._records[iteration] if column in row]
            if values:
                mean = sum(values) / len(values)
                return {"iteration": iteration, "mean": mean, "nodes": len(values)}
        return None
