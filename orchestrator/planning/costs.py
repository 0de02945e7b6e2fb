"""What training costs: seconds per sample and core, by the model's class or former runs here.

A class says what it takes on another machine (`decentralizepy.models`), to tell minutes from days.
Every finished run refines that: what it measured is kept per model and CPU type in a small JSON in
the user's cache folder, and the next plan on the same CPU type uses it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from decentralizepy.cpus import cpu_name
from decentralizepy.files import cache_home, write_json
from decentralizepy.jsonfile import read_object
from decentralizepy.registry import Target, fact


@dataclass(frozen=True)
class Cost:
    """Seconds of one core per sample, and seconds from the command to the first step."""

    train_s: float
    evaluate_s: float
    startup_s: float = 4.0
    measured: bool = False


#: For a model that does not say: LeNet's seconds per parameter.
PER_PARAMETER_S: Final = 8e-9
UNKNOWN_PARAMETERS: Final = 100_000
#: Messages, merging and bookkeeping of one node in one averaging round.
PER_NODE_ROUND_S: Final = 1e-4
PER_BYTE_S: Final = 3e-10

#: A worker process with torch loaded, pages shared with other processes left out.
WORKER_BYTES: Final = 180_000_000
#: Copies of a node's row: this round's, the next, gradients, and one for the optimizer's state.
ROWS_PER_NODE: Final = 4


def stated_cost(model: Target, parameters: int | None) -> Cost:
    """The cost of a model by what its class says, or by its number of parameters."""
    train_s = fact(model, "train_s", 0.0, about="__init__")
    if train_s > 0:
        return Cost(train_s, fact(model, "evaluate_s", train_s / 3, about="__init__"))
    train_s = (parameters or UNKNOWN_PARAMETERS) * PER_PARAMETER_S
    return Cost(train_s, train_s / 3)


def cache_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Where measured costs are kept."""
    return cache_home(environment) / "costs.json"


@dataclass(frozen=True)
class CostBook:
    """Costs measured by former runs, by ``model|cpu``."""

    former: Mapping[str, Cost]
    cpu: str

    def lookup(self, model: Target, parameters: int | None) -> Cost:
        """The measured cost of a model here, or what its class says."""
        found = self.former.get(f"{model.dotted}|{self.cpu}")
        return found or stated_cost(model, parameters)


def read_costs(path: Path) -> CostBook:
    """What former runs measured; a file that is missing or broken counts as empty."""
    return CostBook(_entries(path), cpu_name())


def remember(path: Path, model: Target, cost: Cost, cpu: str | None = None) -> None:
    """Keep what a run measured: the mean of it and of what was known (so the last runs count).

    ``cpu`` is the machines' (default: this computer's).

    A cache that cannot be written is left as it is: the next plan is only less exact.
    """
    entries = _entries(path)
    key = f"{model.dotted}|{cpu or cpu_name()}"
    entries[key] = _mean(entries[key], cost) if key in entries else cost
    kept = {name: {k: v for k, v in asdict(c).items() if k != "measured"} for name, c in
            entries.items()}  # fmt: skip
    try:
        write_json(path, kept)
    except OSError:
        return


def _mean(old: Cost, new: Cost) -> Cost:
    return Cost(
        (old.train_s + new.train_s) / 2,
        (old.evaluate_s + new.evaluate_s) / 2,
        (old.startup_s + new.startup_s) / 2,
        measured=True,
    )


def _entries(path: Path) -> dict[str, Cost]:
    items = read_object(path).items()
    return {name: cost for name, item in items if (cost := _entry(item)) is not None}


def _entry(item: Any) -> Cost | None:
    try:
        numbers = {key: float(item[key]) for key in ("train_s", "evaluate_s", "startup_s")}
    except (KeyError, TypeError, ValueError):
        return None
    sane = all(0 <= number < 1e6 for number in numbers.values())
    return Cost(**numbers, measured=True) if sane else None
