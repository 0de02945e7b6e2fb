"""Machines that die with a fake core: by ON_LOSS started again, left out, or the end."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from orchestrator_fakes import Make

from decentralizepy.errors import RunError
from decentralizepy.runfolder import RunFolder
from orchestrator.running.closing import closing_lines
from orchestrator.running.experiment import Setting, run_experiment
from orchestrator.running.ledger import read_ledger
from orchestrator.running.losses import MOST_RESTARTS
from orchestrator.running.reality import measure, measured_cost, read_rows, read_story
from orchestrator.text import Screen

Build = Callable[..., Setting]
WAIT = {"ON_LOSS": "wait", "CHECKPOINT_AFTER": 5}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake machine that would go on for ever is given less time to end by itself."""
    monkeypatch.setattr("orchestrator.running.losses.LINGER_S", 0.5)


def ledger(path: Path) -> list[dict[str, Any]]:
    (folder,) = (path.parent / "results").iterdir()
    return read_ledger(RunFolder(folder).ledger)


def test_wait_starts_a_killed_machine_again(make: Make, setting: Build) -> None:
    path, out = make(**WAIT), io.StringIO()
    outcome = run_experiment(path, setting("dies-once"), Screen(out))
    assert outcome.complete
    (entry,) = [entry for entry in ledger(path) if entry["event"] == "restarted"]
    assert entry["machine"] == 1
    assert entry["restart"] == 1
    said = "note: machine 1 (127.0.0.2) was lost, killed by SIGKILL"
    assert out.getvalue().count(said) == 1
    assert "started again (1 of at most 3 times)" in out.getvalue()


def test_without_the_policy_the_same_loss_is_the_end(make: Make, setting: Build) -> None:
    with pytest.raises(RunError, match=r"machine 1 .* failed, killed by SIGKILL"):
        run_experiment(make(), setting("dies-once"), Screen(io.StringIO()))


def test_wait_has_an_end(make: Make, setting: Build) -> None:
    path = make(**WAIT)
    with pytest.raises(RunError) as error:
        run_experiment(path, setting("dies"), Screen(io.StringIO()))
    assert str(error.value).startswith("machine 1 (127.0.0.2) failed, killed by SIGKILL")
    assert str(error.value).count("before, machine 1") == MOST_RESTARTS
    assert "--resume" not in str(error.value), "no checkpoint was ever complete"
    told = [entry["event"] for entry in ledger(path)]
    assert told.count("restarted") == MOST_RESTARTS
    assert told[-3:] == ["failed", "collected", "released"]


def test_drop_goes_on_without_it(make: Make, setting: Build) -> None:
    path, out = make(ON_LOSS="drop"), io.StringIO()
    outcome = run_experiment(path, setting("dies"), Screen(out))
    assert [e["machine"] for e in ledger(path) if e["event"] == "lost"] == [1]
    assert out.getvalue().count("the run goes on without it") == 1
    assert "iteration 10/10" in out.getvalue()
    assert outcome.missing == ()


def test_a_machine_that_ends_by_itself_is_not_started_again(make: Make, setting: Build) -> None:
    path = make(**WAIT)
    with pytest.raises(RunError, match=r"^machine 1 .* failed, exit code 5: .*the disk is full"):
        run_experiment(path, setting("fail"), Screen(io.StringIO()))
    assert "restarted" not in [entry["event"] for entry in ledger(path)]


def test_drop_is_no_help_where_machine_0_ends_too(make: Make, setting: Build) -> None:
    with pytest.raises(RunError, match=r"machine 0 .* failed, exit code 5"):
        run_experiment(make(ON_LOSS="drop"), setting("killed"), Screen(io.StringIO()))


def test_who_left_is_told_in_the_end(make: Make, setting: Build) -> None:
    path = make(ON_LOSS="drop")
    outcome = run_experiment(path, setting("ok"), Screen(io.StringIO()))
    why = "machine 1 is gone (nodes 5, 6, 7, 8)"
    epoch = {"before": 7, "left": [5, 6, 7, 8], "why": why}
    notes = [f"{why}: left before iteration 8", "resuming after iteration 5"]
    for machine in outcome.folder.machines().values():
        machine.run.write_text(json.dumps({"membership": [epoch], "notes": notes}))
    rows = read_rows(outcome.folder)
    reality = measure(outcome.plan, rows, 3.0, read_story(outcome.folder))
    assert reality.nodes_left == 4
    assert reality.bytes_as_planned is None
    assert measured_cost(outcome.plan, rows, reality) is None
    lines = list(closing_lines(replace(outcome, reality=reality)))
    assert f"left      before iteration 8: {why}" in lines
    assert "notes     resuming after iteration 5" in lines
    assert any("with 4 nodes fewer than planned at the end" in line for line in lines)
