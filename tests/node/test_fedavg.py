"""Federated averaging against dense means, with clients that are drawn, lost or late."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import Experiment, end_all, finish
from programs import NODES, experiment, here, named, simulation

from decentralizepy.errors import ConfigError, RunError
from decentralizepy.node.fedavg import FedAvg
from decentralizepy.runfolder import RunFolder, machine_records


class Logged(FedAvg):
    """Notes every row that leaves a client, and the server's after each iteration."""

    replies: dict[int, dict[int, tuple[torch.Tensor, int]]]
    began: dict[tuple[int, int], torch.Tensor]
    server: dict[int, torch.Tensor]

    def take(self, said):
        super().take(said)
        self.began[self.round, self.uid] = self.x

    def reply(self):
        found = super().reply()
        self.replies.setdefault(self.round, {})[self.uid] = (self.x.clone(), self.n_samples)
        return found

    def close(self, total):
        super().close(total)
        self.server[self.round] = self.x.clone()


def logged(**options) -> tuple[type[Logged], Callable[[], Logged]]:
    """A class with logs of its own, and what makes its nodes."""

    class Mine(Logged):
        replies, began, server = {}, {}, {}

    return Mine, lambda: Mine(**options)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_server_is_the_mean_of_the_clients_that_were_drawn(
    weighted: bool, tmp_path: Path, cache: Path
) -> None:
    one = experiment(tmp_path, cache, "fedavg", partition="dirichlet\nalpha = 0.5")
    log, node = logged(working_rate=0.4, weighted=weighted)
    out = here(one, "run", 6, node=node, test_after=0)
    drawn = [sorted(log.replies[t]) for t in range(6)]
    assert all(len(clients) == 4 for clients in drawn), "ceil(0.4 * 8)"
    assert len(set(map(tuple, drawn))) > 1
    x = log.began[0, drawn[0][0]].numpy()
    for t, clients in enumerate(drawn):
        for uid in clients:
            assert np.array_equal(log.began[t, uid].numpy(), x), "all begin at the server's model"
        rows = np.stack([log.replies[t][uid][0].numpy() for uid in clients]).astype(np.float64)
        weights = np.array([log.replies[t][uid][1] if weighted else 1 for uid in clients])
        x = ((weights[:, None] * rows).sum(axis=0) / weights.sum()).astype(np.float32)
        np.testing.assert_allclose(log.server[t].numpy(), x, rtol=2e-7, atol=1e-12)
        x = log.server[t].numpy()
    assert torch.equal(out.rows[-1], log.server[5])
    if weighted:
        assert len({log.replies[0][uid][1] for uid in drawn[0]}) > 1, "else it shows nothing"


def test_every_client_is_drawn_equally_often() -> None:
    node = FedAvg(working_rate=0.25)
    node.seed, node.n = 5, 40
    counts = np.zeros(40)
    for t in range(2000):
        clients = node.clients(t)
        assert len(clients) == 10 and clients == sorted(clients)
        counts[list(clients)] += 1
    expected, spread = 500, np.sqrt(2000 * 0.25 * 0.75)
    assert np.abs(counts - expected).max() < 4 * spread


def test_only_the_server_is_tested_unless_nodes_are_named(tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, "fedavg")
    out = here(one, "run", 2, test_after=1)
    tested = {row["uid"] for row in out.records if "test_acc" in row}
    assert tested == {-1} and {row["uid"] for row in out.records} == {-1, *range(NODES)}
    out = here(one, "named", 1, test_after=1, evaluated_nodes="[-1,3]")
    assert {row["uid"] for row in out.records if "test_acc" in row} == {-1, 3}


def test_the_working_rate_is_a_flag_too(tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, "fedavg", node="")
    out = here(one, "run", 3, test_after=3, eval_file="testingFederated.py", working_rate=0.2)
    assert {row["heard"] for row in out.records if row["uid"] == -1} == {2}, "ceil(0.2 * 8)"
    with pytest.raises(ConfigError, match="working_rate = 1"):
        here(one, "bad", 3, eval_file="testingFederated.py", working_rate=1.5)
    with pytest.raises(ConfigError, match="-sr -3: servers are numbered -1"):
        here(one, "rank", 3, eval_file="testingFederated.py", server_rank=-3)
    with pytest.raises(ConfigError, match="-sm: no machine 2"):
        here(one, "machine", 3, eval_file="testingFederated.py", server_machine=2)


def test_a_method_that_would_have_no_effect_is_rejected(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "fedavg").mkdir()
    (tmp_path / "fedavg" / "noisy.py").write_text(
        "from decentralizepy import Sharing\nclass Noisy(Sharing):\n    pass\n"
    )
    one = experiment(tmp_path, cache, "fedavg", sharing_package="noisy", sharing="Noisy")
    with pytest.raises(ConfigError, match="Noisy would have no effect: FedAvg itself says"):
        here(one, "run", 1)


