"""Membership by a threshold on the loss (Yeom et al., CSF 2018): members have the lower losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from results.attacks.alike import alike
from results.attacks.losstable import LossTable
from results.attacks.saved import Saved
from results.attacks.scores import advantage, auc, auc_interval, tpr_columns
from results.attacks.world import Truth


def threshold(truth: Truth, table: LossTable, seed: int = 0) -> pd.DataFrame:
    """One row per saved model, members (the sender's samples) against the whole test set.

    Columns of the reference system: agent, target, iteration, roc_auc, gini_auc (2 AUC - 1), both
    ``_balanced`` (as many test samples as members, drawn from ``seed``) and ``_class<c>``. Beside
    them: ``roc_auc_within`` (the classes' AUCs, weighted by members: what is left of roc_auc when
    labels tell nothing), attacker_advantage (the largest |TPR - FPR|; ``_niid``: against test
    samples with the sender's label shares), the 95 % interval ``roc_auc_low`` to
    ``roc_auc_high``, TPR at low FPR, generalization_gap (mean loss of the test set
    less that of the members), members.
    """
    return pd.DataFrame([_row(truth, saved, losses, seed) for saved, losses in table.rows()])


def _row(truth: Truth, saved: Saved, losses: np.ndarray, seed: int) -> dict[str, Any]:
    inside, outside = truth.members[saved.agent], truth.tested
    members, others = losses[inside], losses[outside]
    whole, balanced = auc(members, others), auc(*_balanced(members, others, seed, saved))
    low, high = auc_interval(members, others)
    by_class = dict(_by_class(truth, losses, inside, outside))
    return {
        "agent": saved.agent,
        "target": saved.target,
        "iteration": saved.iteration,
        "roc_auc": whole,
        "roc_auc_low": low,
        "roc_auc_high": high,
        "roc_auc_balanced": balanced,
        "gini_auc": 2 * whole - 1,
        "gini_auc_balanced": 2 * balanced - 1,
        "roc_auc_within": _within(by_class, truth, inside),
        "attacker_advantage": advantage(members, others),
        "attacker_advantage_niid": advantage(members, losses[_same_labels(truth, inside, seed)]),
        **tpr_columns(members, others),
        "generalization_gap": _mean(others) - _mean(members),
        "members": len(inside),
        "finite": float(np.isfinite(members).mean()) if len(inside) else float("nan"),
        **{f"roc_auc_class{label}": value for label, value in by_class.items()},
        **{f"gini_auc_class{label}": 2 * value - 1 for label, value in by_class.items()},
    }


def _same_labels(truth: Truth, inside: np.ndarray, seed: int) -> np.ndarray:
    if truth.labels is None:
        return truth.tested
    return alike(truth.labels, truth.tested, inside, seed)


def _mean(losses: np.ndarray) -> float:
    return float(np.mean(losses, dtype=np.float64)) if len(losses) else float("nan")


def _balanced(
    members: np.ndarray, others: np.ndarray, seed: int, saved: Saved
) -> tuple[np.ndarray, np.ndarray]:
    """As many of either, drawn at random from the larger side."""
    rng = np.random.default_rng((seed, saved.agent, saved.iteration))
    size = min(len(members), len(others))
    some = [one if len(one) == size else rng.choice(one, size, replace=False)
            for one in (members, others)]  # fmt: skip
    return some[0], some[1]


def _by_class(
    truth: Truth, losses: np.ndarray, inside: np.ndarray, outside: np.ndarray
) -> Iterator[tuple[int, float]]:
    """AUC among the samples of one class, for classes that have any on either side."""
    if truth.labels is None:
        return
    of_members, of_others = truth.labels[inside], truth.labels[outside]
    for label in np.union1d(of_members, of_others).tolist():
        yield label, auc(losses[inside[of_members == label]], losses[outside[of_others == label]])


def _within(by_class: dict[int, float], truth: Truth, inside: np.ndarray) -> float:
    if truth.labels is None:
        return float("nan")
    counts = np.bincount(truth.labels[inside], minlength=max(by_class, default=0) + 1)
    told = {label: value for label, value in by_class.items() if not np.isnan(value)}
    total = sum(counts[label] for label in told)
    if not total:
        return float("nan")
    return float(sum(counts[label] * value for label, value in told.items()) / total)
