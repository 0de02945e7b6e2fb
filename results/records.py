"""Records of a run as columns, read without a Python object per value.

A table of records is a `pyarrow.Table`: `KEYS` as int64, then a float64 column per metric, null
where a record has none. Text is left out; true and false become 1 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from decentralizepy.runfolder import RECORD_COLUMNS, MachineFolder, Records, parse_record

#: What says which record it is. Of several about the same node and iteration that of the newest
#: attempt counts, then the later one.
KEYS: Final = ("iteration", "uid", "machine")
#: Columns that are no metrics; the machine is that of the folder.
_PLACE: Final = (*KEYS, "rank")
#: Large enough to be parsed fast, small enough to be in memory three times.
_BLOCK: Final = 8 << 20
_NEWLINE: Final = ord("\n")
_BRACE: Final = ord("{")
_LARGEST: Final = 2**63 - 1


@dataclass(frozen=True)
class Recorded:
    """A table of records sorted by iteration and node, one row each, and what was left out."""

    table: pa.Table
    broken: int
    twice: int

    @property
    def metrics(self) -> list[str]:
        return metrics(self.table)


def metrics(table: pa.Table) -> list[str]:
    """The metrics of a table of records, in the order of `RECORD_COLUMNS`, then by name."""
    present = set(table.column_names).difference(_PLACE)
    known = [column for column in RECORD_COLUMNS if column in present]
    return known + sorted(present.difference(known))


def read_machines(machines: Mapping[int, MachineFolder]) -> Recorded:
    """The records of all workers of some machines.

    A line that is cut or is no record (see `runfolder.parse_record`) is left out and counted;
    nothing in a file makes this raise.
    """
    tables, broken = [], 0
    for machine, folder in machines.items():
        for path in folder.all_records():
            for block in _blocks(path):
                table, bad = _parse(block)
                tables.append(_on_machine(table, machine))
                broken += bad
    return _merged(tables, broken)


def from_rows(records: Records) -> Recorded:
    """Records that were read in another way, each with its machine."""
    return _merged([_table(records.rows, ("machine",))], records.broken)


def _blocks(path: Path) -> Iterator[bytes | memoryview]:
    """The file in blocks of whole lines; a last line without its end is a block of its own.

    Blocks are views of what was read: the file passes through memory once.
    """
    rest = b""
    with path.open("rb", buffering=0) as source:
        while True:
            text = bytearray(len(rest) + _BLOCK)
            text[: len(rest)] = rest
            view = memoryview(text)
            more = source.readinto(view[len(rest) :])
            if not more:
                break
            end = text.rfind(b"\n", 0, len(rest) + more) + 1
            rest = bytes(view[end : len(rest) + more])
            if end:
                yield view[:end]
    if rest:
        yield rest


def _parse(block: bytes | memoryview) -> tuple[pa.Table, int]:
    """The records in a block, and the number of lines that are none."""
    fast = _parse_fast(block)
    return fast if fast is not None else _parse_lines(bytes(block))


def _parse_fast(block: bytes | memoryview) -> tuple[pa.Table, int] | None:
    """`_parse_lines` for a block in which every line is a record; None if one may not be."""
    lines = _objects(block)
    if not lines:
        return None
    options = pj.ReadOptions(block_size=len(block), use_threads=False)
    try:
        table = pj.read_json(pa.BufferReader(block), options)
        names = table.column_names
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    whole = [name in names and table.schema.field(name).type == pa.int64() for name in KEYS[:2]]
    nested = any(pa.types.is_nested(field.type) for field in table.schema)
    if table.num_rows != lines or not all(whole) or nested:
        return None
    if any(table[name].null_count for name in KEYS[:2]):
        return None
    return _typed(table)


def _objects(block: bytes | memoryview) -> int:
    """How many lines a block has, if each starts as an object does and has its end; else 0."""
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == _NEWLINE)
    whole = len(ends) > 0 and ends[-1] == len(text) - 1 and text[0] == _BRACE
    return len(ends) if whole and (text[ends[:-1] + 1] == _BRACE).all() else 0


def _typed(table: pa.Table) -> tuple[pa.Table, int]:
    columns = {name: table[name] for name in KEYS[:2]}
    for field in table.schema:
        if field.name not in _PLACE and _is_number(field.type):
            columns[field.name] = table[field.name].cast(pa.float64(), safe=False)
    typed = pa.table(columns)
    started = pc.greater_equal(typed["iteration"], 0)
    broken = typed.num_rows - (pc.sum(started).as_py() or 0)
    return (typed.filter(started) if broken else typed), broken


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def _parse_lines(block: bytes) -> tuple[pa.Table, int]:
    *lines, cut = block.split(b"\n")
    written = [line for line in lines if line.strip()]
    found = (parse_record(line) for line in written)
    rows = [row for row in found if row is not None and _sane(row)]
    return _table(rows), len(written) - len(rows) + bool(cut.strip())


def _sane(row: Mapping[str, Any]) -> bool:
    return 0 <= row["iteration"] <= _LARGEST and -_LARGEST <= row["uid"] <= _LARGEST


def _table(rows: Sequence[Mapping[str, Any]], more_keys: tuple[str, ...] = ()) -> pa.Table:
    keys = (*KEYS[:2], *more_keys)
    columns = {key: pa.array([row[key] for row in rows], pa.int64()) for key in keys}
    names = set().union(*(row.keys() for row in rows)).difference(_PLACE)
    for name in sorted(filter(_is_text, names)):
        values = [number(row.get(name)) for row in rows]
        if any(value is not None for value in values):
            columns[name] = pa.array(values, pa.float64())
    return pa.table(columns)


def _is_text(name: str) -> bool:
    """Whether a name can be written down; half of a surrogate pair cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def number(value: Any) -> float | None:
    """A value of a record as a number; None if it is none."""
    if not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON knows integers of any size
        return math.inf if value > 0 else -math.inf


