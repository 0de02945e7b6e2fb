"""Which training samples each node gets: the four schemes of the reference system, seed for seed.

Every function returns one int64 index array per node, in uid order. No sample is given twice; some
may be given to nobody (fractions are rounded down, as in the reference).
"""

import math
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

SCHEMES = ("simple", "iid", "kshard", "dirichlet")
#: those that look at labels
BY_LABEL = ("kshard", "dirichlet")

# A few seconds for 50,000 samples; the reference tries for ever.
DIRICHLET_TRIES = 5_000


def scheme(partition_niid: str | bool) -> str:
    """The scheme that an INI value of `partition_niid` names.

    `False` (or empty) is the old spelling of iid, `True` that of kshard.
    Raises ValueError for any other value that is not in `SCHEMES`.
    """
    word = str(partition_niid).strip().lower()
    name = {"": "iid", "false": "iid", "true": "kshard"}.get(word, word)
    if name not in SCHEMES:
        raise ValueError(
            f"partition_niid = {partition_niid!r} is not a partition; "
            f"use one of {', '.join(SCHEMES)} (False means iid, True means kshard)"
        )
    return name


def partition(
    labels: npt.NDArray[np.int64],
    n: int,
    *,
    partition_niid: str | bool = "simple",
    sizes: Sequence[float] | None = None,
    seed: int = 1234,
    alpha: float = 100.0,
    shards: int = 1,
    num_classes: int = 10,
) -> list[Indices]:
    """Deal the samples with these labels to `n` nodes by the scheme that `partition_niid` names.

    `sizes` are fractions of all samples, one per node (None: equal parts, the remainder to the
    last); `dirichlet` ignores their values. Raises ValueError when a node would get nothing.
    """
    name = scheme(partition_niid)
    fractions = equal_sizes(len(labels), n) if sizes is None else list(sizes)
    check_sizes(fractions, len(labels), n)
    if name == "simple":
        return simple(len(labels), fractions)
    if name == "iid":
        return iid(len(labels), fractions, seed)
    if name == "kshard":
        return kshard(labels, fractions, seed, shards)
    return dirichlet(labels, n, seed, alpha, num_classes)


def equal_sizes(length: int, n: int) -> list[float]:
    """`n` equal fractions of `length` samples; the last one also takes what rounding leaves.

    The order of the floating-point operations is the reference's: it decides the lengths.
    """
    _check_nodes(length, n)
    fraction = (length // n) / length
    sizes = [fraction] * n
    sizes[-1] += 1.0 - fraction * n
    return sizes


def check_sizes(sizes: Sequence[float], length: int, n: int) -> None:
    """Raise ValueError unless `sizes` are `n` positive fractions that sum to at most 1."""
    _check_nodes(length, n)
    if len(sizes) != n:
        raise ValueError(f"sizes has {len(sizes)} fractions for {n} nodes; give one per node")
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        raise ValueError(
            f"every fraction in sizes must be above 0, got {list(sizes)}; for a node without "
            "samples give it an empty array in a partition of your own (override "
            "Dataset.partition)"
        )
    if sum(sizes) > 1 + 1e-9:
        raise ValueError(
            f"sizes sum to {sum(sizes):g}; they are fractions of the training set "
            "and must sum to 1 (or less, to leave samples out)"
        )


def simple(length: int, sizes: Sequence[float]) -> list[Indices]:
    """Consecutive runs of the samples as they are stored."""
    return _runs(np.arange(length, dtype=np.int64), sizes)


def iid(length: int, sizes: Sequence[float], seed: int) -> list[Indices]:
    """Consecutive runs after one shuffle (Python's generator, as in the reference)."""
    order = list(range(length))
    random.Random(seed).shuffle(order)
    return _runs(np.array(order, dtype=np.int64), sizes)


def kshard(
    labels: npt.NDArray[np.int64], sizes: Sequence[float], seed: int, shards: int = 1
) -> list[Indices]:
    """`shards` blocks per node, cut at random places from the samples sorted by class.

    A block goes round at the end of what is left. Within a class the stored order is kept.
    """
    lengths = [length // shards for length in _lengths(len(labels), sizes)]
    _check_lengths(lengths, f"use fewer nodes or fewer shards than {shards}")
    rng = random.Random(seed)
    left = np.argsort(labels, kind="stable").astype(np.int64)
    parts = []
    for length in lengths:
        blocks = []
        for _ in range(shards):
            block, left = _take(left, rng.randint(0, len(left) - 1), length)
            blocks.append(block)
        parts.append(np.concatenate(blocks))
    return parts


def dirichlet(
    labels: npt.NDArray[np.int64],
    n: int,
    seed: int,
    alpha: float = 100.0,
    num_classes: int = 10,
) -> list[Indices]:
    """Each class split over the nodes in Dirichlet(`alpha`) proportions; small alpha: more skew.

    A node that holds its fair share gets no more, and the deal is repeated until every node has
    at least `num_classes` samples. Raises ValueError when that cannot be (or will hardly ever be).
    """
    _check_nodes(len(labels), n)
    if len(labels) < n * num_classes:
        raise ValueError(
            f"dirichlet gives every node at least {num_classes} samples: "
            f"{n} nodes need {n * num_classes}, there are {len(labels)}; use fewer nodes"
        )
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == k) for k in range(num_classes)]
    for _ in range(DIRICHLET_TRIES):
        bounds, mixed = _deal(classes, n, alpha, len(labels) / n, rng)
        if np.diff(bounds).sum(axis=0).min() >= num_classes:
            return _gather(bounds, mixed, rng)
    raise ValueError(
        f"dirichlet: {DIRICHLET_TRIES} deals with alpha = {alpha:g} left one of {n} nodes with "
        f"fewer than {num_classes} samples; raise alpha or use fewer nodes"
    )


