"""Lost workers and machines: a run fails, goes on without them, or goes back and waits for them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import Experiment, digests, end_all, leftovers, wait_for_round, workers_of

from decentralizepy.graphs.generators import regular
from decentralizepy.runfolder import MachineFolder, RunFolder, machine_records

ITERATIONS = 150
MORE = ("-ta", "50", "-tea", "50")


@pytest.fixture
def running() -> Iterator[list]:
    started: list = []
    yield started
    end_all(started)


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, regular(12, 4, 1), cache)


def plan(experiment: Experiment, kind: str, who: object, round_: int = 30) -> tuple[str, str]:
    """Kill a worker or machine as it begins a round: no run is too fast for that."""
    faults = [{"kill": {kind: who}, "round": round_}]
    (experiment.folder / "faults.json").write_text(json.dumps(faults))
    return "--faults", "faults.json"


def end_of(processes: list, codes: list[int]) -> list[str]:
    """Output and errors of each machine; asserts their exit codes and that nothing is left."""
    found = [process.communicate(timeout=90) for process in processes]
    texts = [out + errors for out, errors in found]
    assert [process.returncode for process in processes] == codes, texts
    assert not leftovers(processes)
    return texts


def story(root: Path, machine: int) -> dict:
    return json.loads((root / f"machine{machine}" / "run.json").read_text())


def last(root: Path) -> dict[int, dict]:
    """The last records by uid, over all machines."""
    rows = [row for m in RunFolder(root).machines().values() for row in machine_records(m).rows]
    return {row["uid"]: row for row in rows if row["iteration"] == ITERATIONS}


@pytest.mark.parametrize("victim", [0, 1], ids=["the root of evaluations", "another worker"])
def test_drop_goes_on_without_a_workers_nodes(
    victim: int, experiment: Experiment, running: list
) -> None:
    more = (*MORE, "--on_loss", "drop", *plan(experiment, "worker", [0, victim]))
    root, processes = experiment.start((6, 6), 3, ITERATIONS, *more)
    running += processes
    texts = end_of(processes, [0, 0])
    stories = [story(root, machine) for machine in range(2)]
    (epoch,) = stories[0]["membership"]
    assert stories[1]["membership"] == [epoch] and len(epoch["left"]) == 2
    assert 29 <= epoch["before"] <= 40 and "SIGKILL" in epoch["why"]
    for text in texts:
        assert f"left before iteration {epoch['before'] + 1}" in text
    rows = last(root)
    assert rows.keys() == set(range(12)) - set(epoch["left"])
    assert all(0 < row["consensus_distance"] < 10 for row in rows.values())


def test_drop_goes_on_without_a_machine(experiment: Experiment, running: list) -> None:
    more = (*MORE, "--on_loss", "drop", *plan(experiment, "machine", 1))
    root, processes = experiment.start((8, 4), 2, ITERATIONS, *more)
    running += processes
    end_of(processes, [0, -signal.SIGKILL])
    (epoch,) = story(root, 0)["membership"]
    assert epoch["left"] == [8, 9, 10, 11] and "machine 1 is gone" in epoch["why"]
    assert last(root).keys() == set(range(8))


def test_without_the_policy_the_same_loss_ends_the_run(
    experiment: Experiment, running: list
) -> None:
    root, processes = experiment.start((8, 4), 2, 1_000_000)
    running += processes
    wait_for_round(root / "machine1", 5)
    os.killpg(processes[1].pid, signal.SIGKILL)
    processes[1].communicate()
    (text,) = end_of(processes[:1], [5])
    assert "machine 1 is gone" in text and story(root, 0)["membership"] == []


@pytest.mark.parametrize(("policy", "code"), [("fail", 5), ("drop", 0)])
def test_a_silent_machine_is_lost_after_the_peer_timeout(
    policy: str, code: int, experiment: Experiment, running: list
) -> None:
    """Stopped as by a dead network: nothing is closed, only nothing is heard any more."""
    ini = experiment.folder / "config.ini"
    ini.write_text(ini.read_text().replace("[SHARING]", "peer_timeout = 3\n[SHARING]"))
    iterations = 1_000_000 if policy == "fail" else 1000
    root, processes = experiment.start((8, 4), 1, iterations, *MORE, "--on_loss", policy)
    running += processes
    wait_for_round(root / "machine1", 10)
    os.killpg(processes[1].pid, signal.SIGSTOP)
    stopped = time.monotonic()
    time.sleep(0.5)
    for worker in workers_of(processes[1]):
        state = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0]
        assert state == "T", "it is not dead, it stands still"
    out, errors = processes[0].communicate(timeout=60)
    assert time.monotonic() - stopped > 2.5, "it was waited for"
    assert processes[0].returncode == code and "machine 1" in out + errors
    if policy == "drop":
        (epoch,) = story(root, 0)["membership"]
        assert epoch["left"] == [8, 9, 10, 11]
    os.killpg(processes[1].pid, signal.SIGCONT)  # it finds itself alone
    processes[1].communicate(timeout=60)
    assert processes[1].returncode == 5
    assert not leftovers(processes)


def test_machine_0_is_needed(experiment: Experiment, running: list) -> None:
    root, processes = experiment.start((6, 6), 1, 1_000_000, "--on_loss", "drop")
    running += processes
    wait_for_round(root / "machine1", 5)
    os.killpg(processes[0].pid, signal.SIGKILL)
    processes[0].communicate()
    (text,) = end_of(processes[1:], [5])
    assert "machine 0 is gone" in text


def test_drop_goes_on_without_a_node_that_a_plan_kills(
    experiment: Experiment, running: list
) -> None:
    more = (*MORE, "--on_loss", "drop", *plan(experiment, "node", 3, 10))
    root, processes = experiment.start((6, 6), 2, ITERATIONS, *more)
    running += processes
    end_of(processes, [0, 0])
    fired = (root / "machine0" / "faults.jsonl").read_text()
    assert json.loads(fired)["uid"] == 3
    (epoch,) = story(root, 1)["membership"]
    assert epoch["left"] == [3] and "node 3 was lost in iteration 10" in epoch["why"]
    assert last(root).keys() == set(range(12)) - {3}


def test_drop_in_simulated_time_is_the_same_every_time(experiment: Experiment) -> None:
    faults = [{"kill": {"node": 3}, "round": 10}, {"kill": {"node": 7}, "round": 30}]
    (experiment.folder / "faults.json").write_text(json.dumps(faults))
    simulation = {"compute": {"seconds_per_iteration": 0.1}, "links": {"latency_s": 0.01}}
    (experiment.folder / "simulation.json").write_text(json.dumps(simulation))
    more = ("--on_loss", "drop", "--faults", "faults.json", "--simulate", "simulation.json")
    roots = [experiment.run((12,), 1, ITERATIONS, *MORE, "--digests", *more) for _ in range(2)]
    assert digests(roots[0]) == digests(roots[1])
    assert {uid for _, uid in digests(roots[0])} == set(range(12))
    first, second = story(roots[0], 0)["membership"]
    assert (first["left"], second["left"]) == ([3], [7])
    assert 9 <= first["before"] <= 11 and 29 <= second["before"] <= 31
    assert last(roots[0]).keys() == set(range(12)) - {3, 7}


WAIT = ("--on_loss", "wait", "--checkpoint_after", "10", "--digests")


def test_wait_goes_back_for_a_lost_worker_and_ends_with_the_same_bits(
    experiment: Experiment, running: list
) -> None:
    whole = digests(experiment.run((12,), 2, ITERATIONS, *MORE, "--digests"))
    more = (*MORE, *WAIT, *plan(experiment, "worker", [0, 1]))
    root, processes = experiment.start((12,), 2, ITERATIONS, *more)
    running += processes
    (text,) = end_of(processes, [0])
    assert "all go back to the newest checkpoint" in text and "going on after iteration" in text
    assert digests(root) == whole
    told = story(root, 0)
    assert told["last_attempt"] == 1 and told["membership"] == []
    assert {row["attempt"] for row in last(root).values()} == {1}


def test_wait_lets_a_lost_machine_come_back(experiment: Experiment, running: list) -> None:
    whole = digests(experiment.run((12,), 2, ITERATIONS, *MORE, "--digests"))
    more = (*MORE, *WAIT, *plan(experiment, "machine", 1))
    root, processes = experiment.start((6, 6), 1, ITERATIONS, *more)
    running += processes
    processes[1].communicate(timeout=60)
    assert processes[1].returncode == -signal.SIGKILL
    wait_for_note(root / "machine0", "all go back")
    experiment.runs -= 1
    _, (back,) = experiment.start((6, 6), 2, ITERATIONS, *more, "--resume", only=(1,))
    running.append(back)
    end_of([processes[0], back], [0, 0])
    assert digests(root) == whole


def wait_for_note(machine: Path, words: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            notes = json.loads(MachineFolder(machine).status.read_text())["notes"]
        except (OSError, ValueError):
            notes = []
        if any(words in note for note in notes):
            return
        time.sleep(0.05)
    raise AssertionError(f"{machine} never noted {words!r}")


def test_wait_has_a_limit(experiment: Experiment, running: list) -> None:
    more = (*MORE, *WAIT, "--wait_limit", "1")
    root, processes = experiment.start((6, 6), 1, 1_000_000, *more)
    running += processes
    wait_for_round(root / "machine1", 15)
    os.killpg(processes[1].pid, signal.SIGKILL)
    processes[1].communicate()
    (text,) = end_of(processes[:1], [5])
    assert "machine 1 did not come back within 1 s (wait_limit)" in text


def test_a_worker_that_stands_still_is_ended_and_a_long_step_is_not(
    experiment: Experiment, running: list
) -> None:
    root, processes = experiment.start((12,), 2, 1_000_000, "--progress_limit", "3")
    running += processes
    wait_for_round(root / "machine0", 5)
    worker = workers_of(processes[0])[1]
    os.kill(worker, signal.SIGSTOP)  # shorter than the limit: no harm
    time.sleep(1.0)
    os.kill(worker, signal.SIGCONT)
    wait_for_round(root / "machine0", json.loads(
        (root / "machine0" / "status.json").read_text())["round_min"] + 5)  # fmt: skip
    os.kill(worker, signal.SIGSTOP)
    (text,) = end_of(processes, [5])
    assert "has stood still for 3 s (progress limit)" in text and "in iteration" in text
