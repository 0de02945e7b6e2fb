"""Neighbours that pool what one node sent them: the mean of it has less of the noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from results.attacks.losstable import Losses
from results.attacks.saved import Saved
from results.attacks.scores import auc, auc_interval, tpr_columns
from results.attacks.world import Truth


def colluders(truth: Truth, saved: Sequence[Saved], victims: Callable[[], Losses]) -> pd.DataFrame:
    """One row per node and iteration of which models for at least two receivers were kept.

    agent, iteration, colluders (how many), roc_auc of the threshold on the losses of the mean
    model, its 95 % interval, TPR at low FPR. Raises ValueError where there is no such pair.
    """
    groups: defaultdict[tuple[int, int], list[Saved]] = defaultdict(list)
    for one in saved:
        if one.is_model:
            groups[one.iteration, one.agent].append(one)
    pooled = {key: group for key, group in groups.items() if len(group) > 1}
    if not pooled:
        raise ValueError(
            "colluding neighbours need models sent to several receivers: set nb_targets_to_save = "
            "2 or more in [SHARING] (and save_for_attacks_as = models)"
        )
    losses, rows = victims(), []
    for (iteration, agent), group in sorted(pooled.items()):
        own = truth.members[agent]
        found = losses(_mean(group), own)
        members, others = found[own], found[truth.tested]
        low, high = auc_interval(members, others)
        rows.append({
            "agent": agent, "iteration": iteration, "colluders": len(group),
            "roc_auc": auc(members, others), "roc_auc_low": low, "roc_auc_high": high,
            **tpr_columns(members, others),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _mean(group: Sequence[Saved]) -> np.ndarray:
    total = np.zeros(0)
    for one in group:
        vector = one.load()
        if len(total) and len(vector) != len(total):
            raise ValueError(f"{one.path}: {len(vector)} numbers; the others have {len(total)}")
        total = vector.astype(np.float64) if not len(total) else total + vector
    return (total / len(group)).astype(np.float32)
