"""What a run leaves behind: the one place that names its files, columns and records.

A run folder holds one folder per machine::

    <run>/g5k_config.json config.ini ip.json plan.json ledger.jsonl   (by the orchestrator)
    <run>/network.json                 an emulated network as measured before the run (by it too)
    <run>/machine<m>/data.json         which data each of the machine's nodes has
    <run>/machine<m>/run.json          everything needed to repeat the run, and how it ended
    <run>/machine<m>/args.json         the flags, under the reference system's names
    <run>/machine<m>/<INI> <graph>     copies of the input
    <run>/machine<m>/records_<w>.jsonl one line per node and evaluation, appended by worker w
    <run>/machine<m>/<rank>_results.json   derived from the records, in the reference's form
    <run>/machine<m>/<rank>.log        one log per node
    <run>/machine<m>/digests_<w>.jsonl SHA-256 of every row after every iteration (--digests)
    <run>/machine<m>/faults.jsonl      injected faults that fired (--faults)
    <run>/machine<m>/status.json       where the machine is now, replaced twice a second
    <run>/machine<m>/checkpoints/<t>/  one file per node after t iterations; set.json once complete
    <run>/machine<m>/attacked_model/machine<m>/<rank>/*.npy   models as sent, where wanted
    <run>/machine<m>/<t>_weight_<uid>.safetensors   final weights (in the weights folder)

Records are JSON lines: appended with one write each, so a kill at any byte loses at most the
line being written, which the reader leaves out and counts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from decentralizepy.files import ends_within_a_line, write_json
from decentralizepy.files import write_atomic as write_atomic
from decentralizepy.jsonfile import parse_object

SCHEMA_VERSION: Final = 1

#: Columns of a record that have a meaning everywhere, in order; others follow them: metrics of the
#: task (``test_<name>``, ``train_<name>``, ``validation_<name>``) and numbers of a node program.
#: Counts of bytes, steps, samples and seconds are cumulative.
RECORD_COLUMNS: Final[dict[str, str]] = {
    "iteration": "1-based training iteration after which the node was evaluated",
    "uid": "node, 0 to n - 1; servers are negative",
    "attempt": "how often the run had been resumed when this was written (absent: 0)",
    "machine": "machine that hosts the node",
    "rank": "the node's place on its machine",
    "train_loss": "mean loss over the node's own training set",
    "test_loss": "mean loss over the test set",
    "test_acc": "accuracy on the test set, in per cent",
    "validation_loss": "mean loss over the validation set",
    "validation_acc": "accuracy on the validation set, in per cent",
    "total_bytes": "bytes sent by the node, each neighbour counted: data + meta",
    "total_data": "of these, model payload",
    "total_meta": "of these, message headers",
    "wire_bytes": "bytes that really crossed to other machines, ZeroMQ framing included",
    "consensus_distance": "l2 distance of the node's parameters from the mean over all nodes",
    "local_steps": "local steps taken by the node",
    "samples": "samples that the node has trained on, repetitions counted",
    "nan": "first iteration after whose local steps the node's parameters were not finite",
    "epsilon": "privacy that the node has spent, at the delta of [TRAIN_PARAMS] (private training)",
    "elapsed_s": "seconds since the run's first training step; the node's own simulated ones "
    "under --simulate, as all seconds then are",
    "train_s": "seconds in local training",
    "share_s": "seconds building messages and merging",
    "wait_s": "seconds waiting for neighbours",
    "evaluate_s": "seconds evaluating",
}

_COLUMN: Final = re.compile(r"\S+")
#: How every line of a `RecordWriter` starts.
_HEAD: Final = re.compile(
    rb'\{"iteration":(\d{1,18}),"uid":(-?\d{1,18}),(?:"attempt":(\d{1,18}),)?'
)

#: record column -> key of ``<rank>_results.json``
LEGACY_RESULTS: Final[dict[str, str]] = {
    "train_loss": "train_loss",
    "test_loss": "test_loss",
    "test_acc": "test_acc",
    "validation_loss": "validation_loss",
    "validation_acc": "validation_acc",
    "total_bytes": "total_bytes",
    "total_meta": "total_meta",
    "total_data": "total_data_per_n",
}

#: keys of ``<rank>_results.json`` that only runs with such a set have
WHERE_RECORDED: Final = frozenset({"validation_loss", "validation_acc"})


#: folder of a machine with models for attacks, as the reference system lays it out
SENT_MODELS: Final = "attacked_model"
#: what is kept of a model -> how its files' names begin; `sent_model` makes them
_SENT: Final = {"models": "model", "losses": "losses"}
#: (kind, iteration, sender, receiver) in a name that `MachineFolder.sent_model` made
SENT_NAME: Final = re.compile(r"(model|losses)_it(\d{1,12})_(-?\d{1,9})_to(-?\d{1,9})\.npy")

#: names of files and folders that mean something in a run folder or in a machine's
RESERVED: Final = frozenset({
    "g5k_config.json", "config.ini", "ip.json", "plan.json", "ledger.jsonl", "run.key",
    "network.json", "results.log", "tables", "figures", "args.json", "run.json", "data.json",
    "status.json", "faults.jsonl", "stdout.log", "checkpoints", "attacks", "usage.jsonl",
    "power.jsonl", SENT_MODELS,
})  # fmt: skip


@dataclass(frozen=True)
class MachineFolder:
    """File names of one machine's part of a run."""

    root: Path

    @property
    def args(self) -> Path:
        return self.root / "args.json"

    @property
    def run(self) -> Path:
        return self.root / "run.json"

    @property
    def data(self) -> Path:
        return self.root / "data.json"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def usage(self) -> Path:
        """CPU, memory and network every few seconds (`decentralizepy.usage`)."""
        return self.root / "usage.jsonl"

    @property
    def power(self) -> Path:
        """What the machine's computer drew, where somebody has measured it."""
        return self.root / "power.jsonl"

    def records(self, worker: int) -> Path:
        return self.root / f"records_{worker}.jsonl"

    def all_records(self) -> list[Path]:
        return sorted(self.root.glob("records_*.jsonl"), key=lambda p: _number(p.name))

    def digests(self, worker: int) -> Path:
        return self.root / f"digests_{worker}.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def results(self, rank: int) -> Path:
        return self.root / f"{rank}_results.json"

    def all_results(self) -> list[Path]:
        return sorted(self.root.glob("*_results.json"), key=lambda p: _number(p.name))

    @property
    def faults(self) -> Path:
        return self.root / "faults.jsonl"

    def log(self, rank: int) -> Path:
        return self.root / f"{rank}.log"

    def sent_model(
        self, machine: int, rank: int, form: str, iteration: int, uid: int, target: int
    ) -> Path:
        """What ``uid`` sent to ``target``, as ``form`` says: its numbers, or its losses."""
        name = f"{_SENT[form]}_it{iteration}_{uid}_to{target}.npy"
        return self.root / SENT_MODELS / f"machine{machine}" / str(rank) / name

    def sent(self, worker: int) -> Path:
        """How far models as sent were from the nodes' own, one line each."""
        return self.root / SENT_MODELS / f"sent_{worker}.jsonl"

    def holds_a_run(self) -> bool:
        """Whether a run was started here before."""
        return self.args.exists() or bool(self.all_records())


