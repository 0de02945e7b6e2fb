"""Settings: runs that differ by their seed only, under a label that tells them from the others."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, Final

import pandas as pd

from results.load import Run
from results.spread import RunWarning

_SEED: Final = "random_seed"
#: More differences than this do not fit a legend; a name does.
_MOST_SAID: Final = 3


@dataclass(frozen=True)
class Setting:
    """Runs of one setting, one per seed; ``number`` is its place in the comparison."""

    label: str
    runs: tuple[Run, ...]
    number: int = 0

    def seeds(self, metric: str) -> list[Run]:
        """The runs that recorded a metric."""
        return [run for run in self.runs if metric in run.over_nodes]

    @cached_property
    def shared(self) -> pd.Index:
        """The iterations after which all seeds were evaluated."""
        shared = self.runs[0].over_nodes.index
        for run in self.runs[1:]:
            shared = shared.intersection(run.over_nodes.index, sort=True)
        return shared


def settings(runs: Sequence[Run], labels: Sequence[str] = ()) -> list[Setting]:
    """The settings of some runs, in the order in which they first come.

    Runs without any settings, in which a seed occurs twice, or whose evaluations share no
    iteration are settings of their own. ``labels`` replaces what the legend says, one per setting;
    raises ValueError if there are more or fewer. Warns (`RunWarning`) of seeds that end early, as
    the mean over seeds ends with the first.
    """
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(_what(run), []).append(run)
    parts = [part for group in groups.values() for part in _comparable(group)]
    if labels and len(labels) != len(parts):
        known = ", ".join(map(repr, _labels(parts)))
        raise ValueError(f"{len(labels)} labels for {len(parts)} settings: {known}")
    names = list(labels) or _labels(parts)
    found = [
        Setting(name, tuple(part), number)
        for number, (name, part) in enumerate(zip(names, parts, strict=True))
    ]
    for setting in found:
        _tell_cut(setting)
    return found


def _tell_cut(setting: Setting) -> None:
    if all(len(run.over_nodes) == len(setting.shared) for run in setting.runs):
        return
    ends = {int(run.over_nodes.index[-1]): run.name for run in setting.runs}
    warnings.warn(
        f"{setting.label}: the mean over {len(setting.runs)} seeds is taken where all were "
        f"evaluated, {len(setting.shared)} times up to iteration {setting.shared[-1]}; "
        f"{ends[min(ends)]} ends at {min(ends)}, {ends[max(ends)]} at {max(ends)}",
        RunWarning,
        stacklevel=2,
    )


def _what(run: Run) -> Hashable:
    known = {key: value for key, value in run.attributes.items() if key != _SEED}
    return tuple(sorted(known.items())) if known else run.name


def _comparable(group: list[Run]) -> list[list[Run]]:
    seeds = {run.attributes.get(_SEED) for run in group}
    whole = len(seeds) == len(group) and len(Setting("", tuple(group)).shared)
    return [group] if whole else [[run] for run in group]


def _labels(groups: Sequence[list[Run]]) -> list[str]:
    """The first of these that is unique: what differs, what experiments or runs are called."""
    if len(groups) == 1:
        return [_whole(groups[0])]
    candidates = [
        [said(group[0].attributes, _differing(groups)) for group in groups],
        [_common([run.experiment for run in group]) for group in groups],
        [_common([run.name for run in group]) for group in groups],
    ]
    for labels in candidates:
        if all(labels) and max(Counter(labels).values(), default=0) <= 1:
            return labels
    return [", ".join(run.name for run in group) for group in groups]


def _whole(runs: Sequence[Run]) -> str:
    """What the only line of a figure shows."""
    if len(runs) > 1:
        return f"mean of {len(runs)} seeds"
    run = runs[0]
    if run.nodes_left < run.nodes:
        return f"mean of {run.nodes} nodes, {run.nodes_left} at the end"
    if not run.nodes:
        return "server"
    return f"mean of {run.nodes} nodes" if run.nodes > 1 else "1 node"


def _common(names: Sequence[str]) -> str:
    """What the names of a setting's runs share: ``a`` for ``a_seed1`` and ``a_seed2``."""
    if len(set(names)) == 1:
        return names[0]
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    start = "".join(letters[0] for letters in same)
    return re.sub(r"(^|[\W_]+)(seed|s)?[\W_]*$", "", start)


def _differing(groups: Sequence[list[Run]]) -> list[str]:
    first = [group[0].attributes for group in groups]
    keys = dict.fromkeys(key for attributes in first for key in attributes if key != _SEED)
    differing = [key for key in keys if len({attributes.get(key) for attributes in first}) > 1]
    chosen = [key for key in differing if not key.endswith("_file")]
    chosen = chosen or differing  # a graph's file name follows from the number of agents
    common = [key for key in chosen if all(key in attributes for attributes in first)]
    labels = [said(attributes, common) for attributes in first]
    tell = all(labels) and len(set(labels)) == len(labels)
    return common if tell else chosen  # options that only one class has follow from the class


def said(attributes: dict[str, Any], keys: Sequence[str]) -> str:
    """The attributes named ``keys`` in words; empty when they are too many for a legend."""
    if len(keys) > _MOST_SAID:
        return ""
    there = {key: attributes[key] for key in keys if key in attributes}
    parts = [v if isinstance(v, str) else f"{key} = {v}" for key, v in there.items()]
    return ", ".join(parts)
