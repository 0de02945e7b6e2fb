"""NETWORK_EMULATION on hosts by SSH: deployed, measured, kept as asked for, and removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import experiment
import pytest
from experiment import Run

pytestmark = pytest.mark.timeout(400)  # on a busy computer
pytest.importorskip("enoslib", reason="EnOSlib is not installed")
RATE = {"rate": "20mbit"}
SMALL = {"NB_MACHINE": 2, "NB_ITERATION": 2, "TEST_AFTER": 0, "CHECKPOINT_AFTER": 0}
QUICK = {"ANSIBLE_PIPELINING": "True"}  # fewer connections for each of Ansible's tasks
LONG = {"NB_ITERATION": 100000, "NETWORK_EMULATION": RATE | {"delay": "1ms", "allow_missing": True}}


@pytest.fixture
def testbed(make_testbed: Any) -> Any:
    return make_testbed("tb-1", "tb-2")


@pytest.fixture
def run(testbed: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """An experiment whose network is what a test says."""
    place = {"BACKEND": "ssh", "HOSTS": [host.name for host in testbed.hosts]}
    return Run(tmp_path, testbed.environment | QUICK, **place, **SMALL | request.param)


def network(run: Run) -> dict[str, Any]:
    """What was measured."""
    return dict(json.loads((run.folder / "network.json").read_text()))


def emulated(testbed: Any) -> list[str]:
    """Hosts that emulate something now."""
    told = {host.name: host.run("tc", "qdisc").stdout for host in testbed.hosts}
    return [name for name, text in told.items() if "htb" in text or "netem" in text]


def can_delay(testbed: Any) -> bool:
    """Whether the kernel has netem, by adding some."""
    add = "tc qdisc add dev lo root netem delay 1ms && tc qdisc del dev lo root"
    return testbed.hosts[0].run("sh", "-c", add, check=False).returncode == 0


@pytest.mark.parametrize("run", [{"NETWORK_EMULATION": RATE}], indirect=True)
def test_a_rate_is_deployed_measured_and_removed(run: Run, testbed: Any) -> None:
    done = run.finish()
    assert done.returncode == 0, done.stderr + done.stdout
    seen = network(run)
    assert [(one["from"], one["to"]) for one in seen["measured"]] == [(0, 1), (1, 0)]
    assert all(2 < one["megabits_per_second"] < 25 for one in seen["measured"]), seen
    assert seen["missing"] == [] and emulated(testbed) == []
    assert run.events().index("emulating") < run.events().index("started")
    assert run.events()[-2:] == ["unemulated", "released"]
    assert len(experiment.weights(run.folder)) == 16 and testbed.strangers() == []


@pytest.mark.parametrize("run", [{"NETWORK_EMULATION": {"delay": "30ms"}}], indirect=True)
def test_a_delay_is_measured_or_else_the_run_does_not_begin(run: Run, testbed: Any) -> None:
    able = can_delay(testbed)
    done = run.finish()
    assert "emulating" in run.events(), done.stderr
    assert (run.folder / "network.json").exists(), done.stderr
    trips = [one["round_trip_ms"] for one in network(run)["measured"]]
    if able:
        assert done.returncode == 0 and min(trips) >= 60
    else:
        assert done.returncode == 5 and "has no netem" in done.stderr, done.stderr
        assert "started" not in run.events() and max(trips) < 54
    assert emulated(testbed) == [] and testbed.strangers() == []


@pytest.mark.parametrize("run", [LONG], indirect=True)
def test_after_a_kill_clean_removes_it(run: Run, testbed: Any) -> None:
    """What the kernel may not have is allowed to be missing here."""
    command = run.start()
    run.await_event("started")
    command.kill()
    command.communicate()
    assert emulated(testbed) == ["tb-1", "tb-2"]
    done = run.verb("clean")
    assert done.returncode == 0, done.stderr
    assert emulated(testbed) == [] and testbed.strangers() == []


def test_on_grid5000_the_jobs_user_becomes_root(grid5000: Any, tmp_path: Path) -> None:
    place = {"BACKEND": "grid5000", "cluster": "paradoxe", "walltime": "0:10:00", "WAIT": 60}
    run = Run(tmp_path, grid5000.environment | QUICK, **place, **SMALL, NETWORK_EMULATION=RATE)
    done = run.finish()
    assert done.returncode == 0, done.stderr
    assert all(2 < one["megabits_per_second"] < 25 for one in network(run)["measured"])
    assert run.events()[-2:] == ["unemulated", "released"] and grid5000.left() == []
