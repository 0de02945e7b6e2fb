"""Statistics over the nodes: one row per evaluation, what tables and figures are made of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd

#: An iteration gets a row when some node reported one of these after it.
EVALUATED: Final = ("train_loss", "test_loss", "test_acc", "validation_loss", "validation_acc")
#: Percentiles that are computed beside count, mean, std, sum, min and max.
PERCENTILES: Final = (5, 50, 95)
NOBODY: Final[Mapping[int, int]] = MappingProxyType({})


class RunWarning(UserWarning):
    """Something in a run folder was left out of tables or figures; the text says what."""


def spread(
    frame: pd.DataFrame, name: str = "run", gone: Mapping[int, int] = NOBODY
) -> pd.DataFrame:
    """Statistics over the nodes of a tidy frame of one run.

    One row per evaluated iteration; columns are pairs (metric, statistic) with the statistics
    count, mean, std, sum, min, max, percentile_5, percentile_50 and percentile_95. As pandas does
    by default, std is that of a sample (ddof = 1, NaN for one node) and NaN is left out; so is
    infinity, the other way for a loss to diverge. The end of a run that was stopped, where fewer
    and fewer nodes reported, is left out with a warning; nodes that had left by then (``gone``:
    node -> its last iteration) are not missed.
    """
    frame = _without_server(frame)
    kept = _kept(frame, name, gone)
    frame = frame[frame["iteration"].isin(kept)]
    finite = frame.assign(value=frame["value"].where(np.isfinite(frame["value"])))
    values = finite.groupby(["iteration", "metric"])["value"]
    statistics = pd.DataFrame(values.agg(["count", "mean", "std", "min", "max"]))
    statistics["sum"] = values.sum(min_count=1)
    for percent in PERCENTILES:
        statistics[f"percentile_{percent}"] = values.quantile(percent / 100)
    by_metric = pd.DataFrame(statistics.unstack("metric"))
    return by_metric.swaplevel(axis=1).sort_index(axis=1)


def _without_server(frame: pd.DataFrame) -> pd.DataFrame:
    """Nodes only, but for metrics that a federated run has from its server alone."""
    nodes = frame[frame["uid"] >= 0]
    alone = ~frame["metric"].isin(nodes["metric"].unique())
    return frame[(frame["uid"] >= 0) | alone]


def _kept(frame: pd.DataFrame, name: str, gone: Mapping[int, int]) -> pd.Index:
    evaluated = frame[frame["metric"].isin(EVALUATED)]
    reports = frame if evaluated.empty else evaluated
    nodes = reports.groupby("iteration")["uid"].nunique().sort_index()
    kept = _complete(_nodes_or_gone(reports, gone) if gone else nodes.tolist())
    if kept < len(nodes):
        warnings.warn(
            f"{name}: iteration {nodes.index[-1]} was reported by {nodes.iloc[-1]} of "
            f"{nodes.iloc[kept - 1]} nodes only; tables and figures end at iteration "
            f"{nodes.index[kept - 1]}, the tidy files hold everything",
            RunWarning,
            stacklevel=2,
        )
    return nodes.index[:kept]


def _nodes_or_gone(reports: pd.DataFrame, gone: Mapping[int, int]) -> list[int]:
    """Per iteration the nodes that reported or, of those that ever did, had left by then."""
    known = {uid: last for uid, last in gone.items() if uid in set(reports["uid"])}
    there = reports.groupby("iteration")["uid"].agg(set).sort_index()
    return [
        len(uids | {uid for uid, last in known.items() if last < iteration})
        for iteration, uids in zip(there.index.tolist(), there.tolist(), strict=True)
    ]


def _complete(nodes: list[int]) -> int:
    """Length without the falling end of the number of nodes that reported."""
    kept = len(nodes)
    while kept > 1 and nodes[kept - 1] < nodes[kept - 2]:
        kept -= 1
    return kept
