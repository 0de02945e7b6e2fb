"""Machines behind a real sshd: they outlive us, are found again, and leave nothing behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orchestrator_fakes as fakes
import pytest
import sshd
from orchestrator_fakes import REPOSITORY, Make, await_true

from decentralizepy.errors import ConfigError, RunError
from decentralizepy.runfolder import RunFolder
from orchestrator.backends.ssh import SshBackend
from orchestrator.cli import main
from orchestrator.hosts.base import HostError, Job, UnreachableError
from orchestrator.hosts.ssh import SshHost
from orchestrator.running import verbs
from orchestrator.running.experiment import Setting, resume_experiment, run_experiment
from orchestrator.running.ledger import read_ledger
from orchestrator.text import Screen

pytestmark = pytest.mark.skipif(not Path(sshd.SSHD).exists(), reason="sshd is not installed")
Experiment = Callable[..., Path]

RUNNER = """
import pathlib, sys
from orchestrator.backends.ssh import SshBackend
from orchestrator.cli import main
from orchestrator.running.experiment import Setting

config, costs, results, *core = sys.argv[1:]
backend = SshBackend(core=tuple(core), grace_s=0.5)
setting = Setting(backend, results=(sys.executable, results), costs=pathlib.Path(costs))
sys.exit(main([config] if config.endswith(".json") else ["attach", config], setting))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture
def write(tmp_path: Path, make: Make, server: sshd.Sshd) -> Experiment:
    """A small experiment on two hosts of the server."""

    def build(**changes: Any) -> Path:
        gate = {"DECENTRALIZEPY_GATE": str(tmp_path / "gate")}
        known = {"BACKEND": "ssh", "HOSTS": ["node-1", "node-2"], "SSH_OPTIONS": server.options,
                 "HOST_DIR": str(tmp_path / "host"), "ENVIRONMENT": gate}  # fmt: skip
        return make(**known | changes)

    return build


@pytest.fixture
def faked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Setting]:
    """A setting whose hosts have a fake core of a given behaviour."""
    monkeypatch.setattr("orchestrator.running.fleet.PACE_S", 0.1)
    monkeypatch.setattr("orchestrator.running.homeward.RETRY_S", 0.1)
    monkeypatch.setattr("orchestrator.running.experiment.rehearse", lambda *_, **__: None)

    def build(mode: str = "ok") -> Setting:
        core = (*fakes.script(tmp_path, "core.py", fakes.CORE), mode)
        results = fakes.script(tmp_path, "results_room.py", fakes.RESULTS)
        return Setting(
            SshBackend(core=core, grace_s=0.5), results=results, costs=tmp_path / "costs.json"
        )

    return build


def only_run(path: Path) -> RunFolder:
    (folder,) = (path.parent / "results").iterdir()
    return RunFolder(folder)


def events(folder: RunFolder) -> list[str]:
    return [entry["event"] for entry in read_ledger(folder.ledger)]