@dataclass(frozen=True)
class RunFolder:
    """File names of a whole run."""

    root: Path

    def machine(self, machine: int) -> MachineFolder:
        return MachineFolder(self.root / f"machine{machine}")

    def machines(self) -> dict[int, MachineFolder]:
        """The machine folders that exist, by machine id."""
        found = (p for p in self.root.glob("machine*") if re.fullmatch(r"machine\d+", p.name))
        return {
            _number(p.name): MachineFolder(p) for p in sorted(found, key=lambda p: _number(p.name))
        }

    @property
    def config(self) -> Path:
        return self.root / "g5k_config.json"

    @property
    def ini(self) -> Path:
        return self.root / "config.ini"

    @property
    def addresses(self) -> Path:
        return self.root / "ip.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def network(self) -> Path:
        """What was measured of an emulated network."""
        return self.root / "network.json"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"


def is_reserved(name: str) -> bool:
    """Whether a name means something in a run folder, so that no copy of a user's file has it."""
    return name in RESERVED or re.fullmatch(r"machine\d+", name) is not None


def weights_name(iteration: int, uid: int) -> str:
    """Name of a node's final weights; ``iteration`` is the last one, 0-based as ever."""
    return f"{iteration}_weight_{uid}.safetensors"


def _number(name: str) -> int:
    digits = re.search(r"\d+", name)
    return int(digits.group()) if digits else -1


class RecordWriter:
    """Appends records to one file; each record is one ``write`` of one line.

    What a kill or a full disk has left of a line is closed first, so that it costs no other line.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        self._fd = os.open(path, flags, 0o644)
        self._cut = ends_within_a_line(self._fd)

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one record: the `RECORD_COLUMNS` that it has, then its other columns as given.

        Raises ValueError for a column whose name has blanks or whose value is neither a number, a
        truth value nor a text.
        """
        line = json.dumps(_ordered(record), separators=(",", ":")) + "\n"
        view = memoryview(("\n" * self._cut + line).encode())
        while view:  # a disk that fills up may take a part of a line first
            written = os.write(self._fd, view)
            self._cut = written < len(view)
            view = view[written:]

    def close(self) -> None:
        os.close(self._fd)


