"""A sharing method learns the row that its node starts from, once and before anything else."""

from __future__ import annotations

from pathlib import Path

import torch

from decentralizepy import Sharing, run_here

INI = Path(__file__).resolve().parents[2] / "run_configuration" / "digits_kshard2_mlp.ini"


class Curious(Sharing):
    """Keeps the first row, and counts how often it is told."""

    kept = ("first", "begun")

    def __init__(self) -> None:
        self.first, self.begun, self.spoke = None, 0, False

    def begin(self, x):
        assert not self.spoke
        self.first, self.begun = x, self.begun + 1

    def outgoing(self, x, ctx):
        self.spoke = True
        yield from super().outgoing(x, ctx)


def test_all_begin_with_the_initial_row_and_a_resumed_node_gets_back_what_it_kept(tmp_path) -> None:
    options = {"test_after": 0, "sharing": Curious, "log_dir": tmp_path / "machine0"}
    start = run_here(INI, 6, iterations=0, test_after=0).rows[0]
    run_here(INI, 6, iterations=2, checkpoint_after=2, **options)
    resumed = run_here(INI, 6, iterations=3, resume=True, checkpoint_after=2, **options)
    for uid, node in resumed.nodes.items():
        assert torch.equal(node.sharing.first, start) and node.sharing.begun == 1
        assert not torch.equal(resumed.rows[uid], start)
