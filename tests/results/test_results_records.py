"""The fast reader against the core's own, line by line, whatever stands in the files."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.runfolder import MachineFolder, RunFolder, machine_records
from results import records
from results.records import KEYS, metrics, number, read_machines


def _machine(root: Path, **files: bytes) -> MachineFolder:
    folder = RunFolder(root).machine(0)
    folder.root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder.root / f"{name}.jsonl").write_bytes(content)
    return folder


def _as_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The table as the core's reader gives records: numbers only, in its order."""
    rows = [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (row["uid"], row["iteration"]))


def _expected(folder: MachineFolder) -> tuple[list[dict[str, Any]], int]:
    found = machine_records(folder)
    rows = []
    for row in found.rows:
        if row["iteration"] >= 0 and max(abs(row["uid"]), row["iteration"]) < 2**63:
            values = {k: number(v) for k, v in row.items() if k not in (*KEYS, "rank")}
            keys = {"iteration": row["iteration"], "uid": row["uid"], "machine": 0}
            rows.append(keys | {k: v for k, v in values.items() if v is not None})
    return rows, found.broken


def _check(folder: MachineFolder) -> None:
    found = read_machines({0: folder})
    rows, _ = _expected(folder)
    assert json.dumps(_as_rows(found.table), sort_keys=True) == json.dumps(rows, sort_keys=True)


GOOD = b'{"iteration":1,"uid":0,"test_acc":50.5}\n'
STRANGE = {
    "nan": b'{"iteration":1,"uid":0,"test_loss":NaN,"train_loss":-Infinity}\n',
    "null": b'{"iteration":1,"uid":0,"test_loss":null}\n',
    "text": b'{"iteration":1,"uid":0,"phase":"warm","day":"2024-01-01","test_loss":1}\n',
    "mixed": GOOD + b'{"iteration":2,"uid":0,"test_acc":"much"}\n',
    "truth": GOOD + b'{"iteration":2,"uid":0,"test_acc":true}\n',
    "huge": b'{"iteration":1,"uid":0,"test_loss":1e400,"samples":' + b"9" * 400 + b"}\n",
    "large": b'{"iteration":1,"uid":0,"samples":9007199254740993}\n',
    "server": b'{"iteration":1,"uid":-2,"test_acc":1}\n' + GOOD,
    "before": b'{"iteration":-1,"uid":0,"test_acc":1}\n' + GOOD,
    "float uid": b'{"iteration":1,"uid":0.0,"test_acc":1}\n' + GOOD,
    "no uid": b'{"iteration":1,"test_acc":1}\n' + GOOD,
    "huge uid": b'{"iteration":1,"uid":99999999999999999999}\n' + GOOD,
    "blank": b"\n" + GOOD + b"  \n" + GOOD,
    "two in a line": GOOD.strip() + GOOD + b"\n",
    "over two lines": b'{"iteration":1,\n"uid":4}\n' + GOOD,
    "nested": b'{"iteration":1,"uid":0,"test_acc":1,"more":{"a":1},"list":[1]}\n',
    "twice": b'{"iteration":1,"uid":0,"test_acc":1,"test_acc":2}\n',
    "carriage return": GOOD.replace(b"\n", b"\r\n") + b'{"iteration":2,"uid":0,"a":"\\r"}\r\n',
    "not utf-8": b'{"iteration":1,"uid":0,"\xff":1}\n' + GOOD,
    "cut": GOOD + b'{"iteration":2,"uid":0}',
    "cut and closed": b'{"iteration":2,"ui\n' + GOOD,
    "nothing": b"",
    "attempt": GOOD + b'{"iteration":1,"uid":0,"attempt":1,"test_acc":1}\n' + GOOD,
    "no number": b'{"iteration":1,"uid":0,"attempt":"x"}\n' + GOOD,
    "machine": b'{"iteration":1,"uid":0,"machine":7,"rank":"x","test_acc":1}\n',
    "empty": b"{}\n" + GOOD,
}


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
def test_strange_files_are_read_as_by_the_core(tmp_path: Path, content: bytes) -> None:
    folder = _machine(tmp_path, records_0=content, records_1=GOOD.replace(b":0", b":5"))
    _check(folder)
    broken = read_machines({0: folder}).broken
    before = content.count(b'"iteration":-1') + content.count(b'"uid":' + b"9" * 20)
    assert broken == machine_records(folder).broken + before


_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
_names = st.sampled_from(["iteration", "uid", "test_acc", "train_loss", "attempt", "mine"])
_rows = st.fixed_dictionaries(
    {"iteration": st.integers(0, 3), "uid": st.integers(-2, 3)},
    optional={
        "attempt": st.integers(0, 2),
        "test_acc": st.floats(),
        "mine": st.floats() | st.integers(-5, 5),
        "phase": st.text(max_size=2),
    },
)
_lines = st.one_of(
    _rows.map(lambda row: json.dumps(row).encode()),
    st.dictionaries(_names, _values).map(lambda row: json.dumps(row).encode()),
    st.binary(max_size=20),
)


@settings(max_examples=150)
@given(
    st.lists(st.lists(_lines, max_size=8), min_size=1, max_size=3), st.sampled_from([b"", b"\n"])
)
def test_any_files_are_read_as_by_the_core(files: list[list[bytes]], end: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        contents = {f"records_{i}": b"\n".join(lines) + end for i, lines in enumerate(files)}
        _check(_machine(Path(root), **contents))


@settings(max_examples=60)
@given(st.lists(_rows, max_size=12), st.integers(1, 90))
def test_where_a_block_ends_does_not_matter(rows: list[dict[str, Any]], size: int) -> None:
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_BLOCK", size)
        content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        _check(_machine(Path(root), records_0=content))


def test_whole_blocks_are_read_without_a_python_object_per_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"iteration": t, "uid": u, "mine": math.nan} for t in range(50) for u in range(4)]
    content = "".join(json.dumps(row) + "\n" for row in lines)
    folder = _machine(tmp_path, records_0=content.encode() + b'{"iteration":50')
    monkeypatch.setattr(records, "parse_record", None)
    found = read_machines({0: folder})
    assert (found.table.num_rows, found.broken, metrics(found.table)) == (200, 1, ["mine"])
    assert found.table["iteration"].to_pylist() == [t for t in range(50) for _ in range(4)]


def test_the_later_machine_and_the_newer_attempt_count(tmp_path: Path) -> None:
    def line(acc: float, **more: int) -> bytes:
        return json.dumps({"iteration": 1, "uid": 0, **more, "test_acc": acc}).encode() + b"\n"

    run = RunFolder(tmp_path)
    for machine, content in ((0, line(1) + line(2, attempt=2) + line(3, attempt=1)), (3, line(4))):
        run.machine(machine).root.mkdir()
        run.machine(machine).records(0).write_bytes(content)
    only = read_machines({0: run.machine(0)})
    assert (only.table["test_acc"].to_pylist(), only.twice) == ([2.0], 0)
    both = read_machines(run.machines())
    assert (both.table["test_acc"].to_pylist(), both.twice) == ([4.0], 1)
    assert both.table["machine"].to_pylist() == [3]
