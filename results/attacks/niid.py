"""Accuracy of kept models on test samples with their sender's label shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from results.attacks.alike import alike
from results.attacks.saved import Saved, find
from results.attacks.world import world


def niid_accuracy(run: Path, cache_dir: Path, overrides: Sequence[str] = ()) -> pd.DataFrame:
    """uid, iteration, test_niid_acc in per cent, of the first model that a node sent in each.

    Raises ValueError where no models were kept, or targets are no classes.
    """
    first: dict[tuple[int, int], Saved] = {}
    for one in find(run):
        if one.is_model:
            first.setdefault((one.agent, one.iteration), one)
    seen = world(run, cache_dir, overrides)
    labels = seen.truth.labels
    if labels is None or not first:
        raise ValueError(f"{run}: no models of classes were kept")
    victims, rows = seen.victims(), []
    for (uid, iteration), one in first.items():
        at = alike(labels, seen.truth.tested, seen.truth.members[uid], uid)
        share = float(victims.right(one.load())[at].mean()) if len(at) else float("nan")
        rows.append({"uid": uid, "iteration": iteration, "test_niid_acc": 100 * share})
    return pd.DataFrame(rows)
