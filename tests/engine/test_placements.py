"""The same bits in every placement: one worker, several, several machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import Experiment, digests

from decentralizepy.graphs.generators import erdos_renyi
from decentralizepy.graphs.graph import Graph
from decentralizepy.runfolder import RunFolder, machine_records

ITERATIONS = 4
NODES = 10
#: nodes of each machine, workers of each machine
PLACEMENTS = [((10,), 4), ((6, 4), 2)]

CASES = {
    "static": ({"model_package": "everything", "model": "Everything"}, "testing.py", "1"),
    "dynamic": (
        {"model_package": "everything", "model": "Everything", "node": "graph_degree = 3"},
        "testingPeerSamplerDynamic.py",
        "1",
    ),
    "stacked": ({"model": "MLP", "node": "graph_degree = 4\ndynamic_avgrounds = True"},
                "testingPeerSamplerDynamicMultipleAvgRounds.py", "2"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_placement_gives_the_same_parameters_after_every_round(
    case: str, tmp_path: Path, cache: Path
) -> None:
    """Batch norm, dropout, shuffling and momentum; irregular and fresh random graphs."""
    options, driver, steps = CASES[case]
    options = options | {"optimizer_options": "momentum = 0.9\nnesterov = True"}
    experiment = Experiment(tmp_path, erdos_renyi(NODES, 0.4, 3), cache, **options)
    more = ("--eval_file", driver, "-as", steps, "-ta", "2", "-tea", "2", "--digests")
    expected = digests(experiment.run((NODES,), 1, ITERATIONS, *more))
    assert set(expected) == {(t, u) for t in range(1, ITERATIONS + 1) for u in range(NODES)}
    assert len(set(expected.values())) == len(expected), "every row is another one"
    for counts, workers in PLACEMENTS:
        root = experiment.run(counts, workers, ITERATIONS, *more)
        assert digests(root) == expected
        crossed = _last(root, "wire_bytes")
        assert (sum(crossed) > 0) == (len(counts) > 1)


def test_a_missing_edge_gives_other_parameters(tmp_path: Path, cache: Path) -> None:
    """The comparison above can fail: it sees a missing edge."""
    plain = {
        "sharing_package": "decentralizepy.sharing.PlainAverageSharing",
        "sharing": "PlainAverageSharing",
    }
    path = Graph.undirected(4, [(0, 1), (1, 2), (2, 3)])
    whole = Experiment(tmp_path / "a", path, cache, **plain)
    cut = Experiment(tmp_path / "b", Graph.undirected(4, [(0, 1), (2, 3)]), cache, **plain)
    first, second = (digests(e.run((4,), 1, 2, "--digests")) for e in (whole, cut))
    assert first != second
    assert first[(1, 0)] == second[(1, 0)], "node 0 has the same neighbour in its first round"
    assert first[(2, 0)] != second[(2, 0)]


def _last(root: Path, column: str) -> list[float]:
    rows = [row for m in RunFolder(root).machines().values() for row in machine_records(m).rows]
    last = max(row["iteration"] for row in rows)
    return [row[column] for row in rows if row["iteration"] == last]
