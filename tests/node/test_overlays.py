"""Overlays against brute force over label histograms; discovery by messages alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from programs import NODES, experiment, here
from teams import Team

from decentralizepy.errors import RunError
from decentralizepy.graphs.generators import ring
from decentralizepy.node.knn import chosen, similarities
from decentralizepy.words import Record


def brute_force(histograms: np.ndarray, k: int, nearest: bool) -> set[tuple[int, int]]:
    """Links by comparing all pairs, one after the other."""
    n, links = len(histograms), set()
    for i in range(n):

        def order(j: int, i: int = i) -> tuple[float, int]:
            a, b = histograms[i].astype(float), histograms[j].astype(float)
            scale = np.sqrt((a @ a) * (b @ b))
            cosine = (a @ b) / scale if scale else 0.0
            return (-cosine if nearest else cosine), (j - i) % n

        others = sorted((j for j in range(n) if j != i), key=order)
        links |= {(min(i, j), max(i, j)) for j in others[:k]}
    return links


@given(
    arrays(np.int64, st.tuples(st.integers(2, 12), st.integers(1, 5)),
           elements=st.integers(0, 9)),
    st.integers(1, 5), st.booleans(),
)  # fmt: skip
def test_whom_nodes_choose_is_what_brute_force_finds(
    histograms: np.ndarray, k: int, nearest: bool
) -> None:
    found = chosen(histograms, k, nearest)
    links = {(min(i, int(j)), max(i, int(j))) for i, row in enumerate(found) for j in row}
    assert links == brute_force(histograms, k, nearest)
    assert similarities(histograms).max() <= 1 + 1e-12


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("name", ["knn", "kfn"])
def test_nodes_find_the_overlay_by_messages(name: str, n: int, tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, name, ring(n) if n > 2 else None)
    one.graph = ring(n) if n > 2 else n
    out = here(one, "run", 1, test_after=0)
    counts = np.array([out.nodes[uid].label_counts for uid in range(n)])
    expected = brute_force(counts, 2, nearest=name == "knn")
    for uid in range(n):
        assert {tuple(link) for link in out.nodes[uid].links.tolist()} == expected
        graph = out.nodes[uid].graph_at(0)
        assert graph.is_symmetric() and graph.size == 2 * len(expected)


def test_the_nearest_share_labels_and_the_farthest_do_not(tmp_path: Path, cache: Path) -> None:
    alike = {}
    for name in ("knn", "kfn"):
        out = here(experiment(tmp_path, cache, name), "run", 1, test_after=0)
        counts = np.array([out.nodes[uid].label_counts for uid in range(NODES)])
        near = similarities(counts)
        alike[name] = np.mean([near[i, j] for i, j in out.nodes[0].links.tolist()])
    assert alike["knn"] > alike["kfn"] + 0.3


def test_a_run_that_goes_on_knows_its_overlay(tmp_path: Path, cache: Path) -> None:
    """It is part of the checkpoint: nobody tells anybody histograms again."""
    one = experiment(tmp_path, cache, "knn")
    flags = ("-ta", "4", "-tea", "0", "--checkpoint_after", "2")
    Team(one, 3, *flags, name="half").run()
    rest = Team(one, 4, *flags, name="rest", restore=("half", 2)).run()
    whole = Team(one, 4, *flags, name="whole").run()
    assert bytes_after(rest, 4) == bytes_after(whole, 4)


def bytes_after(team: Team, iteration: int) -> dict[int, int]:
    records = (told.columns for told in team.told if isinstance(told, Record))
    return {row["uid"]: row["total_bytes"] for row in records if row["iteration"] == iteration}


def test_a_loss_before_the_overlay_is_there_ends_the_run(tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, "knn")
    (one.folder / "faults.json").write_text('[{"kill": {"node": 2}, "round": 1}]')
    (one.folder / "links.json").write_text('{"links": {"latency_s": 0.1}}')
    flags = {"simulate": one.folder / "links.json", "faults": one.folder / "faults.json"}
    with pytest.raises(RunError, match="node 2 was lost before the overlay was built"):
        here(one, "run", 2, on_loss="drop", **flags)
