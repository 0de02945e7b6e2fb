"""g5k_execution.py on a real Slurm: the same numbers, one job, nothing left."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import experiment
import pytest
from experiment import Run

pytestmark = pytest.mark.timeout(400)  # on a busy computer


@pytest.fixture
def run(slurm: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """An experiment on three nodes, whose run folder the nodes see."""
    shared = slurm.testbed.shared / request.node.name
    return Run(tmp_path, slurm.environment, BACKEND="slurm", NB_MACHINE=3, walltime="0:10:00",
               WAIT=60, LOCAL_SAVE_DIR=str(shared))  # fmt: skip


def left(slurm: Any) -> list[str]:
    return slurm.jobs() + slurm.testbed.strangers()


def test_the_same_numbers_as_here_and_no_job_is_left(run: Run, slurm: Any) -> None:
    done = run.finish()
    assert done.returncode == 0, done.stderr + done.stdout
    assert experiment.weights(run.folder) == experiment.local_weights(run)
    slurm.wait_for(lambda: left(slurm) == [])
    assert not list(run.folder.rglob("run.key"))
    for node in slurm.nodes:
        assert "run.key" not in node.run("find", "/tmp", "-name", "run.key").stdout


def test_a_killed_orchestrator_finds_its_job_again(run: Run, slurm: Any) -> None:
    command = run.start()
    run.await_event("started")
    command.kill()
    command.wait()
    assert len(slurm.jobs()) == 1
    done = run.verb("resume")
    assert done.returncode == 0, done.stderr
    assert run.events().count("reserving") == 1
    assert len(experiment.weights(run.folder)) == 16
    slurm.wait_for(lambda: left(slurm) == [])


def seen_by_nodes(slurm: Any, image: Path) -> Path:
    """The image on storage that the nodes see."""
    found = slurm.testbed.shared / "image.sif"
    try:
        found.hardlink_to(image)
    except OSError:  # it lies on another disk
        shutil.copy(image, found)
    return found


def test_a_container_is_staged_to_each_nodes_own_disk(
    slurm: Any, image: Path, tmp_path: Path
) -> None:
    """The core and the run folder are bound from the common storage."""
    given = seen_by_nodes(slurm, image)
    place = {"HOST_DIR": "/var/tmp/ours", "CONTAINER": str(given), "NB_MACHINE": 2}
    save = slurm.testbed.shared / "contained"
    run = Run(tmp_path, slurm.environment, BACKEND="slurm", LOCAL_SAVE_DIR=str(save),
              walltime="0:10:00", WAIT=60, **place)  # fmt: skip
    done = run.finish()
    assert done.returncode == 0, done.stderr + done.stdout
    staged = [list(node.path("/var/tmp/ours/images").iterdir()) for node in slurm.nodes[:2]]
    assert [[path.stat().st_size for path in one] for one in staged] == 2 * [[given.stat().st_size]]
    ran = [json.loads(path.read_text()) for path in run.folder.glob("machine*/run.json")]
    assert {one["container"] for one in ran} == {f"/var/tmp/ours/images/{staged[0][0].name}"}
    assert {one["code_folder"].startswith(f"{save}/.slurm/code/") for one in ran} == {True}
    assert len(experiment.weights(run.folder)) == 16
    slurm.wait_for(lambda: left(slurm) == [])
    for node in slurm.nodes:
        node.run("rm", "-rf", "/var/tmp/ours")
    given.unlink()


def test_ctrl_c_cancels_the_job(run: Run, slurm: Any) -> None:
    command = run.start()
    run.await_event("reserving")
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 130, errors
    slurm.wait_for(lambda: left(slurm) == [])
