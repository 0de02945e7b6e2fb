"""Simulated time: the numbers of any other run, and the seconds that a formula gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from in_process import build, inject
from launching import Experiment, digests, finish

from decentralizepy.engine.worker import Worker
from decentralizepy.graphs.generators import ring
from decentralizepy.messages.header import row_message_bytes
from decentralizepy.messages.message import Missing
from decentralizepy.node.effects import Now, Receive, Send, Train
from decentralizepy.node.node import Node, Program
from decentralizepy.runfolder import MachineFolder, machine_records
from decentralizepy.words import NodesLost

EVERY = ("-ta", "1", "-tea", "0")
SEEN: dict[int, Any] = {}


def simulation(folder: Path, value: Any, name: str = "simulation.json") -> tuple[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(value))
    return "--simulate", str(path)


def simulated(
    folder: Path, cache: Path, value: Any, iterations: int, *more: str, nodes: int = 6
) -> Worker:
    """A D-PSGD run on a ring, in this process."""
    experiment = Experiment(folder, ring(nodes), cache)
    worker = build(experiment, iterations, *simulation(folder, value), *more)
    worker.run()
    worker.reporter.close()
    return worker


def column(folder: Path, name: str) -> dict[tuple[int, int], float]:
    """(iteration, uid) -> a column of the records."""
    rows = machine_records(MachineFolder(folder / "log")).rows
    return {(row["iteration"], row["uid"]): row[name] for row in rows}


def max_plus(
    costs: Sequence[float], latency: Any, transfer: Any, iterations: int
) -> dict[tuple[int, int], float]:
    """When each node ends each iteration of D-PSGD on a ring, from the recursion alone.

    With f_i = x_i + c_i the end of i's training: i's k-th message leaves at
    max(f_i, port_i) + the sum of the first k transfers, and x_j' is the latest of f_j and all
    arrivals at j. ``latency`` and ``transfer`` are functions of (sender, receiver).
    """
    n = len(costs)
    at, port, found = [0.0] * n, [0.0] * n, {}
    for iteration in range(1, iterations + 1):
        ready = [at[i] + costs[i] for i in range(n)]
        at = list(ready)
        for i in range(n):
            left = max(ready[i], port[i])
            for j in sorted({(i - 1) % n, (i + 1) % n}):
                left += transfer(i, j)
                at[j] = max(at[j], left + latency(i, j))
            port[i] = left
        found |= {(iteration, i): at[i] for i in range(n)}
    return found


def message_bytes(nodes: int, iterations: int) -> int:
    return sum(row_message_bytes(4810, nodes, iterations, 1))


def test_equal_nodes_take_compute_and_their_sends_and_latency(tmp_path: Path, cache: Path) -> None:
    """A node tells its lower neighbour first, so nodes 0 and 1 hear first messages only.

    Nodes 4 and 5 tell each other second. This is the slowest cycle, which all follow in the end.
    """
    nbytes = message_bytes(6, 19)
    value = {
        "links": {"latency_s": 0.25, "bandwidth_Bps": nbytes},  # a message takes a second
        "compute": {"seconds_per_iteration": 10},
    }
    simulated(tmp_path, cache, value, 19, *EVERY)
    elapsed = column(tmp_path, "elapsed_s")
    first = dict.fromkeys((0, 1), 10 + 1 + 0.25) | dict.fromkeys(range(2, 6), 10 + 2 + 0.25)
    assert {uid: elapsed[1, uid] for uid in range(6)} == first
    for iteration in range(1, 20):
        assert elapsed[iteration, 4] == elapsed[iteration, 5] == iteration * (10 + 2 + 0.25)
    for uid in range(6):
        assert elapsed[19, uid] - elapsed[13, uid] == pytest.approx(6 * 12.25, abs=1e-6)
    for (iteration, _), spent in column(tmp_path, "train_s").items():
        assert spent == 10 * iteration
    assert set(column(tmp_path, "evaluate_s").values()) == {0.0}
    assert set(column(tmp_path, "share_s").values()) == {0.0}


@pytest.mark.parametrize("straggler", [None, 4])
def test_times_are_those_of_the_max_plus_recursion(
    tmp_path: Path, cache: Path, straggler: int | None
) -> None:
    """Unequal nodes and links; a straggler is felt one hop further in every iteration."""
    nodes, iterations = 8, 9
    costs = [0.1 + 0.01 * uid for uid in range(nodes)]
    if straggler is not None:
        costs[straggler] = 1.0
    nbytes = message_bytes(nodes, iterations)
    value = {
        "links": {
            "latency_s": 0.02, "bandwidth_Bps": 40 * nbytes,
            "edges": {"2-3": {"latency_s": 0.3}, "5>6": {"bandwidth_Bps": 4 * nbytes}},
        },
        "compute": {"seconds_per_iteration": costs},
    }  # fmt: skip
    simulated(tmp_path, cache, value, iterations, *EVERY, nodes=nodes)
    expected = max_plus(
        costs,
        lambda i, j: 0.3 if {i, j} == {2, 3} else 0.02,
        lambda i, j: 1 / 4 if (i, j) == (5, 6) else 1 / 40,
        iterations,
    )
    elapsed = column(tmp_path, "elapsed_s")
    assert elapsed == pytest.approx(expected, abs=2e-6)
    waited, trained = column(tmp_path, "wait_s"), column(tmp_path, "train_s")
    for key in elapsed:
        assert elapsed[key] == pytest.approx(waited[key] + trained[key], abs=2e-6)
    if straggler is None:
        return
    without = max_plus([min(cost, 0.2) for cost in costs], lambda i, j: 0.02, lambda i, j: 0, 9)
    assert elapsed[1, 0] < 0.5, "far from the straggler the first iteration is fast"
    assert elapsed[9, 0] > 2 * without[9, 0], "after four hops everybody goes at its pace"


def test_a_wrong_recursion_would_be_seen(tmp_path: Path, cache: Path) -> None:
    """The comparison above tells ports that send one by one from ports that do not."""
    nbytes = message_bytes(6, 5)
    links = {"bandwidth_Bps": 10 * nbytes}
    for queue in ("node", "edge"):
        value = {"links": links | {"queue": queue}, "compute": {"seconds_per_iteration": 1}}
        simulated(tmp_path / queue, cache, value, 5, *EVERY)
    one_by_one = max_plus([1.0] * 6, lambda i, j: 0, lambda i, j: 0.1, 5)
    assert column(tmp_path / "node", "elapsed_s") == pytest.approx(one_by_one, abs=1e-6)
    at_once = {key: 1.1 * key[0] for key in one_by_one}
    assert column(tmp_path / "edge", "elapsed_s") == pytest.approx(at_once, abs=1e-6)


UNEVEN = {
    "links": {"latency_s": 0.01, "bandwidth_Bps": 1e6},
    "compute": {"seconds_per_iteration": {"default": 0.01, "0": 0.3, "5": 0.002}},
}


def test_parameters_are_bitwise_those_of_a_real_run(tmp_path: Path, cache: Path) -> None:
    """Two real workers against the simulated one: every row after every iteration."""
    experiment = Experiment(tmp_path, ring(6), cache, model="DropoutMLP")
    flags = ("--digests", "-ta", "3", "-tea", "3", "-as", "2")
    real, processes = experiment.start((6,), 2, 8, *flags)
    virtual, more = experiment.start((6,), 1, 8, *flags, *simulation(tmp_path, UNEVEN))
    finish([*processes, *more])
    assert len(digests(real)) == 6 * 8 and digests(virtual) == digests(real)
    rows = [machine_records(MachineFolder(root / "machine0")).rows for root in (real, virtual)]
    for one, other in zip(*rows, strict=True):
        same = one.keys() - {"elapsed_s", "train_s", "share_s", "wait_s", "evaluate_s"}
        assert one.keys() == other.keys()
        wrong = {key for key in same if one[key] != other[key]}
        assert wrong <= {"consensus_distance"}
        assert one["consensus_distance"] == pytest.approx(other["consensus_distance"])
    _check_provenance(MachineFolder(virtual / "machine0"))


def _check_provenance(folder: MachineFolder) -> None:
    run = json.loads(folder.run.read_text())
    assert run["simulation"] == UNEVEN and run["outcome"] == "done"
    assert json.loads((folder.root / "simulation.json").read_text()) == UNEVEN
    simulated_s = json.loads(folder.status.read_text())["simulated_s"]
    assert simulated_s == max(row["elapsed_s"] for row in machine_records(folder).rows)
    assert simulated_s > 2.4 and run["wall_s"] != simulated_s


def test_a_simulation_runs_twice_the_same(tmp_path: Path, cache: Path) -> None:
    for name in ("one", "two"):
        simulated(tmp_path / name, cache, UNEVEN, 6, *EVERY)
    one, two = (sorted((tmp_path / n / "log").glob("records_*")) for n in ("one", "two"))
    assert [path.read_text() for path in one] == [path.read_text() for path in two]


def test_a_measured_run_drives_a_simulation(tmp_path: Path, cache: Path) -> None:
    simulated(tmp_path, cache, UNEVEN, 4, *EVERY)
    value = {"compute": {"run": str(tmp_path / "log")}}
    simulated(tmp_path / "again", cache, value, 4, *EVERY)
    assert column(tmp_path / "again", "train_s") == pytest.approx(column(tmp_path, "train_s"))


def test_many_workers_or_machines_are_refused(tmp_path: Path, cache: Path) -> None:
    experiment = Experiment(tmp_path, ring(6), cache)
    flags = simulation(tmp_path, UNEVEN)
    for counts, workers, message in [
        ((3, 3), 1, "--simulate runs all nodes in one process, but -ms is 2"),
        ((6,), 2, "--simulate runs all nodes in one worker, not --workers 2"),
    ]:
        root, (process, *_) = experiment.start(counts, workers, 2, *flags, only=(0,))
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 2 and message in errors, errors
        assert not root.exists()


# ------------------------------------------------------------ programs with deadlines


def programs(
    tmp_path: Path, cache: Path, value: Any, programs: dict[int, Any], faults: Any = None,
    *more: str,
) -> Worker:  # fmt: skip
    """Hand-written programs of six nodes under a simulation; those not given end at once."""
    SEEN.clear()
    experiment = Experiment(tmp_path, ring(6), cache)
    flags = [*simulation(tmp_path, value), *more]
    if faults is not None:
        flags += ["--faults", simulation(tmp_path, faults, "faults.json")[1]]
    worker = build(experiment, 9, *flags, "-ta", "0", "-tea", "0")
    inject(worker, programs)
    worker.run()
    return worker


def speaker(rounds: int) -> Any:
    """Trains and then tells node 0 its row, round by round."""

    def program(node: Node) -> Program:
        for node.round in range(rounds):
            yield Train(node.round)
            message = next(
                iter(node.sharing.outgoing(node.x, node.context(node.schedule.at(0, 0), 0, 0)))
            )[1]
            yield Send([([0], message)], (node.round, 0))

    return program


def listener(rounds: int, deadline: float | None) -> Any:
    """Notes when it heard node 1 in which round, or that it did not."""

    def program(node: Node) -> Program:
        for t in range(rounds):
            (heard,) = yield Receive((1,), (t, 0), deadline=deadline)
            missing = isinstance(heard, Missing)
            SEEN[t] = ("missing" if missing else "heard", round((yield Now()), 6))

    return program


ONE_SECOND = {"links": {"latency_s": 0.5}, "compute": {"seconds_per_iteration": 1}}


def test_arrivals_and_deadlines_follow_the_same_clock(tmp_path: Path, cache: Path) -> None:
    programs(tmp_path, cache, ONE_SECOND, {0: listener(3, 1.3), 1: speaker(3)})
    assert SEEN == {0: ("missing", 1.3), 1: ("heard", 2.5), 2: ("heard", 3.5)}


# ---------------------------------------------------------------------------- faults


def fired(folder: Path) -> list[tuple[int, str, float]]:
    lines = (folder / "faults.jsonl").read_text().splitlines()
    return [(x["fault"], x["event"], x["elapsed_s"]) for x in map(json.loads, lines)]


def test_a_killed_node_is_silent_from_its_round_on(tmp_path: Path, cache: Path) -> None:
    faults = [{"kill": {"node": 1}, "round": 3}]
    worker = programs(tmp_path, cache, ONE_SECOND, {0: listener(4, 2.0), 1: speaker(4)}, faults)
    assert SEEN == {
        0: ("heard", 1.5), 1: ("heard", 2.5), 2: ("missing", 4.5), 3: ("missing", 6.5),
    }  # fmt: skip
    assert worker.seats[1].lost and fired(tmp_path / "log") == [(1, "fired", 2.0)]


def test_a_killed_virtual_machine_takes_its_nodes_along(tmp_path: Path, cache: Path) -> None:
    told: list[Any] = []
    experiment = Experiment(tmp_path, ring(6), cache)
    value = UNEVEN | {"machines": [3, 3]}
    faults = simulation(tmp_path, [{"kill": {"machine": 1}, "round": 2}], "faults.json")[1]
    worker = build(experiment, 4, *simulation(tmp_path, value), "--faults", faults)
    worker._tell = told.append
    with pytest.raises(Exception, match="no node can go on: node 0 waits in iteration 2 for"):
        worker.run()
    lost = [word for word in told if isinstance(word, NodesLost)]
    assert [word.uids for word in lost] == [(3,), (4,), (5,)]
    assert [seat.lost for seat in worker.seats.values()] == [False] * 3 + [True] * 3
    assert fired(tmp_path / "log")[0][:2] == (1, "fired")


@pytest.mark.parametrize(
    "faults",
    [
        [{"kill": {"machine": m}, "round": 2 + m} for m in (0, 1)],
        [{"kill": {"node": uid}, "round": 2} for uid in range(6)],
    ],
)
def test_without_nodes_there_is_no_run(tmp_path: Path, cache: Path, faults: list[Any]) -> None:
    """As under the real clock, where dropping the last node ends the run with exit code 5."""
    experiment = Experiment(tmp_path, ring(6), cache)
    more = (
        *simulation(tmp_path, UNEVEN | {"machines": [3, 3]}),
        "--faults", simulation(tmp_path, faults, "faults.json")[1], "--on_loss", "drop",
    )  # fmt: skip
    root, (process, *_) = experiment.start((6,), 1, 4, *more)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 5, errors
    assert "was lost in iteration" in errors and "no node is left" in errors
    assert len(fired(root / "machine0")) == len(faults)


def test_a_slow_link_is_slow_in_its_rounds(tmp_path: Path, cache: Path) -> None:
    link = {"from": 1, "to": 0, "factor": 4, "delay_s": 0.25}
    faults = [{"slow_link": link, "rounds": [2, 2]}]
    programs(tmp_path, cache, ONE_SECOND, {0: listener(3, None), 1: speaker(3)}, faults)
    assert SEEN == {0: ("heard", 1.5), 1: ("heard", 2 + 4 * 0.5 + 0.25), 2: ("heard", 4.25)}
    assert fired(tmp_path / "log") == [(1, "fired", 2.0)]


def test_what_a_partition_held_back_is_heard_after_it(tmp_path: Path, cache: Path) -> None:
    faults = [{"partition": [[0, 2], [1]], "rounds": [2, 3]}]
    programs(tmp_path, cache, ONE_SECOND, {0: listener(4, None), 1: speaker(4)}, faults)
    times = [SEEN[t] for t in range(4)]  # node 1 starts its fourth round at 3.0
    assert times == [("heard", 1.5), ("heard", 3.5), ("heard", 3.5), ("heard", 4.5)]
    assert fired(tmp_path / "log") == [(1, "fired", 2.0), (1, "healed", 3.0)]


def dpsgd(tmp_path: Path, cache: Path, faults: Any) -> Worker:
    path = simulation(tmp_path, faults, "faults.json")[1]
    return simulated(tmp_path, cache, ONE_SECOND, 9, "--faults", path, *EVERY, "--digests")


def test_a_synchronous_run_waits_for_a_partition_in_seconds(tmp_path: Path, cache: Path) -> None:
    dpsgd(tmp_path / "cut", cache, [{"partition": [[0, 1, 2], [3, 4, 5]], "seconds": [4, 20]}])
    dpsgd(tmp_path / "whole", cache, [])
    elapsed = column(tmp_path / "cut", "elapsed_s")
    assert elapsed[2, 2] == 3.0 and elapsed[3, 2] == 20.5 and elapsed[9, 0] == 20.5 + 6 * 1.5
    assert elapsed[3, 1] == 4.5, "node 1 is not at the border: it is held up an iteration later"
    assert elapsed[4, 1] == 22.0
    same = [sorted((tmp_path / n / "log").glob("digests*")) for n in ("cut", "whole")]
    texts = [{*path.read_text().splitlines()} for paths in same for path in paths]
    assert texts[0] == texts[1], "late messages change nothing but the time"
    assert fired(tmp_path / "cut" / "log")[-1] == (1, "healed", 20.0)


def test_a_synchronous_run_stands_still_in_a_partition_by_rounds(
    tmp_path: Path, cache: Path
) -> None:
    """Nobody gets past the rounds without the messages that wait for that."""
    text = (
        r"no node can go on: node 0 waits in iteration 4 for .*; "
        r"fault 1 \(partition\) holds back 4 message\(s\)"
    )
    with pytest.raises(Exception, match=text):
        dpsgd(tmp_path, cache, [{"partition": [[0, 1, 2], [3, 4, 5]], "rounds": [4, 5]}])
    assert max(key[0] for key in column(tmp_path, "elapsed_s")) == 3


def test_without_a_plan_there_is_nothing_in_the_way(tmp_path: Path, cache: Path) -> None:
    worker = simulated(tmp_path, cache, ONE_SECOND, 1)
    assert worker.programs.faults is None
    assert not (tmp_path / "log" / "faults.jsonl").exists()


def test_a_lost_node_is_missing_and_that_is_said(tmp_path: Path, cache: Path) -> None:
    """Whether it is waited for when it is lost, or asked for later; others are heard as ever."""

    def hears(node: Node) -> Program:
        for t in range(4):
            heard = yield Receive((1, 2), (t, 0), deadline=9.0 if t == 3 else None)
            SEEN[t] = [one if isinstance(one, Missing) else one.sender for one in heard]

    faults = [{"kill": {"node": 1}, "round": 2}]
    flags = ("--on_loss", "drop")
    programs(tmp_path, cache, ONE_SECOND, {0: hears, 1: speaker(4), 2: speaker(4)}, faults, *flags)
    gone = [Missing(1, "lost"), 2]
    assert {0: [1, 2], 1: gone, 2: gone, 3: gone} == SEEN