def _deal(
    classes: list[Indices], n: int, alpha: float, fair: float, rng: np.random.Generator
) -> tuple[Indices, list[Indices]]:
    """One deal, drawn in the reference's order: bounds [classes, n + 1] and the mixed classes."""
    held = np.zeros(n, dtype=np.int64)
    bounds = np.zeros((len(classes), n + 1), dtype=np.int64)
    mixed = [members.copy() for members in classes]
    for row, members in zip(bounds, mixed, strict=True):
        rng.shuffle(members)
        row[1:] = _cuts(rng.dirichlet(np.repeat(alpha, n)) * (held < fair), len(members))
        held += np.diff(row)
    return bounds, mixed


def _gather(bounds: Indices, mixed: list[Indices], rng: np.random.Generator) -> list[Indices]:
    """Each node's pieces of all classes in one array, shuffled."""
    pieces = [np.split(members, row[1:-1]) for row, members in zip(bounds, mixed, strict=True)]
    parts = [np.concatenate(of_node) for of_node in zip(*pieces, strict=True)]
    for part in parts:
        rng.shuffle(part)
    return parts


def _cuts(shares: npt.NDArray[np.float64], length: int) -> Indices:
    """Where each node's piece of a class ends, for these (unnormalized) shares."""
    total = shares.sum()
    # All shares can be on nodes that are full: then the reference gives the class to the last one.
    cuts = np.zeros(len(shares), dtype=np.int64)
    if total > 0:
        cuts[:] = (np.cumsum(shares / total) * length).astype(np.int64)
    cuts[-1] = length
    return cuts


def _take(left: Indices, start: int, length: int) -> tuple[Indices, Indices]:
    """A block of `length` indices from `start`, going round at the end, and what then remains."""
    over = start + length - len(left)
    if over > 0:
        return np.concatenate([left[start:], left[:over]]), left[over:start]
    block = left[start : start + length]
    return block, np.concatenate([left[:start], left[start + length :]])


def _runs(order: Indices, sizes: Sequence[float]) -> list[Indices]:
    """Cut `order` into consecutive runs of these fractions of its length."""
    lengths = _lengths(len(order), sizes)
    _check_lengths(lengths, "use fewer nodes or larger sizes")
    ends = np.cumsum(lengths)
    return np.split(order[: ends[-1]], ends[:-1])


def _lengths(total: int, sizes: Sequence[float]) -> list[int]:
    return [int(size * total) for size in sizes]


def _check_nodes(length: int, n: int) -> None:
    if n < 1:
        raise ValueError(f"the samples cannot be dealt to {n} nodes; there must be at least one")
    if n > length:
        raise ValueError(f"{n} nodes but only {length} training samples; use fewer nodes")


def _check_lengths(lengths: list[int], remedy: str) -> None:
    if min(lengths) < 1:
        uid = lengths.index(min(lengths))
        raise ValueError(f"node {uid} would get an empty part of the training set; {remedy}")
