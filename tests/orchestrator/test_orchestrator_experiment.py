"""The whole flow with a fake core: what it leaves, and that nothing is left running."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import orchestrator_fakes as fakes
import pytest
from orchestrator_fakes import REPOSITORY, Make, alive, await_true, read_when_there

from decentralizepy.errors import ConfigError, RunError
from decentralizepy.registry import Target
from decentralizepy.runfolder import RunFolder
from orchestrator.backends import ports
from orchestrator.backends.base import Note, Request, Reservation
from orchestrator.backends.local import LocalBackend
from orchestrator.errors import RefusedError
from orchestrator.hosts.base import Host, Job
from orchestrator.hosts.local import LocalHost
from orchestrator.planning.costs import read_costs
from orchestrator.planning.placed import Place
from orchestrator.planning.plan import Plan
from orchestrator.running.closing import closing_lines
from orchestrator.running.experiment import (
    Outcome,
    Setting,
    create_run_folder,
    make_plan,
    make_resumed_plan,
    resume_experiment,
    run_experiment,
    run_name,
    summary,
)
from orchestrator.running.ledger import read_ledger
from orchestrator.text import Screen

Build = Callable[..., Setting]
WEIRD = 'a b\'s "c"; d\n$(e) é'


def run(path: Path, setting: Setting) -> tuple[Outcome, str]:
    out = io.StringIO()
    return run_experiment(path, setting, Screen(out)), out.getvalue()


def only_run(path: Path) -> RunFolder:
    (folder,) = (path.parent / "results").iterdir()
    return RunFolder(folder)


def events(folder: RunFolder) -> list[str]:
    return [entry["event"] for entry in read_ledger(folder.ledger)]


def test_a_run_leaves_everything_in_one_folder(make: Make, setting: Build) -> None:
    path = make()
    outcome, said = run(path, setting())
    folder = outcome.folder.root
    assert outcome.complete
    assert folder.parent == path.parent / "results"
    assert events(outcome.folder) == [
        "planned",
        "reserving",
        "reserved",
        "submitted",
        "started",
        "finished",
        "collected",
        "released",
    ]
    names = {entry.name for entry in folder.iterdir()}
    assert names >= {"g5k_config.json", "config.ini", "ip.json", "plan.json", "ledger.jsonl",
                     "ring.edges", "machine0", "machine1", "tables", "figures"}  # fmt: skip
    assert json.loads(outcome.folder.addresses.read_text()) == {"0": "127.0.0.1", "1": "127.0.0.2"}
    assert (folder / "ring.edges").read_bytes() == path.with_name("ring.edges").read_bytes()
    assert (folder / "machine1" / "stdout.log").read_text() == "machine 1 of 2\n"
    assert "preparing 1797 digits" in said
    assert "iteration 10/10" in said


def test_plan_and_reality_stand_side_by_side(make: Make, setting: Build) -> None:
    outcome, _ = run(make(), setting())
    kept = json.loads(outcome.folder.plan.read_text())
    assert kept["reality"]["total"] == kept["traffic"]["total_bytes"] == 10 * 36 * (19240 + 128)
    assert kept["reality"]["bytes_as_planned"] is True
    assert kept["reality"]["accuracy"]["mean"] == pytest.approx(0.92)
    assert kept["commands"][1][4:6] == ["-mid", "1"]
    assert summary(outcome)["complete"] is True
    text = "\n".join(closing_lines(outcome))
    assert "0.920 mean test accuracy of 9 nodes after iteration 10 (0.900 to 0.940" in text
    assert "as planned" in text
    assert str(outcome.folder.root / "tables" / "all.csv") in text
    assert "figures (1 file)" in text


def test_the_run_refines_the_next_plan(make: Make, setting: Build) -> None:
    given = setting()
    outcome, _ = run(make(), given)
    cost = read_costs(given.costs).lookup(Target("decentralizepy.models.digits", "MLP"), None)
    assert cost.measured
    assert cost.train_s == pytest.approx(9 * 0.02 / (9 * 10 * 24))
    assert "former runs" in make_plan(make(), given)[1].estimate.basis
    assert outcome.plan.estimate.basis == "the model's class"


def test_the_resolved_configuration_runs_again(make: Make, setting: Build) -> None:
    given = setting()
    path = make()
    first, _ = run(path, given)
    for name in ("small.ini", "ring.edges"):
        path.with_name(name).unlink()
    again, _ = run(first.folder.config, given)
    assert again.plan.machines == first.plan.machines


@pytest.mark.parametrize("which", ["CONFIG_NAME", "GRAPH_FILE"])
@pytest.mark.parametrize(
    "name", ["config.ini", "ip.json", "run.key", "machine0", "plan.json", "tables", "stdout.log"]
)
def test_files_named_as_those_of_a_run_folder_are_kept_under_another_name(
    make: Make, setting: Build, which: str, name: str
) -> None:
    given, path = setting(), make()
    mine = path.with_name("small.ini" if which == "CONFIG_NAME" else "ring.edges")
    text = mine.read_text()
    if which == "CONFIG_NAME":
        text = text.replace("lr = 0.05", "lr = {{ 0.1 / 2 }}")
    mine.unlink()
    path.with_name(name).write_text(text)
    value = json.loads(path.read_text()) | {which: name, "GRAPH_TYPE": "edges"}
    path.write_text(json.dumps(value))
    first, _ = run(path, given)
    path.with_name(name).unlink()
    kept = json.loads(first.folder.config.read_text())[which]
    assert kept != name and (first.folder.root / kept).read_text() == text
    again, _ = run(first.folder.config, given)
    assert (
        again.plan.files["config.ini"].splitlines()[:20]
        == (first.plan.files["config.ini"].splitlines()[:20])
    )


def test_numbers_by_node_in_a_file_of_a_taken_name_are_refused(make: Make, setting: Build) -> None:
    path = make(ini=fakes.INI.replace("rounds = 3", "rounds = ip.json"))
    path.with_name("ip.json").write_text('{"default": 2}')
    with pytest.raises(ConfigError, match=r"small\.ini: ip\.json: 'ip\.json' means something else"):
        run(path, setting())


def test_paths_and_names_of_any_kind(tmp_path: Path, make: Make, setting: Build) -> None:
    path = make(tmp_path / WEIRD, job_name="no/such; thing\n" + "é" * 90)
    ini, graph = path.with_name(f"{WEIRD}.ini"), path.with_name(f"{WEIRD}.edges")
    path.with_name("small.ini").rename(ini)
    path.with_name("ring.edges").rename(graph)
    value = json.loads(path.read_text()) | {"CONFIG_NAME": ini.name, "GRAPH_FILE": graph.name}
    path.write_text(json.dumps(value))
    outcome, _ = run(path, setting())
    assert outcome.complete
    assert (outcome.folder.root / graph.name).is_file()
    assert "\n" not in outcome.folder.root.name


def test_a_users_own_module_is_kept(make: Make, setting: Build) -> None:
    ini = fakes.INI.replace("decentralizepy.sharing.Sharing", "mine")
    path = make(ini=ini.replace("sharing_class = Sharing", "sharing_class = Mine"))
    mine = "from helper import WEIGHT\n\n\nclass Mine:\n    weight = WEIGHT\n"
    path.with_name("mine.py").write_text(mine)
    path.with_name("helper.py").write_text("WEIGHT = 1\n")
    outcome, _ = run(path, setting())
    assert (outcome.folder.root / "mine.py").read_text() == mine
    assert (outcome.folder.root / "helper.py").read_text() == "WEIGHT = 1\n", "mine imports it"


def test_further_files_of_the_users_are_kept_and_found_again(make: Make, setting: Build) -> None:
    path, given = make(MODULES=["more/helper.py"]), setting()
    path.with_name("more").mkdir()
    (path.parent / "more" / "helper.py").write_text("x = 1\n")
    outcome, _ = run(path, given)
    assert (outcome.folder.root / "helper.py").read_text() == "x = 1\n"
    assert path.parent / "more" in outcome.plan.task.search
    (path.parent / "more" / "helper.py").unlink()
    assert run(outcome.folder.config, given)[0].complete
    path.with_name("plan.json").write_text("")
    with pytest.raises(ConfigError, match=r"MODULES: 'plan\.json' is taken"):
        run(make(MODULES=["plan.json"]), given)


OWN = """
class Rotating:
    def __init__(self, n: int): ...
