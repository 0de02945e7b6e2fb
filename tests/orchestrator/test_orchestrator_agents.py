"""The agent on a node that answers through a folder, asked by several runs at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orchestrator_fakes as fakes
import pytest

from orchestrator.hosts.base import Job
from orchestrator.hosts.shared import SharedHost

RUNNER = fakes.REPOSITORY / "orchestrator/hosts/runner.py"
GUARD = fakes.REPOSITORY / "orchestrator/backends/guard.py"
RUNS = ("one", "two")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """As a job step starts it, in a folder of its own."""
    for source in (RUNNER, GUARD):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    command = [sys.executable, str(tmp_path / "runner.py"), "serve", str(tmp_path), "60"]
    process = subprocess.Popen(command, env=os.environ | {"SLURM_PROCID": "0"})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def host(agent: subprocess.Popen[bytes], tmp_path: Path) -> SharedHost:
    found = SharedHost("node", tmp_path / "0", str(tmp_path / "disk"), ())
    assert fakes.await_true(found.ready)
    return found


def job(folder: Path, run: str) -> Job:
    """All runs call their jobs the same."""
    root = folder / run
    root.mkdir(exist_ok=True)
    command = (sys.executable, "-c", "import time; time.sleep(60)")
    return Job("machine0-1", command, str(root), str(root / "machine0"), grace_s=0.2)


def test_runs_that_ask_at_the_same_time_all_get_their_answers(
    host: SharedHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.hosts.shared.ANSWER_S", 10.0)
    twin = SharedHost("node", host.folder, host.local, ())
    with ThreadPoolExecutor(6) as pool:
        polls = (pool.submit((host, twin)[n % 2].poll, job(tmp_path, str(n))) for n in range(6))
        seen = [poll.result() for poll in list(polls)]
    assert [one.state for one in seen] == ["absent"] * 6


def test_the_agent_ends_the_jobs_of_all_runs_with_itself(
    host: SharedHost, agent: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    for run in RUNS:
        host.start(job(tmp_path, run))
    pids = [int((tmp_path / "disk/jobs" / run / "machine0-1/pid").read_text()) for run in RUNS]
    agent.terminate()
    assert agent.wait(20) == 0
    until = time.monotonic() + 5
    while any(map(fakes.alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(fakes.alive, pids))
