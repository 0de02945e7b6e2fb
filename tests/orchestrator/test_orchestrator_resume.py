"""Runs that are killed, resumed and disturbed: the real core on handwritten digits."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orchestrator_fakes as fakes
import pytest
from orchestrator_fakes import REPOSITORY, Make, alive, await_true, read_when_there

from decentralizepy.errors import ConfigError, RunError
from decentralizepy.runfolder import RunFolder
from orchestrator.backends.local import LocalBackend
from orchestrator.cli import main
from orchestrator.hosts.base import Host
from orchestrator.planning.plan import Plan
from orchestrator.running.experiment import (
    Outcome,
    Setting,
    make_resumed_plan,
    preview,
    resume_experiment,
    run_experiment,
)
from orchestrator.running.ledger import Ledger, read_ledger
from orchestrator.running.resume import former_offset
from orchestrator.text import Screen

Build = Callable[..., Setting]
SIZE = {"NB_ITERATION": 30, "TEST_AFTER": 10, "CHECKPOINT_AFTER": 5}
#: Nobody gets past iteration 13: a good moment to be killed, however fast the computer is.
STUCK = [{"partition": [[0, 1, 2, 3, 4], [5, 6, 7, 8]], "rounds": [13, 13]}]
KILL = [{"kill": {"machine": 1}, "round": 13}]
#: The real script, without rehearsals.
SCRIPT = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "import orchestrator.running.experiment as e; "
    "e.rehearse = lambda *_, **__: None; runpy.run_path('g5k_execution.py', run_name='__main__')"
)


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """The real core, without rehearsals, and without tables."""
    monkeypatch.setattr("orchestrator.running.experiment.rehearse", lambda *_, **__: None)
    results = fakes.script(tmp_path, "results_room.py", fakes.RESULTS)
    return Setting(LocalBackend(), results=results, costs=tmp_path / "costs.json")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Final parameters of a run to which nothing happened, all on one machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    results = fakes.script(folder, "results_room.py", fakes.RESULTS)
    setting = Setting(LocalBackend(), results=results, costs=folder / "costs.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.running.experiment.rehearse", lambda *_, **__: None)
        outcome = run_experiment(written(folder, NB_MACHINE=1), setting, Screen(io.StringIO()))
    found = weights(outcome.folder)
    assert len(found) == 9
    return found


def written(folder: Path, plan: Any = None, **changes: Any) -> Path:
    """The files of an experiment with a fault plan."""
    (folder / "small.ini").write_text(fakes.INI)
    (folder / "ring.edges").write_text(fakes.ring(9))
    (folder / "plan of faults.json").write_text(json.dumps(plan))
    more = {} if plan is None else {"FAULTS": "plan of faults.json"}
    value = fakes.values(**SIZE, LOCAL_SAVE_DIR=str(folder / "results"), **more, **changes)
    (folder / "small.json").write_text(json.dumps(value))
    return folder / "small.json"


def weights(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.root.glob("machine*/*_weight_*")}


def events(folder: RunFolder) -> list[str]:
    return [entry["event"] for entry in read_ledger(folder.ledger)]


def run(path: Path, setting: Setting) -> tuple[Outcome, str]:
    out = io.StringIO()
    return run_experiment(path, setting, Screen(out)), out.getvalue()


def offspring(pid: int) -> list[int]:
    """A process and all that it started, by /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def test_killed_with_all_it_started_and_resumed_on_other_ports(
    tmp_path: Path, real: Setting, undisturbed: dict[str, bytes]
) -> None:
    path = written(tmp_path, STUCK)
    command = [sys.executable, "-c", SCRIPT, str(REPOSITORY), str(path)]
    started = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    sets = "*/machine*/checkpoints/10/set.json"
    assert await_true(lambda: len(list((tmp_path / "results").glob(sets))) == 2, 60)
    doomed = offspring(started.pid)
    assert len(doomed) >= 7, "orchestrator, two guards, two supervisors, two workers"
    for pid in doomed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    started.wait()
    assert await_true(lambda: not any(map(alive, doomed)))

    (root,) = (tmp_path / "results").iterdir()
    folder = RunFolder(root)
    assert "started" in events(folder) and "finished" not in events(folder)
    value = json.loads(folder.config.read_text())
    folder.config.write_text(json.dumps(value | {"FAULTS": None}))
    assert (root / "run.key").exists(), "nobody was left to remove it"
    offset = former_offset(folder)
    assert offset is not None
    out = io.StringIO()
    with socket.create_server(("127.0.0.1", offset)):
        outcome = resume_experiment(root, real, Screen(out))
    assert former_offset(folder) != offset
    assert (root / "run.key").exists() is False, "the killed start's was replaced, and removed"
    assert weights(folder) == undisturbed
    assert events(folder)[-9:] == [
        "resumed", "released", "reserving", "reserved", "submitted", "started", "finished",
        "collected", "released",
    ]  # fmt: skip
    assert out.getvalue().count("note: resuming after iteration 10") == 1
    assert "resuming after iteration 10" in outcome.reality.notes
    assert outcome.reality.bytes_as_planned
    with pytest.raises(ConfigError, match="this run is complete"):
        resume_experiment(root, real, Screen(io.StringIO()))


