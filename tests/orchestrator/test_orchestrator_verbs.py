"""Verbs on runs of this computer, and doctor."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path

import orchestrator_fakes as fakes
import pytest
from orchestrator_fakes import Make, await_true

from decentralizepy.runfolder import RunFolder
from orchestrator.backends.base import Reservation
from orchestrator.cli import main
from orchestrator.running import verbs
from orchestrator.running.experiment import Setting, run_experiment
from orchestrator.running.ledger import Ledger
from orchestrator.running.record import read_record
from orchestrator.text import Screen

Build = Callable[..., Setting]


def only_run(path: Path) -> Path:
    (folder,) = (path.parent / "results").iterdir()
    return folder


def test_a_run_that_is_complete(
    make: Make, setting: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    given, path = setting(), make()
    run_experiment(path, given, Screen(io.StringIO()))
    folder = str(only_run(path))
    assert main(["status", folder, "--json"], given) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["iteration"], told["supervised"]) == ("complete", 10, False)
    assert told["reservation"] is None
    assert main(["status", folder], given) == 0
    assert "state     complete, iteration 10 of 10, accuracy 0.50" in capsys.readouterr().out
    assert main(["collect", folder], given) == 0
    assert main(["clean", folder], given) == 0
    assert "nothing was held" in capsys.readouterr().out
    assert main(["resume", folder], given) == 2
    assert main(["attach", folder], given) == 2
    assert main(["status", str(path.parent)], given) == 2
    assert main(["status"], given) == 2


def test_the_live_view_again_while_another_process_supervises(
    make: Make, setting: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = tmp_path / "gate"
    given, path = setting("gated", DECENTRALIZEPY_GATE=str(gate)), make()
    run = threading.Thread(target=run_experiment, args=(path, given, Screen(io.StringIO())))
    run.start()
    try:
        assert await_true(lambda: len(list(tmp_path.glob("results/*/*/status.json"))) == 2, 30)
        found = verbs.find_run(only_run(path), given)
        assert verbs.state_of(found) == "running" and verbs.is_supervised(found.folder)
        threading.Timer(0.5, gate.touch).start()
        said = io.StringIO()
        verbs.follow(found, Screen(said))
        assert "iteration 10/10" in said.getvalue()
        assert "its last event was 'released'" in said.getvalue()
    finally:
        gate.touch()
        run.join()


def test_what_a_ledger_says(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    held = Reservation("small-1", "ssh", ("7",), ("a", "b"), 12.5, {"x": 1})
    place = {"host": "a", "address": "1.2.3.4", "root": "/r", "workers": 2, "core": ["py"]}
    ledger.append("planned")
    assert not read_record(ledger.path).held
    ledger.append("reserving", name="small-1", hash="1")
    assert read_record(ledger.path).asked and read_record(ledger.path).reservation is None
    ledger.append("reserved", reservation=held.as_dict() | {"later": "unknown"})
    assert read_record(ledger.path).reservation == held
    assert not read_record(ledger.path).under_way
    ledger.append("submitted", places=[place, place], offset=9)
    ledger.append("started")
    ledger.append("restarted", machine=1, cause="gone", restart=1, most=3)
    record = read_record(ledger.path)
    assert record.under_way and record.number == 1 and record.offset == 9
    assert [p.host for p in record.places] == ["a", "a"] and record.losses[0].restart == 1
    with ledger.path.open("a") as out:
        out.write('{"event":"of a later version","time":"now"}\n')
    ledger.append("finished", seconds=3.5)
    record = read_record(ledger.path)
    assert record.finished == 3.5 and not record.collected and not record.under_way
    ledger.append("collected")
    ledger.append("released")
    record = read_record(ledger.path)
    assert record.collected and not record.held and record.last == "released"


def test_doctor(make: Make, setting: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"], setting()) == 0
    assert main(["doctor", str(make()), "--json"], setting()) == 0
    rows = json.loads(capsys.readouterr().out.partition("\n[")[2].join(["[", ""]))
    assert {"configuration", "address 127.0.0.1", "disk"} <= {row["name"] for row in rows}
    unknown = make(BACKEND="ssh", HOSTS=["nowhere.invalid"], NB_MACHINE=1, SSH_OPTIONS=["-4"])
    assert main(["doctor", str(unknown)], setting()) == 3
    assert "host nowhere.invalid      NOT OK  ssh: Could not resolve" in capsys.readouterr().out
    assert main(["doctor", str(make(BACKEND="ssh"))], setting()) == 3
    assert "NOT OK  BACKEND 'ssh'" in capsys.readouterr().out


def test_nothing_of_a_run_is_needed_to_read_its_folder(make: Make, setting: Build) -> None:
    given, path = setting(), make()
    run_experiment(path, given, Screen(io.StringIO()))
    folder = RunFolder(only_run(path))
    for name in ("small.json", "small.ini", "ring.edges"):
        path.with_name(name).unlink()
    assert verbs.status(verbs.find_run(folder.root, given))["state"] == "complete"
    assert fakes.REPOSITORY.is_dir()
