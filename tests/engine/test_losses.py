"""Lost workers and machines: a run fails, goes on without them, or goes back and waits for them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process import run_here, undisturbed
from launching import Experiment, digests, end_all, leftovers, wait_for_round, workers_of

from decentralizepy.graphs.generators import regular
from decentralizepy.runfolder import MachineFolder, RunFolder, machine_records

ITERATIONS = 60
MORE = ("-ta", "25", "-tea", "25")
GRAPH = regular(12, 4, 1)


@pytest.fixture
def running() -> Iterator[list]:
    started: list = []
    yield started
    end_all(started)


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, GRAPH, cache)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[tuple[int, int], str]:
    """The bits of a run that loses nobody."""
    folder = tmp_path_factory.mktemp("whole")
    return undisturbed(Experiment(folder, GRAPH, cache), ITERATIONS, *MORE)


def write_plan(experiment: Experiment, *faults: dict) -> tuple[str, str]:
    path = experiment.folder / "faults.json"
    path.write_text(json.dumps(faults))
    return "--faults", str(path)


def kill(kind: str, who: object, round_: int = 20) -> dict:
    """Kill a node, worker or machine as it begins a round: no run is too fast for that."""
    return {"kill": {kind: who}, "round": round_}


def fired(root: Path, machine: int) -> list[tuple[int, int]]:
    """(round, worker) of the faults that a machine felt."""
    lines = (root / f"machine{machine}" / "faults.jsonl").read_text().splitlines()
    return [(line["round"], line["worker"]) for line in map(json.loads, lines)]


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


#: what is killed one after the other; who leaves, and why
LOSSES = [
    (kill("node", 3, 10), [3], "node 3 was lost in iteration 10"),
    (kill("worker", [0, 0], 20), [0, 1], "machine 0, worker 0 was killed by SIGKILL"),
    (kill("worker", [1, 2], 35), [10, 11], "machine 1, worker 2 was killed by SIGKILL"),
]


def test_drop_goes_on_without_a_node_the_root_of_evaluations_and_another_worker(
    experiment: Experiment, running: list
) -> None:
    faults = write_plan(experiment, *(fault for fault, _, _ in LOSSES))
    root, processes = experiment.start((6, 6), 3, ITERATIONS, *MORE, "--on_loss", "drop", *faults)
    running += processes
    texts = end_of(processes, [0, 0])
    assert fired(root, 0) == [(10, 1), (20, 0)] and fired(root, 1) == [(35, 2)]
    stories = [story(root, machine) for machine in range(2)]
    assert stories[0]["membership"] == stories[1]["membership"]
    for epoch, (fault, left, why) in zip(stories[0]["membership"], LOSSES, strict=True):
        assert epoch["left"] == left and why in epoch["why"]
        assert fault["round"] - 1 <= epoch["before"] <= fault["round"] + 10
        for text in texts:
            assert f"left before iteration {epoch['before'] + 1}" in text
    rows = last(root)
    assert rows.keys() == set(range(12)) - {0, 1, 3, 10, 11}
    assert all(0 < row["consensus_distance"] < 10 for row in rows.values())


def test_drop_goes_on_without_a_machine(experiment: Experiment, running: list) -> None:
    more = (*MORE, "--on_loss", "drop", *write_plan(experiment, kill("machine", 1)))
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


def test_a_silent_machine_is_lost_after_the_peer_timeout(
    tmp_path: Path, cache: Path, running: list
) -> None:
    """Stopped as by a dead network: nothing is closed, only nothing is heard any more."""
    codes = {"fail": 5, "drop": 0}
    runs = {policy: _start_slowly(tmp_path / policy, cache, policy, running) for policy in codes}
    for root, _ in runs.values():
        wait_for_round(root / "machine1", 10)
    for _, (_, doomed) in runs.values():
        os.killpg(doomed.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    time.sleep(0.5)
    for worker in [worker for _, (_, doomed) in runs.values() for worker in workers_of(doomed)]:
        state = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0]
        assert state == "T", "it is not dead, it stands still"
    ends = when_ended([survivor for _, (survivor, _) in runs.values()])
    assert min(ends) - stopped > 2.5, "it was waited for"
    for policy, (root, processes) in runs.items():
        (text,) = end_of(processes[:1], [codes[policy]])
        assert "machine 1" in text
        gone = [epoch["left"] for epoch in story(root, 0)["membership"]]
        assert gone == ([[8, 9, 10, 11]] if policy == "drop" else [])
        os.killpg(processes[1].pid, signal.SIGCONT)  # it finds itself alone
    for _, processes in runs.values():
        end_of(processes[1:], [5])


def _start_slowly(folder: Path, cache: Path, policy: str, running: list) -> tuple[Path, list]:
    """Iterations 12 to 100 take 18 seconds, unless machine 1 is gone; then they are quick."""
    made = Experiment(folder, GRAPH, cache)
    ini = folder / "config.ini"
    ini.write_text(ini.read_text().replace("[SHARING]", "peer_timeout = 3\n[SHARING]"))
    there = next(uid for uid in GRAPH.out_neighbors(8) if uid < 8)
    link = {"from": 8, "to": there, "delay_s": 0.2}
    slow = write_plan(made, {"slow_link": link, "rounds": [12, 100]})
    root, processes = made.start((8, 4), 1, 100, *MORE, "--on_loss", policy, *slow)
    running += processes
    return root, processes


def when_ended(processes: list, timeout: float = 60.0) -> list[float]:
    """When each process was first seen to have ended."""
    ends: dict[int, float] = {}
    deadline = time.monotonic() + timeout
    while len(ends) < len(processes):
        now = time.monotonic()
        assert now < deadline, "it has not ended"
        for process in processes:
            if process.poll() is not None:
                ends.setdefault(process.pid, now)
        time.sleep(0.05)
    return list(ends.values())


def test_machine_0_is_needed(experiment: Experiment, running: list) -> None:
    root, processes = experiment.start((6, 6), 1, 1_000_000, "--on_loss", "drop")
    running += processes
    wait_for_round(root / "machine1", 5)
    os.killpg(processes[0].pid, signal.SIGKILL)
    processes[0].communicate()
    (text,) = end_of(processes[1:], [5])
    assert "machine 0 is gone" in text


def test_drop_in_simulated_time_is_the_same_every_time(experiment: Experiment) -> None:
    """In the command as in this process."""
    simulation = {"compute": {"seconds_per_iteration": 0.1}, "links": {"latency_s": 0.01}}
    path = experiment.folder / "simulation.json"
    path.write_text(json.dumps(simulation))
    faults = write_plan(experiment, kill("node", 3, 10), kill("node", 7, 30))
    more = (*MORE, "--digests", "--on_loss", "drop", *faults, "--simulate", str(path))
    roots = [
        experiment.run((12,), 1, ITERATIONS, *more),
        run_here(experiment, ITERATIONS, *more),
    ]
    assert digests(roots[0]) == digests(roots[1])
    assert {uid for _, uid in digests(roots[0])} == set(range(12))
    first, second = story(roots[0], 0)["membership"]
    assert (first["left"], second["left"]) == ([3], [7])
    assert 9 <= first["before"] <= 11 and 29 <= second["before"] <= 31
    for root in roots:
        assert last(root).keys() == set(range(12)) - {3, 7}


WAIT = ("--on_loss", "wait", "--checkpoint_after", "10", "--digests")


def test_wait_goes_back_for_a_lost_worker_and_ends_with_the_same_bits(
    experiment: Experiment, running: list, whole: dict
) -> None:
    more = (*MORE, *WAIT, *write_plan(experiment, kill("worker", [0, 1])))
    root, processes = experiment.start((12,), 2, ITERATIONS, *more)
    running += processes
    (text,) = end_of(processes, [0])
    assert "all go back to the newest checkpoint" in text and "resuming after iteration" in text
    assert digests(root) == whole
    told = story(root, 0)
    assert told["last_attempt"] == 1 and told["membership"] == []
    assert {row["attempt"] for row in last(root).values()} == {1}


def test_wait_lets_a_lost_machine_come_back(
    experiment: Experiment, running: list, whole: dict
) -> None:
    more = (*MORE, *WAIT, *write_plan(experiment, kill("machine", 1)))
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
    assert "has made no progress for 3 s (progress limit)" in text and "in iteration" in text
