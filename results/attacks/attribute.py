"""Which classes a node has: a model loses less on the classes that it was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from results.attacks.losstable import LossTable
from results.attacks.saved import Saved
from results.attacks.scores import auc, known
from results.attacks.world import Truth


def attribute(truth: Truth, table: LossTable) -> pd.DataFrame:
    """One row per saved model, guessed from its mean losses on the test samples of each class.

    agent, target, iteration; attribute_auc (classes that the node has against those it has not;
    NaN where it has all or none), attribute_top (of as many classes as it has, the share guessed),
    attribute_correlation (Spearman, of its samples of each class with the negative losses).
    Raises ValueError where targets are no classes.
    """
    if truth.labels is None:
        raise ValueError("attribute inference needs classes, and the targets of this run are none")
    return pd.DataFrame([_row(truth, truth.labels, *pair) for pair in table.rows()])


def _row(truth: Truth, labels: np.ndarray, saved: Saved, losses: np.ndarray) -> dict[str, Any]:
    classes = np.unique(labels[truth.tested])
    tested = known(losses[truth.tested])
    of_class = [tested[labels[truth.tested] == label] for label in classes]
    means = np.array([float(values.mean()) for values in of_class])
    own = labels[truth.members[saved.agent]]
    counts = np.array([int((own == label).sum()) for label in classes])
    guessed = np.argsort(means, kind="stable")[: int((counts > 0).sum())]
    return {
        "agent": saved.agent,
        "target": saved.target,
        "iteration": saved.iteration,
        "attribute_auc": auc(means[counts > 0], means[counts == 0]),
        "attribute_top": float((counts[guessed] > 0).mean()) if len(guessed) else float("nan"),
        "attribute_correlation": _spearman(counts, -means),
    }


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return float("nan")
    return float(pd.Series(a).corr(pd.Series(b), method="spearman"))