"""
GRAPH = "\n[GRAPH]\ngraph_package = pack.schedule\ngraph_class = Rotating\n"


def test_a_run_without_driver_and_graph_can_be_repeated(make: Make, setting: Build) -> None:
    """What the INI names instead lies in the run folder, where it did beside the INI."""
    path = make(ini=fakes.INI + GRAPH, EVAL_FILE=None, GRAPH_FILE=None, EVALUATED_NODES=[0, 3])
    path.with_name("pack").mkdir()
    path.with_name("pack").joinpath("schedule.py").write_text(OWN)
    given = setting()
    outcome, _ = run(path, given)
    root = outcome.folder.root
    assert (root / "pack" / "schedule.py").read_text() == OWN
    kept = json.loads(outcome.folder.config.read_text())
    assert kept["GRAPH_FILE"] is None and kept["EVAL_FILE"] is None
    assert kept["EVALUATED_NODES"] == [0, 3] and not list(root.glob("*.edges"))
    (path.parent / "pack" / "schedule.py").unlink()
    again, _ = run(outcome.folder.config, given)
    assert again.complete and again.plan.config.EVALUATED_NODES == (0, 3)


def test_a_file_of_numbers_by_node_is_kept_and_found_again(make: Make, setting: Build) -> None:
    given, text = setting(), fakes.INI.replace("rounds = 3", "rounds = work/rounds.json")
    path = make(ini=text)
    path.with_name("work").mkdir()
    (path.parent / "work" / "rounds.json").write_text('{"0": 5, "default": 2}')
    outcome, _ = run(path, given)
    assert (outcome.folder.root / "work" / "rounds.json").read_text() == '{"0": 5, "default": 2}'
    (path.parent / "work" / "rounds.json").unlink()
    again, _ = run(outcome.folder.config, given)
    assert again.complete
    with pytest.raises(ConfigError, match=r"rounds, .*rounds.json: cannot be read"):
        run(path, given)


def test_run_folders_are_never_shared(make: Make, setting: Build) -> None:
    _, planned = make_plan(make(), setting())
    now = datetime(2024, 5, 1, 12, 30, 59)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: create_run_folder(planned, now).root, range(12)))
    assert len(set(made)) == 12
    assert min(made).name == run_name(planned, "20240501-123059") == "20240501-123059_small"


def test_a_save_folder_that_cannot_be(make: Make, setting: Build, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="LOCAL_SAVE_DIR: cannot make a folder"):
        run(make(LOCAL_SAVE_DIR=str(tmp_path / "file")), setting())


@pytest.mark.parametrize(
    ("mode", "error", "expected"),
    [
        ("bad-check", ConfigError, r"^[^\n]*small\.ini: \[NODE\] is odd; even it$"),
        ("bad-prepare", RunError, "prepare failed, exit code 5:\ndecentralizepy: no network"),
    ],
)
def test_what_the_rehearsal_refuses_leaves_no_folder(
    make: Make, setting: Build, mode: str, error: type[Exception], expected: str
) -> None:
    path = make()
    with pytest.raises(error, match=expected):
        run(path, setting(mode))
    assert not (path.parent / "results").exists()


@pytest.mark.parametrize(
    ("back_end", "why"),
    [
        ({"cluster": "paradoxe"}, r"credentials: write .*python-grid5000\.yaml"),
        ({"BACKEND": "slurm"}, "Slurm's commands: not found: sbatch"),
    ],
)
def test_a_place_that_cannot_be_used_from_here_is_refused(
    make: Make, setting: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    back_end: dict[str, str], why: str,
) -> None:  # fmt: skip
    """Before anything is asked for, and before there is a run folder."""
    if "cluster" in back_end:
        pytest.importorskip("enoslib")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("orchestrator.backends.slurm.shutil.which", lambda _: None)
    path = make(**back_end)
    with pytest.raises(RefusedError, match=why):
        run(path, setting())
    assert not (path.parent / "results").exists()


def test_grid5000_needs_enoslib(
    make: Make, setting: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.backends.choice.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"because cluster = 'paradoxe'\) needs EnOSlib: pip"):
        run(make(cluster="paradoxe"), setting())


def test_a_machine_that_fails_is_named_with_its_log(make: Make, setting: Build) -> None:
    path = make()
    with pytest.raises(RunError) as error:
        run(path, setting("fail"))
    message = str(error.value)
    assert message.startswith("machine 1 (127.0.0.2) failed, exit code 5: node 9 of machine 1")
    assert "Traceback: OSError: the disk is full" in message
    assert f"python -m results {only_run(path).root}" in message
    assert events(only_run(path))[-3:] == ["failed", "collected", "released"]
    assert not any(map(alive, fakes.pids_of(only_run(path).root)))


def test_a_killed_machine_is_blamed_not_those_that_missed_it(make: Make, setting: Build) -> None:
    with pytest.raises(RunError) as error:
        run(make(), setting("killed"))
    message = str(error.value)
    assert message.startswith("machine 1 (127.0.0.2) failed, killed by SIGKILL")
    assert "machine 0 ended too, exit code 5" in message


def test_a_machine_that_was_ended_by_sigterm_is_not_said_to_be_killed_by_another(
    make: Make, setting: Build
) -> None:
    with pytest.raises(
        RunError, match=r"^machine 1 \(127.0.0.2\) failed, interrupted by a sig"
    ) as e:
        run(make(), setting("interrupted"))
    assert "SIGINT" not in str(e.value)


@pytest.mark.parametrize(
    ("changes", "why"), [({"NB_ITERATION": 0}, "NB_ITERATION"), ({"TEST_AFTER": 0}, "TEST_AFTER")]
)
def test_a_run_that_records_nothing_is_complete(
    make: Make, setting: Build, changes: dict[str, int], why: str
) -> None:
    outcome, said = run(make(**changes), setting())
    assert outcome.complete
    assert outcome.reality.accuracy is None
    assert outcome.reality.bytes_as_planned is None
    assert outcome.plan.estimate.evaluation_s == 0
    assert f"note: {why} is 0: nothing is evaluated, so there will be nothing to draw" in said
    assert any("nothing to draw" in line for line in closing_lines(outcome))
    assert events(outcome.folder)[-1] == "released"


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_the_folder_and_a_remedy(
    make: Make, setting: Build, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    real = os.write

    def write(handle: int, data: bytes) -> int:
        if b'"submitted"' in bytes(data):
            raise OSError(kind, os.strerror(kind))
        return real(handle, data)

    monkeypatch.setattr("orchestrator.running.ledger.os.write", write)
    path = make()
    with pytest.raises(RunError) as error:
        run(path, setting())
    folder = only_run(path)
    assert f"cannot write {folder.root}: {os.strerror(kind)}; make room on" in str(error.value)
    assert "LOCAL_SAVE_DIR" in str(error.value)
    assert events(folder)[-3:] == ["failed", "collected", "released"]


def test_a_machine_that_had_no_room_to_say_why_it_failed(
    make: Make, setting: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make()
    with pytest.raises(RunError) as error:
        run(path, setting("fail"))
    assert "bytes are free" not in str(error.value)
    monkeypatch.setattr(
        "orchestrator.running.room.shutil.disk_usage", lambda _: SimpleNamespace(free=4096)
    )
    with pytest.raises(RunError, match=r"the disk of .*_small.* is full \(4,096 bytes are free\)"):
        run(path, setting("fail"))
    outcome, _ = run(make(), setting(results=fakes.BROKEN_RESULTS))
    assert "4,096 bytes are free" in outcome.tables.error


def test_a_full_disk_before_the_run(
    make: Make, setting: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = make()
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.running.rehearsal.write_atomic", full)
        with pytest.raises(RunError, match=r"cannot write .*No space left.* set TMPDIR to"):
            run(path, setting())
    assert not (path.parent / "results").exists()
    monkeypatch.setattr("orchestrator.running.experiment.write_atomic", full)
    with pytest.raises(RunError, match=r"cannot write .*results.*_small: No space left"):
        run(path, setting())


@pytest.mark.parametrize("there", [False, True])
def test_a_gpu_is_looked_for_before_there_is_a_run_folder(
    make: Make, setting: Build, tmp_path: Path, there: bool
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "torch.py").write_text(f"class cuda:\n    is_available = lambda: {there}\n")
    path = make(DEVICE="cuda")
    given = setting(PYTHONPATH=str(modules))
    if there:
        assert run(path, given)[0].complete
        return
    with pytest.raises(
        ConfigError, match=r"small.json: DEVICE = 'cuda': .* set \"DEVICE\": \"cpu\""
    ):
        run(path, given)
    assert not (path.parent / "results").exists()


def test_the_walltime_is_a_limit(make: Make, setting: Build) -> None:
    path = make(walltime="0:00:01")
    with pytest.raises(RunError, match=r"walltime of 0:00:01 is over: machine \d had done 1 of 10"):
        run(path, setting("stubborn"))
    found = fakes.pids_of(only_run(path).root)
    assert len(found) == 4
    assert not any(map(alive, found))


def test_tables_that_fail_do_not_lose_the_run(make: Make, setting: Build) -> None:
    outcome, _ = run(make(), setting(results=fakes.BROKEN_RESULTS))
    assert not outcome.complete
    assert "no such font" in outcome.tables.error
    assert outcome.reality.accuracy is not None


def test_ports_that_are_taken(make: Make, setting: Build) -> None:
    offset = ports.free_offset(["127.0.0.2"], 20)
    with socket.create_server(("127.0.0.2", offset + 1)):
        assert ports.taken(["127.0.0.1", "127.0.0.2"], offset, 4) == ("127.0.0.2", offset + 1)
        with pytest.raises(ConfigError, match=f"port {offset + 1} of 127.0.0.2 is taken"):
            run(make(OFFSET=offset), setting())
    assert ports.taken(["127.0.0.2"], offset, 4) is None


def test_ports_given_to_one_run_are_not_given_to_another() -> None:
    claims = ports.Claims()
    assert claims.take("one", 9000, 10) and claims.take("two", 9010, 10)
    assert not claims.take("two", 9009, 10) and not claims.take("three", 8991, 10)
    assert claims.take("one", 9005, 5)  # in place of the former ones
    assert claims.take("three", 8991, 10)
    claims.drop("two")
    assert claims.take("three", 9010, 99)


RUNNER = """
import os, pathlib, sys
from orchestrator.backends.local import LocalBackend
from orchestrator.cli import main
from orchestrator.running.experiment import Setting