def _ordered(record: Mapping[str, Any]) -> dict[str, Any]:
    for column, value in record.items():
        if not isinstance(value, int | float | str):
            kind = type(value).__name__
            raise ValueError(f"column {column}: {kind} is neither number, truth value nor text")
        if not _COLUMN.fullmatch(column):
            raise ValueError(f"column {column!r}: a name has no blanks and at least one character")
    known = {column: record[column] for column in RECORD_COLUMNS if column in record}
    return {**known, **record}


@dataclass(frozen=True)
class Records:
    """What a records file holds: its complete rows, and how many broken lines were left out."""

    rows: list[dict[str, Any]]
    broken: int


def read_records(path: Path) -> Records:
    """All complete records of a file, in the order written.

    A line that was cut by a kill, or that is not a JSON object with a node and an iteration, is
    left out and counted in ``broken``; nothing in a file makes this raise.
    """
    rows: list[dict[str, Any]] = []
    broken = 0
    for line, complete in _lines(path):
        row = parse_record(line) if complete else None
        if row is None:
            broken += 1
        else:
            rows.append(row)
    return Records(rows, broken)


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    with path.open("rb") as source:
        for line in source:
            if line.strip():
                yield line, line.endswith(b"\n")


def parse_record(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None unless it is a JSON object with a node and an iteration."""
    row = parse_object(line)
    keys = (row.get("iteration"), row.get("uid"))
    return row if all(type(key) is int for key in keys) else None


def machine_records(folder: MachineFolder) -> Records:
    """The records of all workers of a machine, by (uid, iteration); of several the newest."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    broken = 0
    for path in folder.all_records():
        records = read_records(path)
        broken += records.broken
        for row in records.rows:
            key = row["uid"], row["iteration"]
            if key not in rows or _attempt(row) >= _attempt(rows[key]):
                rows[key] = row
    return Records([rows[key] for key in sorted(rows)], broken)


def has_records(folder: MachineFolder) -> bool:
    """Whether a machine has any complete record; reads no further than the first."""
    lines = (line for path in folder.all_records() for line in _lines(path))
    return any(complete and parse_record(line) is not None for line, complete in lines)


def final_records(folder: MachineFolder) -> list[dict[str, Any]]:
    """Each node's last record, and its last with a test accuracy where that is another one.

    Of lines that cannot be among them only the head is read: a long run has millions.
    """
    last: dict[tuple[int, bool], tuple[tuple[int, int], bytes]] = {}
    for uid, age, line in _heads(folder):
        for key in ((uid, False), (uid, True)) if b'"test_acc":' in line else ((uid, False),):
            if key not in last or age >= last[key][0]:
                last[key] = age, line
    lines = dict.fromkeys(line for _, line in last.values())
    return [row for row in map(parse_record, lines) if row is not None]


def _heads(folder: MachineFolder) -> Iterator[tuple[int, tuple[int, int], bytes]]:
    """(uid, (iteration, attempt), line) of every line that looks complete."""
    for path in folder.all_records():
        for line, complete in _lines(path):
            head = _HEAD.match(line) if complete and line.endswith(b"}\n") else None
            if head is not None:
                yield int(head[2]), (int(head[1]), int(head[3] or 0)), line
            elif complete and (row := parse_record(line)) is not None:
                yield row["uid"], (row["iteration"], _attempt(row)), line


def _attempt(row: Mapping[str, Any]) -> int:
    attempt = row.get("attempt", 0)
    return attempt if type(attempt) is int else 0


def legacy_results(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """One node's records in the reference's form: metric -> {iteration as text -> value}."""
    results: dict[str, dict[str, float]] = {name: {} for name in LEGACY_RESULTS.values()}
    for row in rows:
        for column, name in LEGACY_RESULTS.items():
            if row.get(column) is not None:
                results[name][str(row["iteration"])] = row[column]
    return {name: found for name, found in results.items() if found or name not in WHERE_RECORDED}


def write_legacy_results(folder: MachineFolder) -> list[Path]:
    """Derive every ``<rank>_results.json`` of a machine from its records."""
    by_rank: dict[int, list[Mapping[str, Any]]] = {}
    for row in machine_records(folder).rows:
        rank = row.get("rank")
        by_rank.setdefault(rank if type(rank) is int else row["uid"], []).append(row)
    for rank, rows in by_rank.items():
        write_json(folder.results(rank), legacy_results(rows))
    return [folder.results(rank) for rank in sorted(by_rank)]
