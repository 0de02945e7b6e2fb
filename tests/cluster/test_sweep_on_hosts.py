"""Sweeps by SSH and on Slurm: runs beside one another on the same hosts, killed and given again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from experiment import Run
from waiting import until

pytestmark = pytest.mark.timeout(400)  # on a busy computer
#: More runs than go on at a time: the third begins beside one that has begun before the kill.
SWEEP = {"seeds": [90, 91, 92], "parallel": 2}
SMALL = {"NB_MACHINE": 2, "NB_AGENTS": 16, "walltime": "0:30:00"}


def ledgers(folder: Path) -> list[list[dict[str, Any]]]:
    """What the ledger of every cell tells."""
    texts = [path.read_text() for path in folder.glob("*/ledger.jsonl")]
    return [[json.loads(line) for line in text.splitlines()] for text in texts]


def under_way(folder: Path) -> int:
    """Cells whose machines were started and have not ended."""
    told = [{entry["event"] for entry in ledger} for ledger in ledgers(folder)]
    return sum("started" in events and "finished" not in events for events in told)


def start_and_kill(run: Run, folder: Path) -> None:
    """Kill the command once two runs are under way."""
    command = run.start()
    until(lambda: under_way(folder) == 2 or command.poll() is not None)
    told = "" if command.poll() is None else command.communicate()
    assert under_way(folder) == 2, told
    command.kill()
    command.communicate()


def check_each_ran_once(folder: Path, cells: int) -> None:
    """All are done, none was started twice, and those beside one another had ports of their own."""
    listed = json.loads((folder / "sweep.json").read_text())["cells"]
    assert [cell["state"] for cell in listed] == ["done"] * cells
    events = [[entry["event"] for entry in ledger] for ledger in ledgers(folder)]
    assert [told.count("submitted") for told in events] == [1] * cells
    starts = [entry for told in ledgers(folder) for entry in told if entry["event"] == "submitted"]
    assert len({entry["offset"] for entry in starts}) >= 2  # of those two that were killed
    assert list(folder.glob("tables/*.csv")) and list(folder.glob("figures/*.pdf"))
    assert len(list(folder.glob("*/machine*/*_weight_*"))) == 16 * cells


def test_runs_beside_one_another_on_the_same_hosts(testbed: Any, tmp_path: Path) -> None:
    hosts = [host.name for host in testbed.hosts[:2]]
    run = Run(tmp_path, testbed.environment, BACKEND="ssh", HOSTS=hosts, sweep=SWEEP, **SMALL)
    folder = run.results / "sweep_small"
    start_and_kill(run, folder)
    done = run.finish("--yes", str(run.config))
    assert done.returncode == 0, done.stderr + done.stdout
    check_each_ran_once(folder, 3)
    assert testbed.strangers() == []


def test_a_sweep_is_one_job(slurm: Any, tmp_path: Path) -> None:
    """Both runs ask the same agents; a killed command finds the job, and both runs in it."""
    shared = slurm.testbed.shared / "sweep"
    values = SMALL | {"sweep": {"seeds": [90, 91], "parallel": 2}, "LOCAL_SAVE_DIR": str(shared)}
    run = Run(tmp_path, slurm.environment, BACKEND="slurm", WAIT=60, **values)
    folder = run.results / "sweep_small"
    start_and_kill(run, folder)
    (job,) = slurm.jobs()
    done = run.finish("--yes", str(run.config))
    assert done.returncode == 0, done.stderr + done.stdout
    check_each_ran_once(folder, 2)
    ids = {tuple(e["reservation"]["ids"]) for told in ledgers(folder) for e in told
           if e["event"] == "reserved"}  # fmt: skip
    assert ids == {(job.split()[0],)}
    slurm.wait_for(lambda: slurm.left() == [])


def test_what_does_not_fit_in_the_job_is_not_begun(slurm: Any, tmp_path: Path) -> None:
    """Of the three minutes two are kept to end the machines, and a run may take one."""
    values = {"NB_MACHINE": 2, "walltime": "0:02:00", "MARGIN": "0:01:00", "sweep": {"seeds": [90]}}
    shared = slurm.testbed.shared / "short"
    run = Run(tmp_path, slurm.environment, BACKEND="slurm", LOCAL_SAVE_DIR=str(shared), **values)
    done = run.finish("--yes", str(run.config))
    assert done.returncode == 6, done.stderr + done.stdout
    assert "left out, as it may take" in done.stdout and ledgers(run.results / "sweep_small") == []
    slurm.wait_for(lambda: slurm.left() == [])