config, costs, *core = sys.argv[1:]
setting = Setting(backend=LocalBackend(core=tuple(core), grace_s=0.3), costs=pathlib.Path(costs))
sys.exit(main([config], setting))
"""


def started(path: Path, mode: str, **environment: str) -> subprocess.Popen[str]:
    """The command line with a fake core, in a process of its own."""
    core = (*fakes.script(path.parent, "core.py", fakes.CORE), mode)
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(path), str(path.parent / "costs.json"), *core],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_signals,
    )


def hear_signals() -> None:
    """Also where the tests were started by nohup or as a background job, which ignore some."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything(make: Make, number: signal.Signals) -> None:
    path = make()
    command = started(path, "stubborn")
    found = read_when_there(path.parent / "results", 2)
    command.send_signal(number)
    time.sleep(0.1)
    command.send_signal(number)
    _, errors = command.communicate(timeout=10)
    assert command.returncode == 130
    assert errors == "interrupted; all processes have ended\n"
    assert not any(map(alive, found))
    assert events(only_run(path))[-3:] == ["failed", "collected", "released"]


def test_a_signal_during_the_check_leaves_no_folder(make: Make, tmp_path: Path) -> None:
    path = make()
    command = started(path, "slow-check", DECENTRALIZEPY_MARK=str(tmp_path / "mark"))
    assert await_true(lambda: (tmp_path / "mark").exists() and (tmp_path / "mark").read_text())
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=10)
    assert command.returncode == 130
    assert not alive(int((tmp_path / "mark").read_text()))
    assert not (path.parent / "results").exists()


