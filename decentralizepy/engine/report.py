"""When nodes are evaluated, what is measured, and how it is written down."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decentralizepy.errors import RunError
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.messages.header import MessageError
from decentralizepy.messages.message import Message
from decentralizepy.runfolder import MachineFolder, RecordWriter
from decentralizepy.settings import LEVELS, Intervals, Settings
from decentralizepy.training.data import Samples
from decentralizepy.training.trainer import Learner, Trainer
from decentralizepy.transport.router import Traffic, sum_message


@dataclass
class Seconds:
    """Where a node's time went, in seconds since the start."""

    train: float = 0.0
    share: float = 0.0
    wait: float = 0.0
    evaluate: float = 0.0


@dataclass
class Pending:
    """Nodes that were evaluated in an iteration and wait for the mean of all nodes."""

    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    rows: dict[int, Tensor] = field(default_factory=dict)


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


class Evaluator:
    """Evaluates rows: loss on the node's own samples, loss and metrics on each of ``sets``.

    ``sets`` maps the columns' prefix (``test``, ``validation``) to samples; empty ones are skipped.
    """

    def __init__(self, trainer: Trainer, sets: Mapping[str, Samples], intervals: Intervals) -> None:
        self.trainer, self.intervals = trainer, intervals
        self.sets = {name: samples for name, samples in sets.items() if len(samples)}

    def measure(self, iteration: int, row: Tensor, learner: Learner) -> dict[str, float]:
        """What is due in this (1-based) iteration."""
        found: dict[str, float] = {}
        if self.intervals.train(iteration) and learner.n_samples:
            own = self.trainer.evaluate(row, self.trainer.samples, learner.indices)
            found["train_loss"] = own.loss
        for name, samples in self.sets.items() if self.intervals.test(iteration) else ():
            result = self.trainer.evaluate(row, samples, None)
            found[f"{name}_loss"] = result.loss
            found |= {f"{name}_{key}": value for key, value in result.metrics.items()}
        return found


class Meeting:
    """The mean of all nodes' parameters at an evaluation, over any number of workers.

    Each worker adds up its own nodes and sends the sum to the root worker, which adds these in the
    order of the workers and sends the mean to all. When workers are lost, the first one left is the
    root, and everybody says again what it may not have heard.
    """

    def __init__(
        self,
        me: WorkerId,
        placement: Placement,
        n_parameters: int,
        send: Callable[[WorkerId, str, Message], None],
        arrived: Callable[[int, Tensor], None],
    ) -> None:
        self.me, self._n = me, n_parameters
        self._send, self._arrived = send, arrived
        self._all = [w for w in placement.all() if len(placement.uids(w))]
        self._workers = list(self._all)
        self._sums: dict[int, dict[int, tuple[Tensor, int]]] = {}
        self._said: dict[int, tuple[Tensor, int]] = {}

    def join(self, t: int, rows: Mapping[int, Tensor]) -> None:
        """All nodes of this worker have reached the evaluation of iteration ``t``."""
        total = torch.zeros(self._n, dtype=torch.float64)
        for uid in sorted(rows):
            total += rows[uid][: self._n]
        self._said[t] = total, len(rows)
        for old in sorted(self._said)[:-2]:  # a meeting holds everybody: none is further behind
            del self._said[old]
        self._say(t)

    def leave(self, dead: Iterable[WorkerId]) -> None:
        """Workers are lost; what was said to a root that is no more is said again."""
        gone = set(dead)
        root = self._workers[0]
        self._workers = [worker for worker in self._workers if worker not in gone]
        for sums in self._sums.values():
            for worker in gone:
                sums.pop(self._all.index(worker), None)
        if root in gone:
            for t in sorted(self._said):
                self._say(t)
        elif self.me == root:
            for t in sorted(self._sums):
                self._finish(t)

    def _say(self, t: int) -> None:
        total, count = self._said[t]
        number = self._all.index(self.me)
        if self.me == self._workers[0]:
            self._add(t, number, total, count)
        else:
            self._send(self._workers[0], "S", sum_message(total, t, count, number))

    def take(self, kind: str, message: Message) -> None:
        """A sum for the root, or the mean from it, has come."""
        t, values = message.round[0], message.tensors.get("sum")
        nodes = message.meta.get("nodes")
        if values is None or values.dtype != torch.float64 or values.shape != (self._n,):
            raise MessageError(f"no sum of {self._n} numbers")
        if type(nodes) is not int or nodes < 1:
            raise MessageError("a sum of no nodes")
        if kind == "S":
            self._add(t, message.sender, values, nodes)
        else:
            self._arrived(t, values)

    def _add(self, t: int, number: int, total: Tensor, count: int) -> None:
        if not number < len(self._all):
            raise MessageError(f"a sum of worker {number}, which there is not")
        if self._all[number] in self._workers:
            self._sums.setdefault(t, {})[number] = total, count
            self._finish(t)

    def _finish(self, t: int) -> None:
        """Tell the mean once all have said their sums."""
        sums = self._sums[t]
        if len(sums) < len(self._workers):
            return
        mean = torch.zeros(self._n, dtype=torch.float64)
        nodes = 0
        for number in sorted(sums):
            part, count = sums[number]
            mean += part
            nodes += count
        mean /= nodes
        del self._sums[t]
        for worker in self._workers[1:]:
            self._send(worker, "A", sum_message(mean, t, nodes, 0))
        self._arrived(t, mean)


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
        self._digests = settings.digests
        self._attempt = {"attempt": settings.attempt} if settings.attempt else {}

    def log(self, uid: int, message: str, level: str = "INFO") -> None:
        self._log.write(uid - self._first, level, message)

    def record(self, uid: int, iteration: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Append a node's record; returns it."""
        place = {"machine": self._me.machine, "rank": uid - self._first}
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
        """Append the SHA-256 of a row after an iteration, if the run was asked for digests."""
        if not self._digests:
            return
        value = hashlib.sha256(row.numpy().tobytes()).hexdigest()
        line = json.dumps({"iteration": iteration, "uid": uid, "sha256": value})
        append_line(self._folder.digests(self._me.worker), line)

    def close(self) -> None:
        self._writer.close()


_LOGGED = (
    "train_loss", "test_loss", "test_acc", "validation_loss", "validation_acc",
    "consensus_distance",
)  # fmt: skip


def effort(learner: Learner) -> dict[str, int]:
    """The columns of a record that tell how much a node has trained, and whether in vain."""
    counts = {"local_steps": learner.steps, "samples": learner.samples}
    return counts | ({"nan": learner.nan} if learner.nan else {})


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
