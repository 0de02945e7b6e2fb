"""Statistics over the nodes: one row per evaluation, what tables and figures are made of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa

from results.metrics import is_evaluation
from results.records import metrics

#: Percentiles that are computed beside count, mean, std, sum, min and max.
PERCENTILES: Final = (5, 50, 95)
NOBODY: Final[Mapping[int, int]] = MappingProxyType({})


class RunWarning(UserWarning):
    """Something in a run folder was left out of tables or figures; the text says what."""


@dataclass(frozen=True)
class _Column:
    """A metric: its values, and the records that carry one and count for the nodes."""

    values: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class _Blocks:
    """Where the records of each iteration begin, among those that count, and how many they are."""

    counts: np.ndarray
    iterations: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray, iteration: np.ndarray) -> _Blocks:
        """Of records that are sorted by iteration."""
        some = iteration[counts]
        starts = np.flatnonzero(np.diff(some, prepend=some[:1] - 1))
        return cls(counts, some[starts], starts, np.diff(starts, append=len(some)))

    def fits(self, counts: np.ndarray) -> bool:
        return np.array_equal(self.counts, counts)


def spread(table: pa.Table, name: str = "run", gone: Mapping[int, int] = NOBODY) -> pd.DataFrame:
    """Statistics over the nodes of a table of records (`results.records`) of one run.

    One row per evaluated iteration; columns are pairs (metric, statistic) with the statistics
    count, mean, std, sum, min, max, percentile_5, percentile_50 and percentile_95. As pandas does
    by default, std is that of a sample (ddof = 1, NaN for one node) and NaN is left out; so is
    infinity, the other way for a loss to diverge. Servers, whose uid is negative, count only in
    metrics that no node has. The end of a run that was stopped, where fewer and fewer nodes
    reported, is left out with a warning; nodes that had left by then (``gone``: node -> its last
    iteration) are not missed.
    """
    iteration = table["iteration"].to_numpy()
    uid = table["uid"].to_numpy()
    columns = {metric: _column(table[metric], uid >= 0) for metric in metrics(table)}
    columns = {metric: column for metric, column in columns.items() if column.counts.any()}
    kept = _kept(iteration, uid, columns, name, gone)
    frames, blocks = {}, None
    for metric, column in columns.items():
        if blocks is None or not blocks.fits(column.counts):  # most metrics are recorded together
            blocks = _Blocks.of(column.counts, iteration)
        frames[metric] = _statistics(column, blocks, kept)
    if not frames:
        return pd.DataFrame(index=kept)
    return pd.concat(frames, axis=1, names=["metric", "statistic"])


def _column(values: pa.ChunkedArray, nodes: np.ndarray) -> _Column:
    reported = values.is_valid().to_numpy()
    by_nodes = reported & nodes
    counts = by_nodes if by_nodes.any() else reported
    return _Column(values.to_numpy(), counts)


def _kept(
    iteration: np.ndarray,
    uid: np.ndarray,
    columns: Mapping[str, _Column],
    name: str,
    gone: Mapping[int, int],
) -> pd.Index:
    """The iterations that get a row: those in which some node was evaluated, but for the end."""
    evaluated = [column.counts for metric, column in columns.items() if is_evaluation(metric)]
    masks = evaluated or [column.counts for column in columns.values()]
    reports = np.logical_or.reduce(masks) if masks else np.ones(len(iteration), bool)
    iterations, nodes = np.unique(iteration[reports], return_counts=True)
    there = nodes + _missing(iterations, iteration[reports], uid[reports], gone)
    kept = _complete(there.tolist())
    if kept < len(nodes):
        warnings.warn(
            f"{name}: iteration {iterations[-1]} was reported by {nodes[-1]} of "
            f"{nodes[kept - 1]} nodes only; tables and figures end at iteration "
            f"{iterations[kept - 1]}, the tidy files hold everything",
            RunWarning,
            stacklevel=2,
        )
    return pd.Index(iterations[:kept], name="iteration")


def _missing(
    iterations: np.ndarray, iteration: np.ndarray, uid: np.ndarray, gone: Mapping[int, int]
) -> np.ndarray:
    """Per iteration the nodes that did not report as they had left, but had once reported."""
    missing = np.zeros(len(iterations), np.int64)
    for node, last in gone.items():
        reported = iteration[uid == node]
        if len(reported):
            missing += (iterations > last) & ~np.isin(iterations, reported)
    return missing


def _complete(nodes: list[int]) -> int:
    """Length without the falling end of the number of nodes that reported."""
    kept = len(nodes)
    while kept > 1 and nodes[kept - 1] < nodes[kept - 2]:
        kept -= 1
    return kept


def _statistics(column: _Column, blocks: _Blocks, kept: pd.Index) -> pd.DataFrame:
    """One row per iteration of ``kept``."""
    values, lengths = column.values[column.counts], blocks.lengths
    rows = []
    for length in np.unique(lengths):
        same = lengths == length
        if same.all():
            matrix = values.reshape(-1, length)
        else:
            matrix = values[blocks.starts[same][:, None] + np.arange(length)]
        rows.append(_over_rows(matrix, pd.Index(blocks.iterations[same])))
    return pd.concat(rows).sort_index().reindex(kept)


def _over_rows(matrix: np.ndarray, index: pd.Index) -> pd.DataFrame:
    """Statistics of each row's finite values."""
    values = np.where(np.isfinite(matrix), matrix, np.nan)
    values.sort(axis=1)  # NaN goes to the end
    count = np.isfinite(values).sum(axis=1)
    some = np.where(count > 0, count, np.nan)
    total = np.where(count > 0, np.nansum(values, axis=1), np.nan)
    mean = total / some
    with np.errstate(over="ignore"):  # a loss on its way to infinity
        squares = np.nansum((values - mean[:, None]) ** 2, axis=1)
    statistics = {
        "count": count,
        "mean": mean,
        "std": np.sqrt(squares / np.where(count > 1, count - 1, np.nan)),
        "min": _at(values, some, 0),
        "max": _at(values, some, 1),
        "sum": total,
    }
    statistics |= {f"percentile_{q}": _at(values, some, q / 100) for q in PERCENTILES}
    return pd.DataFrame(statistics, index=index)


def _at(values: np.ndarray, count: np.ndarray, share: float) -> np.ndarray:
    """The quantile of sorted rows, interpolated between neighbours as NumPy does by default."""
    place = np.nan_to_num((count - 1) * share)
    low = np.floor(place).astype(np.int64)
    high = np.ceil(place).astype(np.int64)
    lower, upper = (np.take_along_axis(values, at[:, None], 1)[:, 0] for at in (low, high))
    return lower + (upper - lower) * (place - low)
