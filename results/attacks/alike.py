"""Non-members with the label shares of a node: what is left to tell is not the labels."""

from __future__ import annotations

import numpy as np


def alike(labels: np.ndarray, among: np.ndarray, example: np.ndarray, seed: int) -> np.ndarray:
    """As many of ``among`` as can be had with the label shares of ``example``."""
    classes, wanted = np.unique(labels[example], return_counts=True)
    there = [among[labels[among] == label] for label in classes]
    scale = min(len(some) / count for some, count in zip(there, wanted, strict=True))
    rng = np.random.default_rng((seed, 0))
    drawn = [
        rng.choice(some, int(scale * count), replace=False)
        for some, count in zip(there, wanted, strict=True)
    ]
    return np.sort(np.concatenate(drawn)) if drawn else among[:0]