def test_wait_brings_a_killed_machine_back_with_the_same_bits(
    tmp_path: Path, real: Setting, undisturbed: dict[str, bytes]
) -> None:
    outcome, said = run(written(tmp_path, KILL, ON_LOSS="wait"), real)
    assert weights(outcome.folder) == undisturbed
    assert events(outcome.folder).count("restarted") == 1
    assert "machine 1 (127.0.0.2) was lost, killed by SIGKILL" in said
    assert said.count("all go back to the newest checkpoint") == 1
    assert (outcome.folder.machine(1).root / "plan of faults.json").is_file()


def test_drop_ends_well_without_a_killed_machine(tmp_path: Path, real: Setting) -> None:
    outcome, said = run(written(tmp_path, KILL, ON_LOSS="drop"), real)
    assert outcome.complete
    assert events(outcome.folder).count("lost") == 1
    (departure,) = outcome.reality.left
    assert departure.uids == (5, 6, 7, 8)
    assert "iteration 30/30" in said
    assert outcome.reality.accuracy is not None
    assert outcome.reality.accuracy.nodes == 5


# ------------------------------------------------------------------ with a fake core


@pytest.fixture
def hanging(make: Make, setting: Build) -> Iterator[subprocess.Popen[bytes]]:
    """A run of the fake core that never ends, in a process of its own."""
    code = (
        "import sys, pathlib; from orchestrator.backends.local import LocalBackend; "
        "from orchestrator.cli import main; from orchestrator.running.experiment import Setting; "
        "core = tuple(sys.argv[3:]); sys.exit(main([sys.argv[1]], Setting("
        "backend=LocalBackend(core=core, grace_s=0.3), costs=pathlib.Path(sys.argv[2]))))"
    )
    path = make(CHECKPOINT_AFTER=5)
    backend = setting("stubborn").backend
    assert isinstance(backend, LocalBackend)
    started = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(path.parent / "costs.json"), *backend.core],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    read_when_there(path.parent / "results", 2)
    yield started
    started.kill()
    started.wait()


def test_a_run_that_goes_on_is_not_resumed_and_one_that_was_killed_is(
    tmp_path: Path, setting: Build, hanging: subprocess.Popen[bytes]
) -> None:
    (root,) = (tmp_path / "results").iterdir()
    found = fakes.pids_of(root)
    given = setting()
    with pytest.raises(ConfigError, match="is still going on"):
        resume_experiment(root, replace(given, patience_s=0.2), Screen(io.StringIO()))
    hanging.kill()
    hanging.wait()
    offset = former_offset(RunFolder(root))
    outcome = resume_experiment(root, given, Screen(io.StringIO()))
    assert not any(map(alive, found)), "it waited until the guards had ended everything"
    assert outcome.complete
    assert former_offset(RunFolder(root)) == offset
    assert events(RunFolder(root)).count("resumed") == 1


