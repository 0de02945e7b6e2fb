"""Mail that waits unread on another machine holds its sender: for room, not for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_process import undisturbed
from launching import Experiment, digests, finish

from decentralizepy.graphs.generators import ring

PROGRAM = """\
from decentralizepy import Message, Node, Receive, Report, Send, Train


class Keeps(Node):
    '''Gossip that reads and keeps all that it hears, or reads nothing.'''

    shares = packs = False

    def __init__(self, *, reads: bool = True, tells: bool = False) -> None:
        self.reads, self.tells = reads, tells

    def setup(self):
        self.heard = []

    def program(self):
        for t in self.rounds():
            yield Train(t)
            ctx = self.context(self.graph_at(t), t)
            meta = {"t": t} if self.tells else None
            yield Send([(ctx.receivers, Message({"x": self.x}, meta))], (t, 0))
            if self.reads:
                heard = yield Receive(ctx.sources, (t, 0))
                self.heard += heard
                self.x = (self.x + sum(m["x"] for m in heard)) / (1 + len(heard))
            yield Report(t)
"""


def experiment(folder: Path, cache: Path, reads: str, tells: str = "no") -> Experiment:
    """Two machines between which less than one message may wait."""
    node = f"node_package = keeps\nnode_class = Keeps\nreads = {reads}\ntells = {tells}"
    made = Experiment(folder, ring(6), cache, node=node)
    (folder / "keeps.py").write_text(PROGRAM)
    ini = folder / "config.ini"
    ini.write_text(ini.read_text().replace("[SHARING]", "mailbox_budget = 0.001\n[SHARING]"))
    return made


@pytest.mark.parametrize("tells", ["yes", "no"])
def test_who_keeps_what_it_has_heard_keeps_nobody_waiting(
    tells: str, tmp_path: Path, cache: Path
) -> None:
    """Also messages with a ``meta``, of which each receiver has one of its own."""
    made = experiment(tmp_path / "e", cache, "yes", tells)
    root, processes = made.start((3, 3), 1, 12, "--digests")
    finish(processes)
    assert digests(root) == undisturbed(made, 12)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_waits_for_room_for_ever_ends_and_says_so(
    tmp_path: Path, cache: Path, workers: int
) -> None:
    made = experiment(tmp_path / "e", cache, "no")
    _, processes = made.start((3, 3), workers, 50)
    said = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [5, 5], said
    for text in said:
        assert "no node can go on" in text and "or mailbox_budget too small?" in text
