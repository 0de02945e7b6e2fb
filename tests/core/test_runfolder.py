"""Files of a run: whatever kills the writer, the reader has every complete row."""

import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy import runfolder
from decentralizepy.files import write_json
from decentralizepy.runfolder import (
    LEGACY_RESULTS,
    RECORD_COLUMNS,
    WHERE_RECORDED,
    MachineFolder,
    RecordWriter,
    RunFolder,
    final_records,
    has_records,
    legacy_results,
    machine_records,
    read_records,
    weights_name,
    write_legacy_results,
)

ALWAYS = [name for name in LEGACY_RESULTS.values() if name not in WHERE_RECORDED]
FULL = dict.fromkeys(RECORD_COLUMNS, 1)


def record(uid=0, iteration=1, **more):
    return {"iteration": iteration, "uid": uid, **more}


def write(path, records):
    writer = RecordWriter(path)
    for row in records:
        writer.append(row)
    writer.close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- records


def test_records_come_back_as_they_went(tmp_path):
    rows = [FULL, record(3, 2, test_acc=93.25), record(4, 2, wire_bytes=1 << 40)]
    write(tmp_path / "new" / "records_0.jsonl", rows)
    found = read_records(tmp_path / "new" / "records_0.jsonl")
    assert found.rows == rows and found.broken == 0
    assert list(found.rows[0]) == list(RECORD_COLUMNS)


def test_numbers_that_json_has_not(tmp_path):
    values = {"test_loss": math.nan, "train_loss": math.inf, "test_acc": -math.inf}
    write(tmp_path / "r", [record(**values)])
    (row,) = read_records(tmp_path / "r").rows
    assert math.isnan(row["test_loss"]) and row["train_loss"] == math.inf == -row["test_acc"]


def test_other_columns_follow_the_known_ones(tmp_path):
    own = {"staleness": 2, "test_rmse": math.inf, "fresh": True, "phase": "warm"}
    write(tmp_path / "r", [{**own, "test_acc": 1.5, "uid": -1, "iteration": 3}])
    (row,) = read_records(tmp_path / "r").rows
    assert list(row) == ["iteration", "uid", "test_acc", *own]
    assert row == {"iteration": 3, "uid": -1, "test_acc": 1.5, **own}


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, b"x", 1j, math])
def test_a_value_that_is_no_number_and_no_text_is_refused(tmp_path, value):
    writer = RecordWriter(tmp_path / "r")
    with pytest.raises(ValueError, match="column colour: "):
        writer.append(record(colour=value))
    writer.close()
    assert (tmp_path / "r").read_bytes() == b""


@pytest.mark.parametrize("name", ["", "test acc", "a\n"])
def test_a_name_with_blanks_is_refused(tmp_path, name):
    writer = RecordWriter(tmp_path / "r")
    with pytest.raises(ValueError, match="a name has no blanks"):
        writer.append(record(**{name: 1}))
    writer.close()
    assert (tmp_path / "r").read_bytes() == b""


