"""The Slurm of the testbed is the real one: commands, exit codes, limits and lost nodes."""

from __future__ import annotations

import contextlib
import subprocess

import pytest
import slurm as slurm_hosts

TRAP = """\
#!/bin/bash
trap 'date +%s > signalled; exit 7' USR1
for _ in $(seq 600); do sleep 0.2; done
"""


@pytest.fixture(scope="module", autouse=True)
def limited(slurm):
    """A job of a minute that asks for a signal 59 s before its end: it waits while others run."""
    script = slurm.testbed.shared / "trap.sh"
    script.write_text(TRAP)
    submitted = slurm.run(
        "sbatch", "--parsable", "-N1", "-n1", "-c1", "--time=1", "--signal=B:USR1@59", str(script)
    )
    number = submitted.stdout.strip()
    yield number
    with contextlib.suppress(AssertionError):
        slurm.run("scancel", number)
    slurm.wait_for(lambda: not slurm.jobs())


def test_srun_starts_one_task_on_each_node(slurm):
    done = slurm.run("srun", "-N3", "-l", "sh", "-c", "echo $SLURM_PROCID $(hostname)")
    assert sorted(done.stdout.splitlines()) == [
        f"{rank}: {rank} node-{rank + 1}" for rank in range(3)
    ]


def test_a_job_writes_into_the_shared_folder_and_its_exit_code_comes_back(slurm):
    script = slurm.testbed.shared / "three.sh"
    script.write_text("#!/bin/sh\nsrun sh -c 'hostname > host.$SLURM_PROCID'\nexit 3\n")
    done = slurm.run("sbatch", "--parsable", "--wait", "-N2", str(script), check=False)
    assert done.returncode == 3
    job = slurm.job(done.stdout.strip())
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "3:0")
    names = {(slurm.testbed.shared / f"host.{rank}").read_text().strip() for rank in range(2)}
    assert len(names) == 2


def test_a_cancelled_job_leaves_no_process(slurm):
    submitted = slurm.run("sbatch", "--parsable", "-N2", "--wrap", "srun sleep 4321")
    number = submitted.stdout.strip()
    slurm.wait_for(lambda: len(running(slurm, "sleep 4321")) >= 2)
    slurm.run("scancel", number)
    slurm.wait_for(lambda: slurm.job(number)["JobState"] == "CANCELLED")
    slurm.wait_for(lambda: not running(slurm, "sleep 4321"))


def running(slurm, command):
    return [line for line in slurm.testbed.strangers() if line.endswith(command)]


def test_what_cannot_be_given_is_refused(slurm):
    too_many = slurm.run("sbatch", "-N4", "--wrap", "true", check=False)
    assert too_many.returncode == 1 and "Node count" in too_many.stderr
    nowhere = slurm.run("sbatch", "-p", "moon", "--wrap", "true", check=False)
    assert nowhere.returncode == 1 and "invalid partition" in nowhere.stderr
    too_long = slurm.run("sbatch", "-p", "short", "--time=60", "--wrap", "true", check=False)
    assert too_long.returncode == 1 and "time limit" in too_long.stderr


def test_a_node_that_dies_is_noticed_and_comes_back(slurm):
    node = slurm.nodes[2]
    submitted = slurm.run("sbatch", "--parsable", "-w", node.name, "--wrap", "sleep 4321")
    number = submitted.stdout.strip()
    slurm.wait_for(lambda: slurm.job(number)["JobState"] == "RUNNING")
    node.kill()
    slurm.run("scontrol", "update", f"NodeName={node.name}", "State=DOWN", "Reason=dead")
    slurm.wait_for(lambda: slurm.job(number)["JobState"] in ("NODE_FAIL", "PENDING"))
    slurm.run("scancel", number, check=False)
    node.start()
    node.wait()
    slurm.start_node(node)
    slurm.wait_for(lambda: slurm.states()[node.name] == "idle")


def test_a_slurm_that_cannot_start_leaves_nothing(make_testbed, monkeypatch):
    broken = slurm_hosts.CONFIGURATION + "SelectType=select/nonsense\n"
    monkeypatch.setattr(slurm_hosts, "CONFIGURATION", broken)
    with pytest.raises(subprocess.CalledProcessError, match="nonsense"):
        slurm_hosts.Slurm(make_testbed("head", "node-1")).up()  # make_testbed looks for munged


def test_the_signal_before_the_time_limit_reaches_the_script(slurm, limited):
    slurm.wait_for(lambda: slurm.job(limited)["JobState"] == "FAILED", timeout=90)
    assert (slurm.testbed.shared / "signalled").exists()
    assert slurm.job(limited)["ExitCode"] == "7:0"