@pytest.mark.parametrize("mode", ["hang", "stubborn"])
def test_killing_the_orchestrator_leaves_nothing(make: Make, mode: str) -> None:
    path = make()
    command = started(path, mode)
    found = read_when_there(path.parent / "results", 2)
    command.kill()
    command.communicate()
    assert await_true(lambda: not any(map(alive, found)))


def test_all_that_a_run_takes_is_told(make: Make, setting: Build) -> None:
    """Checks before and figures after it belong to it."""
    slow = f"import time; time.sleep(1.5)\n{fakes.RESULTS}"
    outcome, said = run(make(), setting(results=slow))
    assert outcome.total_s > outcome.reality.seconds + 1.5
    assert said.splitlines()[-1] == "  making tables and figures"
    (line,) = [line for line in closing_lines(outcome) if line.startswith("time")]
    assert re.fullmatch(
        r"time      [\d.]+ s with checks and figures; [\d.]+ s on the machines, expected [\d.]+ s",
        line,
    )
    assert summary(outcome)["seconds"] == round(outcome.total_s, 3)


def test_a_walltime_below_the_expected_time_is_noted(make: Make, setting: Build) -> None:
    notes = make_plan(make(walltime="0:00:01"), setting())[1].notes
    assert any("the walltime of 0:00:01 ends the run before" in note for note in notes)
    notes = make_plan(make(walltime="10:00:00"), setting())[1].notes
    assert not any("walltime" in note for note in notes)


