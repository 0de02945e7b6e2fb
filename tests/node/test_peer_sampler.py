"""The central peer sampler changes bytes and seconds, and no number."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import experiment, here, named

from decentralizepy.errors import RunError

WEIGHTED = """
from decentralizepy import Graph, Schedule

class Weighted(Schedule):
    def __init__(self, n: int) -> None:
        super().__init__(n)

    def draw(self, t, k):
        edges = [(i, (i + 1 + t) % self.n) for i in range(self.n)]
        weights = {edge: 0.25 for edge in edges} | {(0, 0): 0.75}
        return Graph(self.n, edges, weights)
"""


@pytest.mark.parametrize("graphs", ["static", "dynamic", "weighted"])
def test_it_gives_the_numbers_of_dpsgd(graphs: str, tmp_path: Path, cache: Path) -> None:
    schedule = {
        "static": "",
        "dynamic": "[GRAPH]\ngraph_package = decentralizepy.graphs.schedules\n"
        "graph_class = RandomRegularSchedule\ndegree = 3\nper_averaging_round = True",
        "weighted": "[GRAPH]\ngraph_package = weighted\ngraph_class = Weighted",
    }[graphs]
    rows, meta = {}, {}
    for name, node in (("plain", ""), ("asked", named("peer_sampler", "CentralPeerSampler"))):
        one = experiment(tmp_path, cache, name, node=node, schedule=schedule)
        (one.folder / "weighted.py").write_text(WEIGHTED)
        out = here(one, "run", 4, test_after=4, averaging_steps=2)
        rows[name] = [out.rows[uid] for uid in range(8)]
        meta[name] = [r["total_bytes"] for r in out.records if r["iteration"] == 4]
    assert all((a == b).all() for a, b in zip(rows["plain"], rows["asked"], strict=True))
    assert min(meta["asked"]) > max(meta["plain"]), "questions are counted"


def test_without_its_sampler_a_run_ends(tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, "peer_sampler")
    (one.folder / "links.json").write_text('{"links": {"latency_s": 0.1}}')
    (one.folder / "faults.json").write_text('[{"slow_link": {"from": 0, "to": -1, "delay_s": 1},'
                                            ' "rounds": [1, 9]}]')  # fmt: skip
    flags = {"simulate": one.folder / "links.json", "faults": one.folder / "faults.json"}
    slow = here(one, "slow", 3, test_after=3, **flags)
    assert min(r["elapsed_s"] for r in slow.records if r["iteration"] == 3 and r["uid"] == 0) > 3.3
    (one.folder / "faults.json").write_text('[{"kill": {"node": -1}, "round": 2}]')
    with pytest.raises(RunError, match="sampler was lost"):
        here(one, "run", 3, on_loss="drop", **flags)