def _on_machine(table: pa.Table, machine: int) -> pa.Table:
    return table.append_column("machine", pa.repeat(pa.scalar(machine, pa.int64()), len(table)))


def _merged(tables: list[pa.Table], broken: int) -> Recorded:
    """All tables as one; of records about the same node and iteration one is left.

    The list is emptied and columns are taken one at a time: all twice would double the memory.
    """
    empty = pa.table({key: pa.array([], pa.int64()) for key in KEYS})
    table = pa.concat_tables([empty, *tables], promote_options="default")
    tables.clear()
    kept, twice = _order(table)
    names = [*KEYS, *metrics(table)]
    columns = {}
    for name in names:
        columns[name] = _taken(table[name], kept)
        table = table.drop_columns([name])
        pa.default_memory_pool().release_unused()
    return Recorded(pa.table(columns), broken, twice)


def _taken(column: pa.ChunkedArray, kept: np.ndarray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.take(pa.array(kept))


def _order(table: pa.Table) -> tuple[np.ndarray, int]:
    """Rows that count, sorted by iteration and uid; and how many stand on two machines."""
    iteration, uid, machine = (table[key].to_numpy() for key in KEYS)
    order = np.lexsort((uid, iteration))
    same = (np.diff(iteration[order]) == 0) & (np.diff(uid[order]) == 0)
    if not same.any():
        return order, 0
    attempt = _attempts(table)
    order = np.lexsort((attempt, machine, uid, iteration))  # stable: of equals the later is last
    changes = [np.diff(key[order]) != 0 for key in (iteration, uid, machine)]
    node_ends = np.append(changes[0] | changes[1], True)
    machine_ends = np.append(changes[0] | changes[1] | changes[2], True)
    return order[node_ends], int(machine_ends.sum() - node_ends.sum())


def _attempts(table: pa.Table) -> np.ndarray:
    if "attempt" not in table.column_names:
        return np.zeros(len(table))
    return table["attempt"].fill_null(0.0).to_numpy()
