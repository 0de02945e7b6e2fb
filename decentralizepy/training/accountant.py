"""What a node's noisy gradients reveal of one of its samples: (epsilon, delta) after some steps.

Renyi differential privacy of the Gaussian mechanism on Poisson samples (Mironov, Talwar and Zhang,
2019, arXiv 1908.10530, section 3.3), composed over steps, turned into (epsilon, delta) by Canonne,
Kamath and Steinke (NeurIPS 2020, proposition 12). Neighbours differ by one sample that is there or
not. Orders are whole numbers, so the bound may be slightly larger than with all orders.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: orders of the Renyi divergence: dense where the least bound mostly is
ORDERS: Final = (*range(2, 65), *range(72, 257, 8), *range(288, 1025, 32))


def epsilon(steps: int, rate: float, noise: float, delta: float) -> float:
    """The least epsilon for which ``steps`` steps are (epsilon, ``delta``)-private.

    In each step a sample is drawn with probability ``rate``; ``noise`` is the standard deviation of
    the noise in multiples of the clipping norm. Without noise it is infinite, without steps 0.
    """
    if not steps or not rate:
        return 0.0
    if not noise:
        return float("inf")
    orders = np.array(ORDERS, dtype=np.float64)
    spent = steps * divergences(rate, noise)
    bound = spent + np.log1p(-1 / orders) - (np.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(bound.min()))


@functools.lru_cache(maxsize=4096)
def divergences(rate: float, noise: float) -> Floats:
    """The Renyi divergence of one step at each of `ORDERS`."""
    return np.array([_divergence(order, rate, noise) for order in ORDERS])


def _divergence(order: int, rate: float, noise: float) -> float:
    """(1 / (a - 1)) log of the sum over k of C(a, k) (1 - q)^(a - k) q^k exp((k^2 - k) / 2 s^2)."""
    if rate >= 1:
        return order / (2 * noise**2)
    k = np.arange(order + 1, dtype=np.float64)
    terms = _log_binomials(order) + (order - k) * np.log1p(-rate) + k * np.log(rate)
    terms += (k * k - k) / (2 * noise**2)
    largest = terms.max()
    return float(largest + np.log(np.exp(terms - largest).sum())) / (order - 1)


def _log_binomials(order: int) -> Floats:
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, order + 1)))])
    found: Floats = factorials[order] - factorials - factorials[::-1]
    return found