def test_a_module_that_hides_one_of_pythons_is_noted(make: Make, setting: Build) -> None:
    path = make()
    path.with_name("mine.py").touch()
    assert not make_plan(path, setting())[1].notes
    path.with_name("queue.py").touch()
    (note,) = make_plan(path, setting())[1].notes
    assert note.startswith(f"{path.with_name('queue.py')} hides Python's own module 'queue'")
    with pytest.raises(RunError) as error:
        run(path, setting("bad-prepare"))
    assert str(error.value).endswith(note), "behind the traceback that it explains"


class Awkward(LocalBackend):
    """Fails where it is told to, and notes what is asked of it."""

    fails: ClassVar[set[str]] = set()
    asked: ClassVar[list[str]] = []

    def _asked(self, what: str) -> None:
        self.asked.append(what)
        if what in self.fails:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def reserve(self, request: Request, plan: Plan, note: Note) -> Reservation:
        reservation = super().reserve(request, plan, note)
        self._asked("reserve")
        return reservation

    def place(self, *where: Any) -> tuple[list[Place], int]:
        self._asked("place")
        return super().place(*where)

    def hosts(self, reservation: Reservation, plan: Plan, hold: int | None) -> list[Host]:
        return [AwkwardHost(self, address, hold) for address in reservation.hosts]

    def release(self, reservation: Reservation) -> None:
        self.asked.append("release")