# ---------------------------------------------------------------- clients that fail


def killing(one: Experiment, uid: int, iteration: int) -> Path:
    path = one.folder / "faults.json"
    path.write_text(json.dumps([{"kill": {"node": uid}, "round": iteration}]))
    return path


def run_with_losses(one: Experiment, uid: int, **more) -> tuple[type[Logged], object]:
    log, node = logged()
    flags = {"simulate": simulation(one, 0.1), "faults": killing(one, uid, 3), "on_loss": "drop"}
    return log, here(one, f"kill{uid}", 5, node=node, test_after=1, **flags | more)


def test_a_client_that_dies_in_an_iteration_is_left_out_of_it(tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, "fedavg", node=named("fedavg", "FedAvg"))
    log, out = run_with_losses(one, 2)
    heard = {row["iteration"]: row["heard"] for row in out.records if row["uid"] == -1}
    assert heard == {1: 8, 2: 8, 3: 7, 4: 7, 5: 7}
    for t in (2, 3, 4):  # the one that died had got the model, and never answered
        assert sorted(log.replies[t]) == [0, 1, 3, 4, 5, 6, 7]
        mean = torch.stack([row for row, _ in log.replies[t].values()]).double().mean(0).float()
        torch.testing.assert_close(log.server[t], mean, rtol=2e-7, atol=1e-12)


def test_losing_the_server_ends_the_run(tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, "fedavg", node=named("fedavg", "FedAvg"))
    with pytest.raises(RunError, match="the server was lost"):
        run_with_losses(one, -1)


def test_a_machine_that_dies_takes_only_its_clients(tmp_path: Path, cache: Path) -> None:
    """In real processes, with the server on the second machine."""
    one = experiment(tmp_path, cache, "fedavg", node="graph_degree = 4")
    (one.folder / "faults.json").write_text('[{"kill": {"worker": [1, 1]}, "round": 3}]')
    flags = ("--eval_file", "testingFederated.py", "-wr", "1", "-sm", "1", "-ta", "1", "-tea", "0")
    more = ("--on_loss", "drop", "--faults", "faults.json")
    root, processes = one.start([4, 4], 2, 6, *flags, *more)
    try:
        finish(processes)
    finally:
        end_all(processes)
    machine = machine_records(RunFolder(root).machines()[1])
    heard = {row["iteration"]: row["heard"] for row in machine.rows if row["uid"] == -1}
    assert heard[1] == heard[2] == 8 and heard[6] == 6, "worker 1 of machine 1 had two nodes"
    args = json.loads((root / "machine0" / "args.json").read_text())
    assert args["working_rate"] == 1 and args["server_machine"] == 1


def test_clients_that_are_late_are_left_out_and_catch_up(tmp_path: Path, cache: Path) -> None:
    """Node 7 needs 1 s where the others need 0.1; the server waits for 0.35."""
    one = experiment(tmp_path, cache, "fedavg", node=named("fedavg", "FedAvg", "patience = 0.35"))
    log, node = logged(patience=0.35)
    slow = simulation(one, [0.1] * 7 + [1.0])
    out = here(one, "run", 12, node=node, test_after=1, simulate=slow)
    last = max(row["elapsed_s"] for row in out.records if row["uid"] == -1)
    assert last == pytest.approx(12 * 0.35, rel=1e-6), "the slow one holds nobody up for longer"
    trained = [t for t in range(12) if 7 in log.replies.get(t, {})]
    assert trained == [0, 2, 5, 8, 11], "it goes on with the newest model, not with the oldest"
    assert all(sorted(log.replies[t])[:7] == list(range(7)) for t in range(12))
    heard = [row["heard"] for row in out.records if row["uid"] == -1]
    assert heard == [7] * 12


# ---------------------------------------------------------------- compression


@pytest.mark.parametrize("name", ["fedavg", "async_push", "async_pull"])
def test_compression_works_for_whoever_sends_models(name: str, tmp_path: Path, cache: Path) -> None:
    sent = {}
    for chain in ("", "fp16"):
        key = f"Sharing\ncompression = {chain}" if chain else "Sharing"
        one = experiment(tmp_path / chain, cache, name, sharing=key)
        flags = {"simulate": simulation(one, 0.1)}
        out = here(one, "run", 3, test_after=3, **flags)
        sent[chain] = sum(row["total_data"] for row in out.records if row["iteration"] == 3)
    assert sent["fp16"] * 2 == sent[""]


def test_masses_are_not_compressed(tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, "push_sum", sharing="Sharing\ncompression = fp16")
    with pytest.raises(ConfigError, match="PushSum sends numbers that must arrive as they are"):
        here(one, "run", 1)