def test_killed_at_any_byte_all_complete_rows_are_there(tmp_path):
    rows = [record(uid, 1, test_acc=uid + 0.5) for uid in range(4)]
    path, cut = tmp_path / "r", tmp_path / "cut"
    write(path, rows)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        cut.write_bytes(whole[:size])
        found = read_records(cut)
        complete = whole[:size].count(b"\n")
        assert found.rows == rows[:complete]
        assert found.broken == (not whole[:size].endswith(b"\n") and size > 0)
        write(cut, [record(9, 9)])  # a writer that comes later loses nothing of its own
        again = read_records(cut)
        assert again.rows[-1] == record(9, 9) and len(again.rows) >= complete + 1
        assert again.rows[:complete] == rows[:complete] and again.broken <= found.broken


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[1, 2]",
        b"7",
        b"null",
        b'{"iteration": 1}',
        b'{"iteration": 1, "uid": "0"}',
        b'{"iteration": true, "uid": 0}',
        b'{"iteration": 1.0, "uid": 0}',
        b"\xff\xfe\x00",
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"iteration": ' + b"1" * 5000 + b', "uid": 0}',
        b"\x00\x00\x00\x00",
    ],
)
def test_broken_lines_are_left_out_and_counted(tmp_path, line):
    path = tmp_path / "records_0.jsonl"
    good = json.dumps(record(1)).encode()
    path.write_bytes(good + b"\n\n" + line + b"\n  \n" + good + b"\r\n")
    found = read_records(path)
    assert found.rows == [record(1)] * 2 and found.broken == 1


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_raise(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(data)
    assert read_records(path).broken >= 0


def test_a_full_disk_leaves_earlier_rows_and_later_ones(tmp_path):
    """A limit on the size of files stands in for a full disk: half a line is written, then none."""
    code = """
        import resource, signal, sys
        from pathlib import Path
        from decentralizepy.runfolder import RecordWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        writer = RecordWriter(Path(sys.argv[1]))
        written = 0
        try:
            while True:
                writer.append({"iteration": written, "uid": 0, "test_acc": 50.0})
                written += 1
        except OSError as error:
            print(written, error.errno)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        writer.append({"iteration": 1000, "uid": 0})
    """
    path = tmp_path / "records_0.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    written = int(done.stdout.split()[0])
    found = read_records(path)
    assert written > 10 and found.broken == 1  # the line that was cut
    assert [row["iteration"] for row in found.rows] == [*range(written), 1000]


def test_records_of_a_machine_are_merged_and_the_last_writer_wins(tmp_path):
    folder = MachineFolder(tmp_path)
    write(folder.records(0), [record(1, 1, test_acc=1.0), record(0, 2), record(0, 1)])
    write(folder.records(10), [record(2, 1)])
    write(folder.records(2), [record(1, 1, test_acc=2.0)])
    with folder.records(2).open("ab") as out:
        out.write(b"half a li")
    found = machine_records(folder)
    keys = [(row["uid"], row["iteration"]) for row in found.rows]
    assert keys == [(0, 1), (0, 2), (1, 1), (2, 1)] and found.broken == 1
    assert found.rows[2]["test_acc"] == 2.0


def test_whether_there_are_records_is_told_by_the_first(tmp_path, monkeypatch):
    folder = MachineFolder(tmp_path)
    assert not has_records(folder)
    folder.records(0).write_text('{"iteration":1,"uid":0}')  # cut
    folder.records(1).write_text("\nnonsense\n")
    assert not has_records(folder)
    with folder.records(1).open("a") as out:
        out.write('{"iteration":1,"uid":0}\n' * 1000)
    parsed = []
    parse = runfolder.parse_record
    monkeypatch.setattr(runfolder, "parse_record", lambda line: parsed.append(1) or parse(line))
    assert has_records(folder) and len(parsed) == 2


def test_final_records_are_those_of_the_merged_records(tmp_path, monkeypatch):
    """Lines from other hands, a resumed attempt on other workers, and a cut line are among them."""
    folder = MachineFolder(tmp_path)
    rows = [record(uid, t, test_acc=10.0 * uid + t) for t in (1, 2, 3) for uid in range(20)]
    rows += [record(uid, 4, train_loss=0.5) for uid in range(19)]
    write(folder.records(0), rows)
    write(folder.records(1), [record(3, 3, attempt=1, test_acc=7.0), record(5, 2, attempt=1)])
    with folder.records(1).open("a") as out:
        out.write('{"uid": -1, "iteration": 9, "test_acc": 99}\n{"iteration":9,"uid":4,"te\n')
        out.write('{"iteration":9,"uid":5,"test_acc":1}')
    merged = machine_records(folder).rows
    last = {row["uid"]: row for row in merged}
    tested = {row["uid"]: row for row in merged if "test_acc" in row}
    expected = [*last.values(), *(row for uid, row in tested.items() if row is not last[uid])]
    parse, parsed = runfolder.parse_record, []
    monkeypatch.setattr(runfolder, "parse_record", lambda line: parsed.append(1) or parse(line))
    found = final_records(folder)
    key = json.dumps
    assert sorted(found, key=key) == sorted(expected, key=key)
    assert len(parsed) < len(rows)


# ---------------------------------------------------------------- the reference's results


def test_the_references_results_are_derived(tmp_path):
    folder = MachineFolder(tmp_path)
    write(folder.records(0), [
        record(8, 1, rank=0, train_loss=2.5, test_loss=2.25, test_acc=10.0,
               total_bytes=300, total_meta=100, total_data=200, wire_bytes=5, elapsed_s=0.5),
        record(8, 5, rank=0, train_loss=math.nan, total_bytes=600),
        record(9, 1, rank=1, total_bytes=1),
    ])  # fmt: skip
    assert write_legacy_results(folder) == [folder.results(0), folder.results(1)]
    found = json.loads((tmp_path / "0_results.json").read_text())
    assert list(found) == ALWAYS
    assert math.isnan(found["train_loss"].pop("5"))
    assert found == {
        "train_loss": {"1": 2.5},
        "test_loss": {"1": 2.25},
        "test_acc": {"1": 10.0},
        "total_bytes": {"1": 300, "5": 600},
        "total_meta": {"1": 100},
        "total_data_per_n": {"1": 200},
    }
    second = json.loads((tmp_path / "1_results.json").read_text())
    assert second["total_bytes"] == {"1": 1} and second["test_acc"] == {}


def test_results_of_a_validation_set_are_there_if_it_is(tmp_path):
    rows = [record(0, 1, rank=0, test_acc=1.0, validation_loss=0.5, validation_acc=7.0)]
    found = legacy_results(rows)
    assert list(found) == list(LEGACY_RESULTS.values())
    assert found["validation_loss"] == {"1": 0.5} and found["validation_acc"] == {"1": 7.0}


def test_results_need_no_rank(tmp_path):
    folder = MachineFolder(tmp_path)
    rows = [record(3, rank=None), record(4, rank="x"), record(5)]
    folder.records(0).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [path.name for path in write_legacy_results(folder)] == [
        "3_results.json",
        "4_results.json",
        "5_results.json",
    ]


def test_a_folder_without_records_has_no_results(tmp_path):
    assert write_legacy_results(MachineFolder(tmp_path)) == []
    assert legacy_results([]) == {name: {} for name in ALWAYS}


# ---------------------------------------------------------------- names


def test_names_of_a_machines_files():
    folder = RunFolder(Path("run")).machine(3)
    found = [folder.args, folder.run, folder.status, folder.records(2), folder.digests(2)]
    assert [path.as_posix() for path in [*found, folder.results(7), folder.log(7)]] == [
        "run/machine3/args.json",
        "run/machine3/run.json",
        "run/machine3/status.json",
        "run/machine3/records_2.jsonl",
        "run/machine3/digests_2.jsonl",
        "run/machine3/7_results.json",
        "run/machine3/7.log",
    ]
    assert weights_name(99, 5) == "99_weight_5.safetensors"


def test_names_of_a_runs_files():
    run = RunFolder(Path("run"))
    found = [run.config, run.ini, run.addresses, run.plan, run.ledger]
    assert [path.name for path in found] == [
        "g5k_config.json", "config.ini", "ip.json", "plan.json", "ledger.jsonl"
    ]  # fmt: skip


def test_folders_are_found_in_the_order_of_their_numbers(tmp_path):
    for name in ("machine10", "machine2", "machine0", "machines", "machine_1", "machine1.old"):
        (tmp_path / name).mkdir()
    assert list(RunFolder(tmp_path).machines()) == [0, 2, 10]
    folder = RunFolder(tmp_path).machine(2)
    assert not folder.holds_a_run()
    for rank in (10, 9):
        folder.results(rank).write_text("{}")
        folder.records(rank).write_text("")
    assert [path.name for path in folder.all_results()] == ["9_results.json", "10_results.json"]
    assert [p.name for p in folder.all_records()] == ["records_9.jsonl", "records_10.jsonl"]
    assert folder.holds_a_run()


def test_flags_alone_make_a_run(tmp_path):
    write_json(MachineFolder(tmp_path).args, {})
    assert MachineFolder(tmp_path).holds_a_run()
