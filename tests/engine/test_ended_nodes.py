"""Nodes that end before the run are part of its checkpoints, and stay ended in a resumed one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from in_process import run_here as undisturbed
from launching import Experiment, digests

import decentralizepy
from decentralizepy.engine.checkpoints import CheckpointSets
from decentralizepy.graphs.generators import ring
from decentralizepy.runfolder import MachineFolder

PROGRAM = '''\
"""Gossip on a ring whose upper half ends, each node in its own iteration."""
from decentralizepy import Checkpoint, Message, Node, Receive, Report, Send, Train


class Early(Node):
    shares = packs = False
    asynchronous = {asynchronous}

    def there(self, uid, t):
        return uid < self.n // 2 or t < uid - 1

    def program(self):
        for t in self.rounds():
            if self.uid >= self.n // 2 and t == self.uid - 1:
                return
            yield Train(t)
            peers = [u for u in self.graph_at(t).out_neighbors(self.uid) if self.there(u, t)]
            yield Send([(peers, Message({{"x": self.x}}))], (t, 0))
            heard = yield Receive(peers, (t, 0))
            self.x = (self.x + sum(m["x"] for m in heard)) / (len(heard) + 1)
            yield Report(t)
            yield Checkpoint(t)
'''
NODE = "node_package = early\nnode_class = Early"
PLAIN = {"sharing_package": "decentralizepy.sharing.PlainAverageSharing",
         "sharing": "PlainAverageSharing"}  # fmt: skip
KEEP = ("--checkpoint_after", "2", "--digests", "-ta", "0", "-tea", "0")
#: nodes 3 to 5 end in iterations 3 to 5; checkpoints are due after 2, 4, ... iterations
NODES, CUT, ALL = 6, 9, 11

kinds = pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])


def made(folder: Path, cache: Path, asynchronous: bool) -> Experiment:
    one = Experiment(folder, ring(NODES), cache, node=NODE, **PLAIN)
    (folder / "early.py").write_text(PROGRAM.format(asynchronous=asynchronous))
    return one


def sets_of(machine: Path) -> list[int]:
    return CheckpointSets(MachineFolder(machine)).usable(verify=True)


@kinds
@pytest.mark.parametrize("counts", [(6,), (3, 3)], ids=["one machine", "a machine that ends"])
def test_checkpoints_are_complete_and_a_resumed_run_goes_on(
    asynchronous: bool, counts: Sequence[int], tmp_path: Path, cache: Path
) -> None:
    one = made(tmp_path / "e", cache, asynchronous)
    root = one.run(counts, 1 if len(counts) > 1 else 2, CUT, *KEEP)
    machines = [root / f"machine{m}" for m in range(len(counts))]
    assert [sets_of(machine) for machine in machines] == [[6, 8]] * len(counts)
    one.runs -= 1
    assert one.run(counts, 1, ALL, *KEEP, "--resume") == root
    for machine in machines:
        notes = json.loads((machine / "run.json").read_text())["notes"]
        assert notes == ["resuming after iteration 8"]
        assert sets_of(machine) == [8, 10]
    assert digests(root) == digests(undisturbed(one, ALL, *KEEP))


@kinds
def test_in_a_notebook_too(asynchronous: bool, tmp_path: Path, cache: Path) -> None:
    one = made(tmp_path / "e", cache, asynchronous)

    def go(iterations: int, log: str, resume: bool = False) -> dict[int, torch.Tensor]:
        return decentralizepy.run_here(
            one.folder / "config.ini", one.graph, iterations, test_after=0, reset_optimizer=0,
            train_evaluate_after=0, checkpoint_after=2, log_dir=tmp_path / log, resume=resume,
            cache_dir=cache,
        ).rows  # fmt: skip

    whole = go(ALL, "whole")
    go(CUT, "half")
    assert sets_of(tmp_path / "half") == [6, 8]
    half = go(ALL, "half", resume=True)
    assert all(torch.equal(whole[uid], half[uid]) for uid in range(NODES))
    assert sets_of(tmp_path / "half") == [8, 10]