def test_only_machines_that_had_begun_are_told_to_go_on(make: Make, setting: Build) -> None:
    outcome, _ = run(make(), setting())
    folder = outcome.folder
    folder.ledger.unlink()
    Ledger(folder.ledger).append("planned")
    folder.machine(0).records(0).unlink()
    _, inputs, planned = make_resumed_plan(folder.root, setting())
    assert planned.resumed == {1}
    shown = preview(inputs, planned, setting(), folder)
    commands = [shown.command(machine) for machine in range(2)]
    assert ["--resume" in command for command in commands] == [False, True]
    assert "there are no checkpoints (CHECKPOINT_AFTER): from the start" in planned.notes


def test_what_cannot_be_resumed(
    tmp_path: Path, make: Make, setting: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    assert main(["--resume", str(folder), "--dry-run"], setting()) == 2
    assert main(["--resume", str(folder / "absent")], setting()) == 2
    told = capsys.readouterr().err
    assert "has no g5k_config.json, config.ini, plan.json, ledger.jsonl" in told
    assert "is not a folder: name a run folder" in told
    with pytest.raises(SystemExit):
        main(["--resume", str(folder), str(make())], setting())


@pytest.mark.parametrize("there", [False, True])
def test_resuming_is_advised_where_there_is_a_checkpoint(
    make: Make, setting: Build, there: bool
) -> None:
    """The first set of machine 0 is complete only in one of the two runs."""
    given, out = setting("fail"), io.StringIO()
    if there:
        backend = given.backend
        assert isinstance(backend, LocalBackend)
        given = replace(given, backend=Saving(backend.core, backend.grace_s, backend.ours))
    with pytest.raises(RunError) as error:
        run_experiment(make(CHECKPOINT_AFTER=5), given, Screen(out))
    assert ("to go on from its newest checkpoint" in str(error.value)) == there
    assert "tables of what was recorded until then" in str(error.value)


class Saving(LocalBackend):
    def place(self, plan: Plan, hosts: Sequence[Host], folder: RunFolder, former: Any) -> Any:
        mark = folder.machine(0).checkpoints / "5" / "set.json"
        mark.parent.mkdir(parents=True)
        mark.write_text("{}")
        return super().place(plan, hosts, folder, former)


@pytest.mark.parametrize(
    ("name", "old", "new", "what"),
    [
        ("small.ini", "lr = 0.05", "lr = 0.06", "the INI"),
        ("ring.edges", "8 0\n", "8 3\n", "the graph"),
    ],
)
def test_a_run_whose_files_were_changed_is_refused_before_anything_is_written(
    make: Make, setting: Build, capsys: pytest.CaptureFixture[str],
    name: str, old: str, new: str, what: str,
) -> None:  # fmt: skip
    """And what is refused is not advised."""
    outcome, _ = run(make(), setting())
    folder, plan = outcome.folder, outcome.plan
    folder.ledger.unlink()
    Ledger(folder.ledger).append("planned")
    began = {"ini": plan.files["config.ini"], "graph": {"sha256": plan.graph["digest"]}}
    folder.machine(0).run.write_text(json.dumps(began))
    make_resumed_plan(folder.root, setting())  # nothing has changed but, perhaps, the port
    text = (folder.root / name).read_text()
    assert old in text
    (folder.root / name).write_text(text.replace(old, new))
    kept = folder.ini.read_text()
    assert main(["--resume", str(folder.root)], setting()) == 2
    said = capsys.readouterr().err
    assert f"{what} changed since this run began: undo that, or start a new run" in said
    assert "to go on" not in said and "--resume" not in said
    assert folder.ini.read_text() == kept


def test_what_a_machine_refuses_is_a_usage_error_without_advice(make: Make, setting: Build) -> None:
    with pytest.raises(ConfigError, match="exit code 2: another experiment") as error:
        run_experiment(make(CHECKPOINT_AFTER=5), setting("refuse"), Screen(io.StringIO()))
    assert "to go on" not in str(error.value)
