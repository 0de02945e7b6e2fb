"""The same fault plans against real processes: each fault fires, is named, and leaves its line."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import undisturbed
from launching import Experiment, digests, end_all, finish, leftovers

from decentralizepy.graphs.generators import ring
from decentralizepy.runfolder import MachineFolder

MORE = ("-ta", "0", "-tea", "0")


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(8), cache)


@pytest.fixture
def running() -> Iterator[list]:
    started: list = []
    yield started
    end_all(started)


def plan(experiment: Experiment, faults: Any) -> tuple[str, str]:
    (experiment.folder / "faults.json").write_text(json.dumps(faults))
    return "--faults", "faults.json"


def lines(root: Path) -> list[dict[str, Any]]:
    paths = sorted(root.glob("machine*/faults.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_a_killed_node_ends_the_run_with_its_name(experiment: Experiment, running: list) -> None:
    faults = plan(experiment, [{"kill": {"node": 3}, "round": 10}])
    root, running[:] = experiment.start((8,), 2, 1_000_000, *MORE, "--digests", *faults)
    _, text = running[0].communicate(timeout=60)
    assert running[0].returncode == 5
    assert "machine 0, worker 0: node 3 was lost in iteration 10" in text
    (line,) = lines(root)
    assert (line["fault"], line["event"], line["uid"], line["round"]) == (1, "fired", 3, 10)
    done = [iteration for iteration, uid in digests(root) if uid == 3]
    assert max(done) == 9, "it did not do its tenth iteration"
    run = json.loads(MachineFolder(root / "machine0").run.read_text())
    assert run["faults"] == [line["plan"]] == [{"kill": {"node": 3}, "round": 10}]
    assert not leftovers(running)


def test_a_killed_worker_dies_by_its_own_hand(experiment: Experiment, running: list) -> None:
    faults = plan(experiment, [{"kill": {"worker": [1, 1]}, "round": 4}])
    root, running[:] = experiment.start((4, 4), 2, 1_000_000, *MORE, *faults)
    texts = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [5, 5]
    assert all("machine 1, worker 1 was killed by SIGKILL" in text for text in texts)
    (line,) = lines(root)
    assert (line["machine"], line["worker"], line["round"]) == (1, 1, 4)
    assert not leftovers(running)


def test_a_killed_machine_is_gone_with_all_it_had(experiment: Experiment, running: list) -> None:
    faults = plan(experiment, [{"kill": {"machine": 1}, "round": 4}])
    root, running[:] = experiment.start((4, 4), 1, 1_000_000, *MORE, *faults)
    _, text = running[0].communicate(timeout=60)
    running[1].communicate(timeout=60)
    assert [process.returncode for process in running] == [5, -signal.SIGKILL]
    assert "machine 1 is gone" in text
    assert [line["machine"] for line in lines(root)] == [1]
    assert not leftovers(running)


def test_late_messages_change_no_parameter(experiment: Experiment, running: list) -> None:
    """A slow link and a partition that heals: later, but bitwise the same as undisturbed."""
    faults = [
        {"slow_link": {"from": 3, "to": 4, "delay_s": 0.05}, "rounds": [2, 6]},
        {"partition": [[0, 1, 2, 3], [4, 5, 6, 7]], "seconds": [0, 0.5]},
    ]
    more = (*MORE, "--digests", *plan(experiment, faults))
    cut, running[:] = experiment.start((4, 4), 1, 6, *more)
    whole = undisturbed(experiment, 6, *MORE)
    finish(running)
    assert digests(cut) == whole
    found = {(line["fault"], line["event"], line["machine"]) for line in lines(cut)}
    assert found >= {(1, "fired", 0), (2, "fired", 0), (2, "fired", 1), (2, "healed", 0)}
    healed = [line["elapsed_s"] for line in lines(cut) if line["event"] == "healed"]
    assert min(healed) >= 0.5