@dataclass
class AwkwardHost:
    """Machine 0 of `Awkward` tells it what is asked."""

    backend: Awkward
    address: str
    hold: int | None

    def __post_init__(self) -> None:
        self.host = LocalHost(self.address, self.hold)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.host, name)

    def fetch(self, job: Job, folder: Path) -> None:
        if self.address.endswith(".1"):
            self.backend._asked("fetch")


@pytest.fixture
def awkward(setting: Build) -> Iterator[Setting]:
    given = setting()
    backend = given.backend
    assert isinstance(backend, LocalBackend)
    yield replace(given, backend=Awkward(backend.core, backend.grace_s, backend.ours))
    Awkward.fails.clear()
    Awkward.asked.clear()


def test_what_was_got_before_reserving_failed_is_given_back(make: Make, awkward: Setting) -> None:
    path = make()
    Awkward.fails.add("reserve")
    with pytest.raises(OSError, match="timed out"):
        run(path, awkward)
    assert Awkward.asked == ["reserve", "release"]
    assert not (only_run(path).root / "run.key").exists()
    assert events(only_run(path)) == ["planned", "reserving", "reserved", "failed", "released"]


def test_what_could_not_be_collected_is_collected_by_resuming(make: Make, awkward: Setting) -> None:
    path = make()
    Awkward.fails.add("fetch")
    with pytest.raises(RunError) as error:
        run(path, awkward)
    folder = only_run(path)
    assert "finished, but collecting failed: [Errno 110] Connection timed out" in str(error.value)
    assert f"make its tables: python g5k_execution.py --resume {folder.root}" in str(error.value)
    assert events(folder)[-3:] == ["finished", "failed", "released"]
    planned = make_resumed_plan(folder.root, awkward)[2]
    assert "its files are collected" in "".join(planned.notes)
    Awkward.asked.clear()
    Awkward.fails.clear()
    outcome = resume_experiment(folder.root, awkward, Screen(io.StringIO()))
    assert Awkward.asked == ["reserve", "fetch", "release"], "it is not run again"
    assert outcome.complete and outcome.reality.seconds > 0 and len(outcome.tables.tables) == 2
    with pytest.raises(ConfigError, match="this run is complete"):
        resume_experiment(folder.root, awkward, Screen(io.StringIO()))


def test_why_a_run_failed_is_not_hidden_by_collecting(make: Make, awkward: Setting) -> None:
    path = make()
    Awkward.fails.update(("place", "fetch"))
    with pytest.raises(OSError, match="timed out"):
        run(path, awkward)
    assert events(only_run(path))[-2:] == ["failed", "released"]
    assert Awkward.asked == ["reserve", "place", "release"]
