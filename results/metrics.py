"""What metrics mean: any number that records carry is one, known or not.

``test_<name>``, ``train_<name>`` and ``validation_<name>`` are measured by evaluating a model;
other columns that `decentralizepy.runfolder.RECORD_COLUMNS` does not list are a node program's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from decentralizepy.runfolder import RECORD_COLUMNS

ACCURACY: Final = "test_acc"
CONSENSUS: Final = "consensus_distance"
#: The metrics that the reference system evaluates too.
_LOSSES: Final = ("train_loss", "test_loss", "validation_loss")
_EVALUATED: Final = ("train_loss", "test_loss", ACCURACY, "validation_loss", "validation_acc")
_SETS: Final = ("train_", "test_", "validation_")
#: Columns that tell which record it is, or when something happened: no curve goes through them.
_MARKS: Final = frozenset({"attempt", "nan"})
_WORDS: Final = {
    "elapsed_s": "Time (s)",
    "total_bytes": "Bytes sent",
    "total_data": "Bytes sent: payload",
    "total_meta": "Bytes sent: headers",
    "wire_bytes": "Bytes between machines",
    "train_s": "Time in training (s)",
    "share_s": "Time in sharing (s)",
    "wait_s": "Time waiting (s)",
    "evaluate_s": "Time evaluating (s)",
}


def is_evaluation(metric: str) -> bool:
    """Whether a metric comes from evaluating a model; ``train_s`` counts seconds."""
    return metric in _EVALUATED or (metric not in RECORD_COLUMNS and metric.startswith(_SETS))


def is_own(metric: str) -> bool:
    """Whether a metric is a node program's own number."""
    return metric not in RECORD_COLUMNS and not is_evaluation(metric)


def is_mark(metric: str) -> bool:
    """Whether a column is a mark, whose mean over the nodes tells nothing."""
    return metric in _MARKS


def may_be_log(metric: str) -> bool:
    """Whether powers of ten may suit a metric: a loss or the like, not a percentage or a count."""
    measured = is_evaluation(metric) or metric == CONSENSUS
    return measured and not metric.endswith("_acc")


def label(metric: str) -> str:
    """A metric in words, with its unit: ``Test accuracy (%)``."""
    if metric in _WORDS:
        return _WORDS[metric]
    words = metric.removesuffix("_acc").removesuffix("_s").replace("_", " ").strip() or metric
    unit = " accuracy (%)" if metric.endswith("_acc") else " (s)" if metric.endswith("_s") else ""
    return words[0].upper() + words[1:] + unit


def unit(metric: str) -> str:
    """The sign behind a value of a metric in a text: `` %`` or nothing."""
    return " %" if metric.endswith("_acc") else ""


def headlines(metrics: Iterable[str]) -> list[str]:
    """The metrics that tell how good a model is: of the test set, else of another set.

    Losses are left out if there is anything else.
    """
    evaluated = [metric for metric in metrics if is_evaluation(metric)]
    for prefix in ("test_", "validation_", "train_"):
        if of_set := [metric for metric in evaluated if metric.startswith(prefix)]:
            return [metric for metric in of_set if metric not in _LOSSES] or of_set
    return []


def file_name(metric: str) -> str:
    """The start of the names of a metric's figures: ``test_accuracy`` for ``test_acc``."""
    name = re.sub(r"_acc$", "_accuracy", metric)
    return re.sub(r"[^\w.=+-]+", "_", name)


def chosen(names: Iterable[str], metrics: Iterable[str]) -> list[str]:
    """Metrics by name; raises ValueError for one that is not among ``metrics``."""
    known = list(metrics)
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"no run recorded {name}{hint} (recorded: {', '.join(known)})")
    return list(dict.fromkeys(names))
