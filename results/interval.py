"""Confidence intervals of means over a few seeds."""

from __future__ import annotations

from typing import Final

import numpy as np

#: 97.5 % points of Student's t for 1 to 10 degrees of freedom.
_STUDENT: Final = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


def half_width_95(values: np.ndarray) -> np.ndarray:
    """Half of the 95 % confidence interval of each row's mean; NaN for a single column."""
    count = values.shape[1]
    if count < 2:
        return np.full(values.shape[0], np.nan)
    with np.errstate(invalid="ignore"):  # a loss that diverged to infinity
        return student(count - 1) * values.std(axis=1, ddof=1) / np.sqrt(count)


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t, to four digits: SciPy is too much for one number."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
