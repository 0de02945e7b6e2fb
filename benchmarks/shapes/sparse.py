"""Sparse methods reach the accuracy of whole models with few of the bytes (JWINS, ICDCS 2023).

``python -m benchmarks.shapes.sparse`` trains 16 nodes on the digits, two label shards each, over a
4-regular graph, with each method and seed (about two minutes on an idle core). It saves
docs/figures/sparse.png and .csv, and fails if the shape is not there: after 300 iterations JWINS
with its authors' settings, and top-k gossip of a fifth with accumulation, are at most a point below
whole models on average, with at most 40 % and 25 % of their bytes; and a random fifth is 10 points
or more behind the fifth that changed most.
"""

from __future__ import annotations

import statistics
from typing import Final

from benchmarks.shapes.shape import ROOT, SEEDS, draw, save_data
from decentralizepy import run_here
from decentralizepy.graphs.generators import regular

NODES, DEGREE, ITERATIONS, EVERY = 16, 4, 300, 30
_ALL: Final = "accumulation = True\naccumulate_averaging_changes = True\n"
#: [SHARING] of each method: the end of its package, and its options
METHODS: Final = {
    "random, a fifth": ("SubSampling", "alpha = 0.2"),
    "CHOCO, a tenth": ("Choco", "alpha = 0.1\nstep_size = 0.4\ncompression = elias_gamma"),
    "top-k, a fifth": ("PartialModel", f"alpha = 0.2\n{_ALL}compression = elias_gamma"),
    "JWINS": ("JWINS.JWINS", "alpha_list = [0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 1.0]\n"
              f"wavelet = sym2\nmetadata_cap = 0.5\n{_ALL}compression = fpzip + elias_gamma"),
    "whole models": ("Sharing", ""),
}  # fmt: skip
WITHIN: Final = 1.0
BYTES: Final = {"JWINS": 0.40, "top-k, a fifth": 0.25}
BEHIND: Final = 10.0
#: iteration -> (mean accuracy of the nodes in %, MB that a node has sent on average)
Course = dict[int, tuple[float, float]]


def course(method: str, seed: int) -> Course:
    """One run."""
    package, options = METHODS[method]
    text = (ROOT / "run_configuration" / "digits_kshard2_mlp.ini").read_text()
    head, _ = text.split("[SHARING]")
    head = head.replace("random_seed = 90", f"random_seed = {seed}")
    text = (
        f"{head}[SHARING]\nsharing_package = decentralizepy.sharing.{package}\n"
        f"sharing_class = {package.split('.')[-1]}\n{options}\n"
    )
    found = run_here(
        text, regular(NODES, DEGREE, seed), ITERATIONS,
        test_after=EVERY, train_evaluate_after=0, reset_optimizer=0,
    )  # fmt: skip
    reached: dict[int, list[tuple[float, float]]] = {}
    for record in found.records:
        pair = record["test_acc"], record["total_bytes"] / 1e6
        reached.setdefault(record["iteration"], []).append(pair)
    return {
        t: (statistics.fmean(a for a, _ in pairs), statistics.fmean(b for _, b in pairs))
        for t, pairs in reached.items()
        if t > 1
    }


def measure() -> tuple[dict[str, list[Course]], list[dict[str, object]]]:
    """The courses of all methods by seed, and all as rows."""
    courses = {method: [course(method, seed) for seed in SEEDS] for method in METHODS}
    rows: list[dict[str, object]] = [
        {"method": method, "seed": seed, "iteration": t, "megabytes": round(sent, 4),
         "mean_test_acc": round(reached, 3)}
        for method, found in courses.items()
        for seed, one in zip(SEEDS, found, strict=True)
        for t, (reached, sent) in one.items()
    ]  # fmt: skip
    return courses, rows


def curve(found: list[Course]) -> dict[float, list[float]]:
    """Accuracies by seed, at the megabytes sent on average."""
    return {
        statistics.fmean(one[t][1] for one in found): [one[t][0] for one in found] for t in found[0]
    }


def last(found: list[Course]) -> tuple[float, float]:
    """Accuracy and megabytes in the end, on average."""
    ends = [one[ITERATIONS] for one in found]
    return statistics.fmean(a for a, _ in ends), statistics.fmean(b for _, b in ends)


def main() -> int:
    """Measure, save, and say whether the shape is there; 1 if it is not."""
    courses, rows = measure()
    save_data("sparse", rows)
    curves = {method: curve(found) for method, found in courses.items()}
    draw("sparse", curves, "Megabytes sent by a node", "Mean test accuracy (%)",
         ticks=(0.3, 1, 3, 10, 20))  # fmt: skip
    ends = {method: last(found) for method, found in courses.items()}
    whole, most = ends["whole models"]
    for method, (reached, sent) in ends.items():
        print(
            f"{method}: {reached:.1f} %, {reached - whole:+.1f} points, {sent / most:.0%} of bytes"
        )
    near = all(
        ends[method][0] >= whole - WITHIN and ends[method][1] <= share * most
        for method, share in BYTES.items()
    )
    return int(not near or ends["top-k, a fifth"][0] < ends["random, a fifth"][0] + BEHIND)


if __name__ == "__main__":
    raise SystemExit(main())
