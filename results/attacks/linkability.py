"""Whose model is it: the node whose training samples it loses least on (Biswas et al., 2025)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from results.attacks.losstable import LossTable
from results.attacks.saved import Saved
from results.attacks.world import Truth


def linkability(truth: Truth, table: LossTable) -> pd.DataFrame:
    """One row per saved model; an attacker without its name guesses whose it is.

    Columns of the reference system: agent, target, iteration, linkability_real_rank (0: guessed),
    linkability_top1, linkability_top5 (whether the sender is the best, among the best five),
    linkability_top1_guess, ``loss_trainset_<uid>`` (mean over samples). A model without a finite
    loss links to nobody: its guess is -1 and its rank the last. Equal losses are ranked by half.
    """
    owned = list(truth.members)
    return pd.DataFrame([_row(owned, saved, losses) for saved, losses in table.rows()])


def _row(owned: list[np.ndarray], saved: Saved, losses: np.ndarray) -> dict[str, Any]:
    means = np.array([_mean(losses[members]) for members in owned])
    own = means[saved.agent]
    if np.isnan(own):
        rank, guess = float(len(means) - 1), -1
    else:
        others = np.delete(means, saved.agent)
        rank = float((others < own).sum() + 0.5 * (others == own).sum())
        guess = int(np.nanargmin(means))
    return {
        "agent": saved.agent,
        "target": saved.target,
        "iteration": saved.iteration,
        "linkability_real_rank": rank,
        "linkability_top1": int(rank < 1),
        "linkability_top5": int(rank < 5),
        "linkability_top1_guess": guess,
        **{f"loss_trainset_{uid}": value for uid, value in enumerate(means.tolist())},
    }


def _mean(losses: np.ndarray) -> float:
    """The mean; NaN where it is not finite or there is nothing."""
    if not len(losses):
        return float("nan")
    found = float(np.mean(losses, dtype=np.float64))
    return found if np.isfinite(found) else float("nan")
