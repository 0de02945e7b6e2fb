"""Likelihood ratio with the other nodes' models as shadows (Carlini et al., S&P 2022, offline).

For each sample the other nodes' models of the same iteration say how a model looks that was not
trained on it; how far the attacked one lies above them tells membership (their equation 4).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from results.attacks.losstable import LossTable
from results.attacks.scores import auc, auc_interval, known, tpr_columns
from results.attacks.world import Truth

#: with fewer shadows one variance is taken for all samples, as the paper advises
_OWN_VARIANCE: Final = 16
_LEAST: Final = 2
_LARGEST: Final = 50.0


def lira(truth: Truth, table: LossTable) -> pd.DataFrame:
    """One row per saved model with at least two others of its iteration.

    agent, target, iteration, shadows, roc_auc with its interval, TPR at low FPR.
    """
    rows = []
    for iteration in sorted({one.iteration for one in table.saved}):
        at = _one_each(table, iteration)
        if len(at) <= _LEAST:
            continue
        scores = confidence(np.asarray(table.losses[list(at.values())]))
        for place, (agent, i) in enumerate(at.items()):
            ranks = -against(scores, place)  # low for members, as losses are
            members, others = ranks[truth.members[agent]], ranks[truth.tested]
            low, high = auc_interval(members, others)
            rows.append({
                "agent": agent, "target": table.saved[i].target, "iteration": iteration,
                "shadows": len(at) - 1, "roc_auc": auc(members, others),
                "roc_auc_low": low, "roc_auc_high": high, **tpr_columns(members, others),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _one_each(table: LossTable, iteration: int) -> dict[int, int]:
    """Row of each agent's first model of an iteration."""
    found: dict[int, int] = {}
    for i, one in enumerate(table.saved):
        if one.iteration == iteration:
            found.setdefault(one.agent, i)
    return found


def confidence(losses: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of p = exp(-loss), within +-50: nearly normal over models."""
    bounded = np.clip(known(losses), 1e-20, None)
    with np.errstate(over="ignore"):
        found = -np.log(np.expm1(np.minimum(bounded, 700.0)))
    return np.clip(found, -_LARGEST, _LARGEST)


def against(scores: np.ndarray, victim: int) -> np.ndarray:
    """How many standard deviations each of the victim's scores [samples] lies above the shadows',
    the other rows of ``scores`` [models, samples]."""
    shadows = np.delete(scores, victim, axis=0)
    mean, variance = shadows.mean(axis=0), shadows.var(axis=0, ddof=1)
    if len(shadows) < _OWN_VARIANCE:
        variance = np.full_like(variance, variance.mean())
    return (scores[victim] - mean) / np.sqrt(variance + 1e-12)
