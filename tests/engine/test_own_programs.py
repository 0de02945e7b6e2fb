"""A node program and a schedule of graphs of the user's own, named by the INI, in real runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from in_process import undisturbed
from launching import Experiment, digests, finish

from decentralizepy.graphs.generators import ring

FILES = """\
from decentralizepy import Graph, Node, Receive, Report, Schedule, Send, Train


class Rarely(Node):
    '''D-PSGD that gossips in every ``every``-th iteration only.'''

    def __init__(self, *, every: int = 1) -> None:
        self.every = every

    def program(self):
        for t in self.rounds():
            yield Train(t)
            if t % self.every == 0:
                ctx = self.context(self.graph_at(t, 0), t, 0)
                yield Send(self.sharing.outgoing(self.x, ctx), (t, 0))
                heard = yield Receive(ctx.sources, (t, 0))
                self.x = self.sharing.merge(self.x, heard, ctx)
            yield Report(t)


class Shifted(Schedule):
    '''Two-way links to the nodes ``1 + t % span`` further on.'''

    def __init__(self, n: int, *, span: int) -> None:
        super().__init__(n)
        self.span = span

    def draw(self, t: int, k: int) -> Graph:
        step = 1 + t % self.span
        return Graph.undirected(self.n, [(i, (i + step) % self.n) for i in range(self.n)])
"""
NODE = "node_package = my_program\nnode_class = Rarely\nevery = {}"
GRAPH = "[GRAPH]\ngraph_package = my_program\ngraph_class = Shifted\nspan = {}"


def experiment(folder: Path, cache: Path, every: int = 2, span: int = 3) -> Experiment:
    texts = {"node": NODE.format(every), "schedule": GRAPH.format(span)}
    made = Experiment(folder, ring(8), cache, **texts)
    (folder / "my_program.py").write_text(FILES)
    return made


def test_the_bits_are_the_same_everywhere_and_the_file_is_kept(tmp_path: Path, cache: Path) -> None:
    made = experiment(tmp_path / "e", cache)
    alone = undisturbed(made, 5)
    root, processes = made.start((5, 3), 2, 5, "--digests")
    finish(processes)
    assert digests(root) == alone
    for machine in (0, 1):
        kept = root / f"machine{machine}"
        assert (kept / "my_program.py").read_text() == FILES
        told = json.loads((kept / "run.json").read_text())
        assert set(told["modules"]) == {"my_program"} and told["flags"]["eval_file"] is None


def test_options_of_both_decide_about_the_numbers(tmp_path: Path, cache: Path) -> None:
    runs = {(2, 3): {}, (1, 3): {}, (2, 1): {}}
    for (every, span), found in runs.items():
        made = experiment(tmp_path / f"e{every}{span}", cache, every, span)
        found |= undisturbed(made, 5)
    assert len({tuple(sorted(found.items())) for found in runs.values()}) == 3


def test_machines_with_different_programs_do_not_run_together(tmp_path: Path, cache: Path) -> None:
    made = experiment(tmp_path / "a", cache)
    shutil.copytree(made.folder, tmp_path / "b")
    _, first = made.start((4, 4), 1, 3, only=(0,))
    made.folder = tmp_path / "b"
    (made.folder / "my_program.py").write_text(FILES + "# another version\n")
    _, second = made.start((4, 4), 1, 3, only=(1,))
    said = [process.communicate(timeout=60)[1] for process in (*first, *second)]
    assert [process.returncode for process in (*first, *second)] == [2, 2]
    assert any("different module my_program" in text for text in said), said
