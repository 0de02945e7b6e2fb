"""What is written down of nodes: records, logs, digests of rows, and what they took."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from decentralizepy.errors import RunError
from decentralizepy.mappings.placement import WorkerId
from decentralizepy.runfolder import RECORD_COLUMNS, MachineFolder, RecordWriter
from decentralizepy.settings import LEVELS, Settings
from decentralizepy.training.trainer import Learner
from decentralizepy.training.training import Training
from decentralizepy.transport.router import Traffic


@dataclass(slots=True)
class Seconds:
    """Where a node's time went, in seconds since the start."""

    train: float = 0.0
    share: float = 0.0
    wait: float = 0.0
    evaluate: float = 0.0


class NodeLog:
    """``<rank>.log`` in the reference's form; opened for each line, for there may be thousands."""

    def __init__(self, folder: MachineFolder, level: str) -> None:
        self._folder, self._least = folder, LEVELS.index(level)

    def write(self, rank: int, level: str, message: str) -> None:
        """Append a line, unless the run asked for weightier ones only."""
        if LEVELS.index(level) < self._least:
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        append_line(self._folder.log(rank), f"[{now}][decentralizepy][{level}] {message}")


def append_line(path: Path, line: str) -> None:
    """Append a line with one write; raises `RunError` when the disk is full."""
    try:
        with path.open("ab", buffering=0) as out:
            data = f"{line}\n".encode(errors="backslashreplace")
            if out.write(data) < len(data):  # a disk that fills up takes a part first
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; earlier lines are whole") from error


class Reporter:
    """Writes the records of one worker's nodes, and digests of their rows where asked to."""

    def __init__(self, settings: Settings, me: WorkerId) -> None:
        folder = settings.folder
        self._folder, self._me, self._first = folder, me, settings.uids.start
        path = folder.records(me.worker)
        try:
            self._writer = RecordWriter(path)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}") from error
        self._log = NodeLog(folder, settings.log_level)
        #: whether the run was asked for digests
        self.digests = settings.digests
        self._attempt = {"attempt": settings.attempt} if settings.attempt else {}

    def _rank(self, uid: int) -> int:
        """A node's place on its machine; a server's is its number."""
        return uid - self._first if uid >= 0 else uid

    def log(self, uid: int, message: str, level: str = "INFO") -> None:
        self._log.write(self._rank(uid), level, message)

    def record(self, uid: int, iteration: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Append a node's record; returns it."""
        place = {"machine": self._me.machine, "rank": self._rank(uid)}
        row = {"iteration": iteration, "uid": uid, **self._attempt, **place, **values}
        try:
            self._writer.append(row)
        except OSError as error:
            path = self._folder.records(self._me.worker)
            raise RunError(
                f"cannot write {path}: {error.strerror}; earlier records are whole"
            ) from error
        said = ", ".join(f"{k} {values[k]:.4f}" for k in _LOGGED if k in values)
        self.log(uid, f"iteration {iteration}: {said}")
        return row

    def digest(self, uid: int, iteration: int, row: Tensor) -> None:
        """Append the SHA-256 of a row after an iteration."""
        value = hashlib.sha256(row.cpu().numpy().tobytes()).hexdigest()
        line = json.dumps({"iteration": iteration, "uid": uid, "sha256": value})
        append_line(self._folder.digests(self._me.worker), line)

    def close(self) -> None:
        self._writer.close()


def check_metrics(own: Mapping[str, Any]) -> None:
    """Raise ValueError unless a program's own columns are numbers under names of their own."""
    for name, value in own.items():
        if name in RECORD_COLUMNS:
            raise ValueError(f"Report: '{name}' is a column of the engine; take another name")
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"Report: {name!r} is no name of a column: letters, digits and _")
        if not isinstance(value, int | float):
            kind = type(value).__name__
            raise ValueError(f"Report: {name} is a {kind}, not a number; take float({name})")


_LOGGED = (
    "train_loss", "test_loss", "test_acc", "validation_loss", "validation_acc",
    "consensus_distance",
)  # fmt: skip


def effort(learner: Learner, training: Training) -> dict[str, float]:
    """The columns of a record that tell how much a node has trained, and whether in vain."""
    counts = {"local_steps": learner.steps, "samples": learner.samples}
    more = training.columns(learner.n_samples, learner.uid, learner.gradients)
    return counts | ({"nan": learner.nan} if learner.nan else {}) | more


def costs(traffic: Traffic, seconds: Seconds, elapsed: float) -> dict[str, float]:
    """The byte and second columns of a record."""
    return {
        "total_bytes": traffic.data + traffic.meta,
        "total_data": traffic.data,
        "total_meta": traffic.meta,
        "wire_bytes": traffic.wire,
        "elapsed_s": round(elapsed, 6),
        "train_s": round(seconds.train, 6),
        "share_s": round(seconds.share, 6),
        "wait_s": round(seconds.wait, 6),
        "evaluate_s": round(seconds.evaluate, 6),
    }
