"""g5k_execution.py on the stand-in for Grid'5000: the same numbers, one job, nothing left."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import experiment
import pytest
from experiment import Run
from waiting import until

CLUSTER = "paradoxe"


pytestmark = pytest.mark.timeout(400)  # on a busy computer


@pytest.fixture
def run(grid5000: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """An experiment on two nodes, started as its user would; a test may give other values."""
    place = {"BACKEND": "grid5000", "cluster": CLUSTER, "NB_MACHINE": 2, "walltime": "0:10:00"}
    more = {"WAIT": 60, **getattr(request, "param", {})}
    return Run(tmp_path, grid5000.environment, **place, **more)


def posts(grid5000: Any) -> int:
    return sum(r.startswith("POST") and r.endswith("/jobs") for r in grid5000.api.requests)


def test_the_same_numbers_as_here_and_nothing_stays_reserved(run: Run, grid5000: Any) -> None:
    done = run.finish()
    assert done.returncode == 0, done.stderr
    assert experiment.weights(run.folder) == experiment.local_weights(run)
    assert list(run.folder.glob("**/*.pdf")) and posts(grid5000) == 1
    assert grid5000.left() == []


def test_a_killed_orchestrator_finds_its_job_again(run: Run, grid5000: Any) -> None:
    command = run.start()
    run.await_event("started")
    command.kill()
    command.wait()
    assert len(grid5000.api.live_jobs()) == 1
    done = run.verb("resume")
    assert done.returncode == 0, done.stderr
    assert posts(grid5000) == 1 and grid5000.left() == []
    assert experiment.weights(run.folder) == experiment.local_weights(run)


@pytest.mark.parametrize(
    ("where", "last"),
    [(("Machines", "_note"), "reserving"), (("Fleet", "collect"), "finished")],
    ids=["between request and ledger", "while collecting"],
)
def test_killed_at_an_awkward_moment(
    run: Run, grid5000: Any, where: tuple[str, str], last: str
) -> None:
    command = run.start(killed_in=where)
    assert command.wait(300) == -signal.SIGKILL
    assert run.events()[-1] == last and len(grid5000.api.live_jobs()) == 1
    done = run.verb("resume")
    assert done.returncode == 0, done.stderr
    assert posts(grid5000) == 1 and grid5000.left() == []
    assert run.events().count("started") == 1 and len(experiment.weights(run.folder)) == 16


def test_a_node_that_is_dead_at_the_start_is_named_and_the_job_ends(
    run: Run, grid5000: Any
) -> None:
    grid5000.dead_at_start.add(f"{CLUSTER}-1.rennes.grid5000.fr")
    done = run.finish()
    assert done.returncode == 5
    assert f"{CLUSTER}-1.rennes.grid5000.fr: " in done.stderr
    assert grid5000.left() == []


@pytest.mark.parametrize("run", [{"NB_ITERATION": 20000, "HOST_TIMEOUT": 2}], indirect=True)
def test_a_job_that_somebody_ends_ends_the_run(run: Run, grid5000: Any) -> None:
    command = run.start()
    run.await_event("started")
    (job,) = grid5000.api.oars["rennes"].jobs()
    grid5000.api.oars["rennes"].end(job.uid)
    _, errors = command.communicate(timeout=300)
    assert command.returncode == 5 and "not ours any more" in errors
    assert run.events()[-1] == "released" and grid5000.left() == []


def test_a_run_that_ended_with_its_job_while_nobody_watched(run: Run, grid5000: Any) -> None:
    """The nodes are as new; what they had deposited in their site's home is collected."""
    command = run.start()
    run.await_event("started")
    command.kill()
    command.wait()
    homes = grid5000.testbed.folder / "homes" / "rennes"
    ended = f"*/decentralizepy/runs/{run.folder.name}/machine*/status.json"

    def states() -> list[str]:  # a status is copied after the weights
        return [json.loads(path.read_text())["state"] for path in homes.glob(ended)]

    until(lambda: states() == ["done", "done"], told=states)
    (job,) = grid5000.api.oars["rennes"].jobs()
    grid5000.api.oars["rennes"].end(job.uid)
    assert grid5000.left() == []
    done = run.verb("resume")
    assert done.returncode == 0, done.stderr
    assert posts(grid5000) == 1 and len(experiment.weights(run.folder)) == 16
    assert list(homes.glob("*/decentralizepy/runs/*")) == []
