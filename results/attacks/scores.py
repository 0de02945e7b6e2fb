"""How well a score tells members from non-members: ROC AUC, its interval, TPR at low FPR.

A score is a loss: the lower, the more it looks like a member. A loss that is no number counts as
infinite. Members are the positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

#: false positive rates at which the true positive rate is told
FPRS: Final = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_Z95: Final = 1.959963984540054


def known(losses: np.ndarray) -> np.ndarray:
    """Losses [n] as float64, with infinity for those that are no number."""
    found = np.asarray(losses, dtype=np.float64)
    return np.where(np.isnan(found), np.inf, found)


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """P(member's loss < other's) + P(equal) / 2; NaN without members or without others.

    The area under the ROC curve (Hanley & McNeil, 1982).
    """
    if not len(members) or not len(others):
        return float("nan")
    return float(_above(known(members), known(others)).mean())


def auc_interval(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of `auc`, by the variance of DeLong et al. (1988).

    NaN where either side has fewer than two samples.
    """
    m, n = len(members), len(others)
    if min(m, n) < 2:
        return float("nan"), float("nan")
    x, y = known(members), known(others)
    of_members, of_others = _above(x, y), 1 - _above(y, x)
    middle = float(of_members.mean())
    half = _Z95 * float(np.sqrt(of_members.var(ddof=1) / m + of_others.var(ddof=1) / n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _above(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each value the share of ``others`` above it, equal ones counted half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, "left")
    equal = np.searchsorted(ordered, values, "right") - below
    return (len(others) - below - equal + 0.5 * equal) / len(others)


def tpr_at_fpr(
    members: np.ndarray, others: np.ndarray, fprs: Sequence[float] = FPRS
) -> dict[float, float]:
    """The highest true positive rate of a threshold whose false positive rate is at most each.

    With fewer than 1 / fpr non-members that is a threshold without any false positive.
    """
    if not len(members) or not len(others):
        return dict.fromkeys(fprs, float("nan"))
    x, ordered = np.sort(known(members)), np.sort(known(others))
    found = {}
    for fpr in fprs:
        allowed = int(np.floor(fpr * len(ordered) * (1 + 1e-12)))
        if allowed >= len(ordered):
            found[fpr] = 1.0
        else:  # a threshold just below the first loss that may not be passed any more
            found[fpr] = float(np.searchsorted(x, ordered[allowed], "left")) / len(x)
    return found


def roc(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates of all thresholds, ascending from (0, 0) to (1, 1)."""
    x, y = known(members), known(others)
    thresholds = np.unique(np.concatenate([x, y]))
    fpr = np.searchsorted(np.sort(y), thresholds, "right") / max(len(y), 1)
    tpr = np.searchsorted(np.sort(x), thresholds, "right") / max(len(x), 1)
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def advantage(members: np.ndarray, others: np.ndarray) -> float:
    """The largest |TPR - FPR| of all thresholds; NaN without members or without others."""
    if not len(members) or not len(others):
        return float("nan")
    fpr, tpr = roc(members, others)
    return float(np.abs(tpr - fpr).max())


def tpr_columns(members: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """`tpr_at_fpr` under the reference system's names."""
    return {f"tpr_at_fpr{_short(fpr)}": tpr for fpr, tpr in tpr_at_fpr(members, others).items()}


def _short(fpr: float) -> str:
    return f"{fpr:g}" if fpr >= 1e-4 else f"{fpr:.0e}"
