"""g5k_execution.py on three hosts by SSH: the same numbers, and hosts that lose their power."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import experiment
import pytest
from experiment import Run
from waiting import until

pytestmark = pytest.mark.timeout(400)  # on a busy computer
LONG = {
    "NB_ITERATION": 1200, "TEST_AFTER": 300, "CHECKPOINT_AFTER": 40, "HOST_TIMEOUT": 4,
    "COLLECT_AFTER": 1, "INI": {"COMMUNICATION.peer_timeout": 4},
    "SSH_OPTIONS": ["-o", "ConnectTimeout=3", "-o", "ServerAliveInterval=2"],
}  # fmt: skip
WAIT = LONG | {"ON_LOSS": "wait", "WAIT_LIMIT": 90, "NB_MACHINE": 2, "TEST_AFTER": 0}
ENDLESS = LONG | {"NB_ITERATION": 100_000}


@pytest.fixture
def run(testbed: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """An experiment on the testbed's hosts; a test may give other values."""
    place = {"BACKEND": "ssh", "HOSTS": [host.name for host in testbed.hosts], "NB_MACHINE": 3}
    return Run(tmp_path, testbed.environment, **place | getattr(request, "param", {}))


def await_sets_at_home(run: Run) -> None:
    """Until every machine has a complete checkpoint here."""
    sets, machines = (
        functools.partial(run.results.glob, "*/*/*/*/set.json"),
        run.values["NB_MACHINE"],
    )
    until(lambda: len({p.parent.parent.parent for p in sets()}) == machines, told=run.events)


def test_the_same_numbers_as_here_and_nothing_is_left(run: Run, testbed: Any) -> None:
    done = run.finish()
    assert done.returncode == 0, done.stderr + done.stdout
    assert experiment.weights(run.folder) == experiment.local_weights(run)
    assert list(run.folder.glob("**/*.pdf")) and testbed.strangers() == []
    for host in testbed.hosts:
        assert host.run("find", "/tmp", "-path", "*/runs/*").stdout == ""


@pytest.mark.parametrize("run", [ENDLESS | {"NB_MACHINE": 2}], indirect=True)
def test_fail_ends_the_run_and_what_there_was_is_home(run: Run, testbed: Any) -> None:
    command = run.start()
    await_sets_at_home(run)
    testbed.hosts[1].kill()
    out, errors = command.communicate(timeout=200)
    assert command.returncode == 5, errors
    assert "machine 1" in errors and "machine 1 (tb-2) does not answer" in out
    assert run.events()[-2:] == ["collected", "released"]
    assert list(run.folder.glob("machine1/checkpoints/*/set.json"))
    assert testbed.strangers() == []


@pytest.mark.parametrize("run", [LONG | {"ON_LOSS": "drop"}], indirect=True)
def test_drop_goes_on_without_the_host(run: Run, testbed: Any) -> None:
    command = run.start()
    await_sets_at_home(run)
    testbed.hosts[2].kill()
    out, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors + out
    assert run.events().count("lost") == 1
    assert testbed.strangers() == []


@pytest.mark.parametrize("run", [WAIT], indirect=True)
def test_wait_starts_the_machine_again_once_its_host_is_back(run: Run, testbed: Any) -> None:
    """The host's disk was new: it gets code, files, key and checkpoints again."""
    command = run.start()
    await_sets_at_home(run)
    testbed.hosts[1].kill()
    run.await_event("lost")
    testbed.hosts[1].start()
    testbed.hosts[1].wait()
    out, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors + out
    assert run.events().count("restarted") == 1
    assert experiment.weights(run.folder) == experiment.local_weights(run)
    assert testbed.strangers() == []
