"""The draws of many nodes and iterations at once, number for number those of each alone.

A generator of its own costs a node 10 us an iteration, more than the arithmetic of a small model.
Here NumPy's own algorithms run on many streams in step: `choices` is ``Generator.choice`` without
replacement (Floyd's sampling, then a shuffle), `permutations` is ``Generator.permutation``. Where a
stream leaves the common step (a number is rejected), and where another version of NumPy draws
otherwise, the node's own generator is asked: see `Draws`.
"""

from __future__ import annotations

import numpy as np

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_RANGE = np.uint64(1 << 32)


def halves(words: np.ndarray) -> np.ndarray:
    """Raw words [R, n] as the 32-bit numbers that NumPy takes from them, [2 n, R] uint64."""
    return np.ascontiguousarray(words).view("<u4").T.astype(np.uint64)


def choices(n: np.ndarray, k: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``choice(n[r], k, replace=False)`` for every stream r, as [R, k]; and which are wrong.

    ``numbers`` [at least 2 k - 1, R] are the streams' `halves`; 1 <= k <= n[r] <= 10,000.
    """
    rows = np.arange(len(n))
    redo = np.zeros(len(n), dtype=bool)
    found = np.empty((k, len(n)), dtype=np.int64)
    skipped = (n == k).astype(np.int64)  # of one number there is no choice: none is consumed
    for s in range(k):
        most = n - k + s
        drawn = _bounded(numbers[np.maximum(s - skipped, 0), rows], most.astype(np.uint64), redo)
        drawn[most == 0] = 0
        taken = (found[:s] == drawn).any(axis=0)
        found[s] = np.where(taken, most, drawn)
    for s in range(k - 1):
        last = k - 1 - s
        other = _bounded(numbers[k + s - skipped, rows], np.uint64(last), redo)
        swapped = found[other, rows]
        found[other, rows] = found[last]
        found[last] = swapped
    return found.T, redo


def _bounded(numbers: np.ndarray, largest: np.ndarray | np.uint64, redo: np.ndarray) -> np.ndarray:
    """Numbers 0 to ``largest``, inclusive, by Lemire's method; those rejected are marked."""
    size = largest + np.uint64(1)
    product = numbers * size
    rest = product & _LOW
    if (rest < size).any():
        redo |= rest < _RANGE % size
    return (product >> _HALF).astype(np.int64)


def permutations(n: np.ndarray, epochs: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``epochs`` times ``permutation(n[r])`` one after the other, for every stream r.

    As [R, epochs * n.max()], row r in its first epochs * n[r] entries; and which are unfinished,
    for more of their ``numbers`` [any, R] were rejected than usual.
    """
    count, widest = len(n), int(n.max())
    found = np.empty((epochs * widest, count), dtype=np.int64)
    np.remainder(np.arange(epochs * widest)[:, None], n, out=found)
    flat, first = found.reshape(-1), np.arange(count)  # where each stream's epoch begins
    masks, last = _masks(widest), n - 1
    left = np.where(n > 1, epochs, 0)
    last *= left > 0
    for number in numbers:
        drawn = (number & masks.take(last)).astype(np.int64)
        accepted = drawn <= last
        accepted &= last > 0
        np.copyto(drawn, last, where=~accepted)
        here, there = last * count, drawn
        there *= count
        here += first
        there += first
        swapped = flat.take(here)
        flat[here] = flat.take(there)
        flat[there] = swapped
        last -= accepted
        ended = np.flatnonzero(accepted & (last == 0))
        if len(ended):
            left[ended] -= 1
            again = ended[left[ended] > 0]
            first[again] += n[again] * count
            last[again] = n[again] - 1
            if not left.any():
                break
    return found.T, left > 0


def _masks(size: int) -> np.ndarray:
    """For each i below ``size`` the smallest 2^b - 1 that is not below i."""
    return np.array([(1 << i.bit_length()) - 1 for i in range(size)], dtype=np.uint64)


def expected_numbers(n: int, epochs: int) -> int:
    """How many 32-bit numbers `permutations` of ``n`` hardly ever exceed (four deviations)."""
    accepted = np.arange(2, n + 1) / (_masks(n)[1:].astype(np.float64) + 1)
    mean = epochs * (1 / accepted).sum()
    spread = epochs * ((1 - accepted) / accepted**2).sum()
    return int(mean + 4 * np.sqrt(spread)) + 8
