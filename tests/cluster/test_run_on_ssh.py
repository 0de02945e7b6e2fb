"""g5k_execution.py on three hosts by SSH: the same numbers, and hosts that lose their power."""

from __future__ import annotations

import functools
import json
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
}  # fmt: skip


@pytest.fixture
def run(testbed: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """An experiment on the testbed's hosts; a test may give other values."""
    place = {"BACKEND": "ssh", "HOSTS": [host.name for host in testbed.hosts], "NB_MACHINE": 3}
    return Run(tmp_path, testbed.environment, **place, **getattr(request, "param", {}))


def iteration(run: Run, machine: int) -> int:
    """How far a machine is, by what is known here."""
    try:
        status = json.loads((run.folder / f"machine{machine}" / "status.json").read_text())
    except (OSError, ValueError):
        return 0
    return int(status["round_min"])


def await_sets_at_home(run: Run) -> None:
    """Until every machine has a complete checkpoint here."""
    sets = functools.partial(run.results.glob, "*/*/*/*/set.json")
    until(lambda: len({p.parent.parent.parent for p in sets()}) == 3, told=run.events)


def test_the_same_numbers_as_here_and_nothing_is_left(run: Run, testbed: Any) -> None:
    done = run.finish()
    assert done.returncode == 0, done.stderr + done.stdout
    assert experiment.weights(run.folder) == experiment.local_weights(run)
    assert list(run.folder.glob("**/*.pdf")) and testbed.strangers() == []
    for host in testbed.hosts:
        assert host.run("find", "/tmp", "-path", "*/runs/*").stdout == ""


@pytest.mark.parametrize("run", [LONG], indirect=True)
def test_fail_ends_the_run_and_what_there_was_is_home(run: Run, testbed: Any) -> None:
    command = run.start()
    await_sets_at_home(run)
    testbed.hosts[2].kill()
    _, errors = command.communicate(timeout=200)
    assert command.returncode == 5, errors
    assert "machine 2" in errors
    assert run.events()[-2:] == ["collected", "released"]
    assert list(run.folder.glob("machine2/checkpoints/*/set.json"))
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


@pytest.mark.parametrize("run", [LONG | {"ON_LOSS": "wait", "WAIT_LIMIT": 90}], indirect=True)
def test_wait_starts_the_machine_again_once_its_host_is_back(run: Run, testbed: Any) -> None:
    """The host's disk was new: it gets code, files, key and checkpoints again."""
    command = run.start()
    await_sets_at_home(run)
    testbed.hosts[2].kill()
    run.await_event("lost")
    testbed.hosts[2].start()
    testbed.hosts[2].wait()
    out, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors + out
    assert run.events().count("restarted") == 1
    assert experiment.weights(run.folder) == experiment.local_weights(run)
    assert testbed.strangers() == []