def leftovers(path: Path) -> list[str]:
    """Processes that name the experiment's folder, and runs on its hosts."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = command.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(path.parent / "host") in text:
            found.append(text)
    return found + [str(run) for run in (path.parent / "host" / "runs").glob("*")]


def started(path: Path) -> subprocess.Popen[str]:
    """The command line in a process of its own, with a core that waits at a gate."""
    folder = path.parent if path.suffix == ".json" else path.parent.parent
    core = (*fakes.script(folder, "core.py", fakes.CORE), "gated")
    results = fakes.script(folder, "results_room.py", fakes.RESULTS)[1]
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(path), str(folder / "costs.json"), results, *core],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in (1, 2)],
    )  # fmt: skip


def training(path: Path) -> bool:
    """Whether both machines wait at the gate."""
    runs = path.parent / "host" / "runs"
    found = list(runs.glob("*/machine*/status.json"))
    return len(found) == 2 and "started" in events(only_run(path))


def test_the_same_numbers_as_here(
    write: Experiment, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real core, copied to the hosts; and nothing of the run is left there."""
    monkeypatch.setattr("orchestrator.running.experiment.rehearse", lambda *_, **__: None)
    results = fakes.script(tmp_path, "results_room.py", fakes.RESULTS)
    setting = Setting(results=results, costs=tmp_path / "costs.json")
    path = write(CHECKPOINT_AFTER=4)
    there = run_experiment(path, setting, Screen(io.StringIO()))
    here = run_experiment(make(tmp_path / "here", NB_MACHINE=1), setting, Screen(io.StringIO()))
    found = [
        {p.name: p.read_bytes() for p in run.folder.root.glob("machine*/*_weight_*")}
        for run in (there, here)
    ]
    assert found[0] == found[1] and len(found[0]) == 9
    assert there.complete and there.reality.bytes_as_planned
    assert (there.folder.machine(1).checkpoints / "8" / "set.json").exists()
    assert leftovers(path) == [] and not (there.folder.root / "run.key").exists()
    assert events(there.folder) == [
        "planned", "reserving", "reserved", "submitted", "started", "finished", "collected",
        "released",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_run_outlives_its_orchestrator_and_is_found_again(
    write: Experiment, faked: Callable[..., Setting], number: signal.Signals
) -> None:
    path = write()
    command = started(path)
    assert await_true(lambda: (path.parent / "results").exists() and training(path), 60)
    command.send_signal(number)
    _, errors = command.communicate(timeout=20)
    folder = only_run(path)
    if number == signal.SIGHUP:
        assert command.returncode == 130 and f"attach {folder.root}" in errors
        assert events(folder)[-1] == "detached"
    assert len(leftovers(path)) > 2
    setting = faked("gated")
    told = verbs.status(verbs.find_run(folder.root, setting))
    assert told["state"] == "running" and set(told["machines"].values()) == {"running"}
    (path.parent / "gate").touch()
    outcome = resume_experiment(folder.root, setting, Screen(io.StringIO()))
    assert outcome.complete
    assert events(folder).count("reserving") == events(folder).count("started") == 1
    assert leftovers(path) == []


def test_ctrl_c_collects_and_frees(write: Experiment) -> None:
    path = write()
    command = started(path)
    assert await_true(lambda: (path.parent / "results").exists() and training(path), 60)
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=30)
    assert command.returncode == 130, errors
    folder = only_run(path)
    assert events(folder)[-3:] == ["failed", "collected", "released"]
    assert folder.machine(1).status.exists() and leftovers(path) == []


