"""Membership of the least lost: of the k samples with the lowest losses, how many are members."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from results.attacks.losstable import LossTable
from results.attacks.scores import known
from results.attacks.world import Truth

SIZES: Final = (1, 5, 10, 100, 250, 500)


def topk(truth: Truth, table: LossTable) -> pd.DataFrame:
    """One row per saved model: agent, target, iteration, ``top<k>_acc`` for k of `SIZES`.

    The reference's biased threshold. Samples of equal loss are taken in equal shares; k above the
    number of samples, and models whose losses are all infinite, give NaN.
    """
    rows = []
    for saved, losses in table.rows():
        members, others = (known(losses[at]) for at in (truth.members[saved.agent], truth.tested))
        shares = {f"top{k}_acc": _share(members, others, k) for k in SIZES}
        place = {"agent": saved.agent, "target": saved.target, "iteration": saved.iteration}
        rows.append(place | shares)
    return pd.DataFrame(rows)


def _share(members: np.ndarray, others: np.ndarray, k: int) -> float:
    every = np.concatenate([members, others])
    if k > len(every):
        return float("nan")
    last = np.partition(every, k - 1)[k - 1]
    if not np.isfinite(last):
        return float("nan")
    sure = int((members < last).sum())
    left = k - int((every < last).sum())
    return float((sure + left * (members == last).sum() / (every == last).sum()) / k)