def test_clean_frees_what_a_killed_orchestrator_left(
    write: Experiment, faked: Callable[..., Setting], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write()
    command = started(path)
    assert await_true(lambda: (path.parent / "results").exists() and training(path), 60)
    folder, setting = only_run(path), faked("gated")
    assert main(["clean", str(folder.root)], setting) == 2, "it is still supervised"
    command.kill()
    command.communicate()
    assert main(["status", str(folder.root), "--json"], setting) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["supervised"] is False
    assert main(["clean", str(folder.root)], setting) == 0
    assert events(folder)[-2:] == ["collected", "released"]
    assert "machine 0 of 2\n" in (folder.machine(0).root / "stdout.log").read_text()
    assert leftovers(path) == [] and not (folder.root / "run.key").exists()
    assert main(["clean", str(folder.root)], setting) == 0
    assert "nothing was held" in capsys.readouterr().out


def test_a_connection_that_is_cut_costs_nothing(write: Experiment, server: sshd.Sshd) -> None:
    path = write()
    command = started(path)
    assert await_true(lambda: (path.parent / "results").exists() and training(path), 60)
    server.stop()
    (path.parent / "gate").touch()
    time.sleep(1.5)
    assert command.poll() is None
    server.start()
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 0, errors
    assert leftovers(path) == []


def test_where_no_host_answers_for_long_the_run_is_left_to_itself(
    write: Experiment, faked: Callable[..., Setting], server: sshd.Sshd
) -> None:
    """There is no walltime; the machines go on, and are found again."""
    path = write(ON_LOSS="wait", CHECKPOINT_AFTER=1, HOST_TIMEOUT=1, WAIT_LIMIT=0)
    command = started(path)
    assert await_true(lambda: (path.parent / "results").exists() and training(path), 60)
    server.stop()
    try:
        _, errors = command.communicate(timeout=60)
    finally:
        server.start()
    folder = only_run(path)
    assert command.returncode == 130 and f"attach {folder.root}" in errors
    assert "no host has answered for" in errors and events(folder)[-1] == "detached"
    (path.parent / "gate").touch()
    assert resume_experiment(folder.root, faked("gated"), Screen(io.StringIO())).complete
    assert events(folder).count("started") == 1 and leftovers(path) == []


def test_what_cannot_be_fetched_at_first_is_fetched_again(
    write: Experiment, faked: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    real = SshHost.fetch

    def fetch(self: SshHost, job: Job, folder: Path) -> None:
        if len(failed) < 2:
            failed.append(self.name)
            raise UnreachableError("cut")
        real(self, job, folder)

    monkeypatch.setattr(SshHost, "fetch", fetch)
    outcome = run_experiment(write(), faked(), Screen(io.StringIO()))
    assert outcome.complete and len(failed) == 2


def test_what_cannot_be_fetched_stays_until_it_can(
    write: Experiment, faked: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hosts keep everything; resuming collects, and trains nothing again."""
    path, setting = write(), faked()

    def fetch(self: SshHost, job: Job, folder: Path) -> None:
        raise HostError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SshHost, "fetch", fetch)
        with pytest.raises(RunError, match="the disk is full") as error:
            run_experiment(path, setting, Screen(io.StringIO()))
    folder = only_run(path)
    assert f"clean {folder.root}" in str(error.value)
    assert len(leftovers(path)) == 1 and events(folder)[-1] == "failed"
    outcome = resume_experiment(folder.root, setting, Screen(io.StringIO()))
    assert outcome.complete and leftovers(path) == []
    assert events(folder).count("started") == 1


def test_a_machine_that_fails_is_named_with_what_it_printed(
    write: Experiment, faked: Callable[..., Setting]
) -> None:
    path = write()
    with pytest.raises(RunError, match=r"^machine 1 \(node-2\) failed, exit code 5: node 9") as e:
        run_experiment(path, faked("fail"), Screen(io.StringIO()))
    assert "Traceback: OSError: the disk is full" in str(e.value)
    assert leftovers(path) == []


def test_the_walltime_ends_a_run_though_nobody_watches(
    write: Experiment, faked: Callable[..., Setting]
) -> None:
    path = write(walltime="0:00:12")
    command = started(path)
    assert await_true(lambda: (path.parent / "results").exists() and training(path), 60)
    command.kill()
    command.communicate()
    assert await_true(lambda: len(leftovers(path)) == 1, 60), "only the folder stays"
    with pytest.raises(RunError, match="walltime"):
        resume_experiment(only_run(path).root, faked("gated"), Screen(io.StringIO()))
    assert leftovers(path) == []


def test_hosts_that_are_not_there(write: Experiment, faked: Callable[..., Setting]) -> None:
    path = write(HOSTS=["node-1", "nowhere.invalid"])
    with pytest.raises(RunError, match=r"nowhere\.invalid: .*resolve"):
        run_experiment(path, faked(), Screen(io.StringIO()))
    assert leftovers(path) == []
    with pytest.raises(ConfigError, match="HOSTS names 1"):
        run_experiment(write(HOSTS=["node-1"]), faked(), Screen(io.StringIO()))


def test_a_start_that_fails_leaves_nothing(
    write: Experiment, faked: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One machine has begun, the other one never will."""
    path, real = write(), SshHost.start

    def start(self: SshHost, job: Job) -> None:
        if self.name == "node-2":
            raise HostError("no more processes")
        real(self, job)

    monkeypatch.setattr(SshHost, "start", start)
    with pytest.raises(RunError, match=r"machine 1 \(node-2\): starting failed: no more proc"):
        run_experiment(path, faked("gated"), Screen(io.StringIO()))
    assert events(only_run(path))[-3:] == ["failed", "collected", "released"]
    assert leftovers(path) == []


def test_the_key_is_nobody_elses(
    write: Experiment, faked: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, str]] = []
    real = SshHost.start

    def start(self: SshHost, job: Job) -> None:
        key = Path(job.root) / "run.key"
        seen.append((key.stat().st_mode & 0o777, key.read_text().strip()))
        real(self, job)

    monkeypatch.setattr(SshHost, "start", start)
    outcome = run_experiment(write(), faked(), Screen(io.StringIO()))
    assert [mode for mode, _ in seen] == [0o600, 0o600]
    for file in outcome.folder.root.rglob("*"):
        assert not file.is_file() or seen[0][1].encode() not in file.read_bytes()
