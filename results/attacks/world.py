"""What is known about a run that is attacked: who had which samples, and what the model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decentralizepy.config import Experiment
from decentralizepy.datasets.base import Dataset
from decentralizepy.datasets.experiment import partition, prepared_dataset
from decentralizepy.engine.parts import build_loss, build_model, samples_of
from decentralizepy.jsonfile import read_object
from decentralizepy.overrides import read_changed
from decentralizepy.runfolder import MachineFolder, RunFolder
from decentralizepy.training.layout import Counter
from decentralizepy.training.sample_losses import row_of_state, sample_losses
from decentralizepy.training.task import build_task
from decentralizepy.training.template import Template

_EVAL_BATCH = 64


@dataclass(frozen=True)
class Truth:
    """Who had what: ``members`` numbers each node's training samples, by uid.

    Samples are numbered as in a table of losses: first the ``n_train`` of the training set, then
    those of the test set. ``labels`` [n_train + n_test] are their classes; None where targets are
    no classes.
    """

    members: Sequence[np.ndarray]
    n_train: int
    n_test: int
    labels: np.ndarray | None = None

    @property
    def nodes(self) -> int:
        return len(self.members)

    @property
    def samples(self) -> int:
        return self.n_train + self.n_test

    @cached_property
    def tested(self) -> np.ndarray:
        """Numbers of the test set's samples: what no node was trained on."""
        return np.arange(self.n_train, self.samples)


class Victims:
    """The models of a run: gives the losses of a saved one on every sample."""

    def __init__(self, experiment: Experiment, dataset: Dataset, device: str = "cpu") -> None:
        model = build_model(experiment)
        self._batch = int(getattr(model, "eval_batch", _EVAL_BATCH))
        self._template = Template(model, device)
        target = experiment.dataset.target.load()
        self._task = build_task(target, experiment.task, build_loss(experiment.loss))
        self._parts = [samples_of(dataset, part, device) for part in ("train", "test")]
        self._device = device

    def losses(self, state: np.ndarray, members: np.ndarray | None = None) -> np.ndarray:
        """Losses [samples] float32 of a flat ``state_dict``; raises ValueError for a wrong one.

        With ``members`` only theirs and the test set's, and NaN for the rest.
        """
        row, counters = self._state(state)
        train, test = self._parts
        parts = [train.only(members), test]
        found = sample_losses(self._template, self._task, row, parts, self._batch, counters).numpy()
        if members is None:
            return np.asarray(found, dtype=np.float32)
        whole = np.full(len(train) + len(test), np.nan, dtype=np.float32)
        whole[members], whole[len(train) :] = found[: len(members)], found[len(members) :]
        return whole

    def right(self, state: np.ndarray) -> np.ndarray:
        """Which samples [samples] the model of a flat ``state_dict`` classifies as they are."""
        return np.asarray(self._right(*self._state(state)).numpy())

    def _state(self, state: np.ndarray) -> tuple[torch.Tensor, list[Counter]]:
        """A row on the device and integer buffers."""
        flat = torch.from_numpy(np.ascontiguousarray(state))
        row, counters = row_of_state(self._template, flat)
        return row.to(self._device), counters

    def _right(self, row: torch.Tensor, counters: Sequence[Counter]) -> torch.Tensor:
        self._template.load(row, counters)
        self._template.mode(False)
        found = [torch.zeros(0, dtype=torch.bool)]
        with torch.inference_mode():
            for part in self._parts:
                for start in range(0, len(part), self._batch):
                    x, y = part.slice(start, min(start + self._batch, len(part)))
                    found.append((self._template.model(x).argmax(dim=1) == y).cpu())
        return torch.cat(found)


@dataclass(frozen=True)
class World:
    """A run as its attackers are taken to know it."""

    experiment: Experiment
    dataset: Dataset
    truth: Truth

    def victims(self, device: str = "cpu") -> Victims:
        """Its models, on a device."""
        return Victims(self.experiment, self.dataset, device)


def world(run: Path, cache_dir: Path, overrides: Sequence[str] = ()) -> World:
    """The world of a run folder; ``overrides`` are ``SECTION.key=value`` for its INI, such as
    where the data lie now. Raises `ConfigError` or ValueError for what cannot be read."""
    experiment = read_changed(_ini(run), overrides)
    dataset = prepared_dataset(experiment, cache_dir)
    members = partition(dataset, nodes_of(run), experiment)
    labels = [dataset.stored(part).y for part in ("train", "test")]
    truth = Truth(members, len(labels[0]), len(labels[1]), _classes(labels))
    return World(experiment, dataset, truth)


def _classes(labels: Sequence[np.ndarray]) -> np.ndarray | None:
    if any(one.ndim != 1 or not np.issubdtype(one.dtype, np.integer) for one in labels):
        return None
    return np.concatenate(labels).astype(np.int64)


def _ini(run: Path) -> Path:
    """The INI as rendered for the machines, else the first that a machine copied."""
    whole = RunFolder(run)
    if whole.ini.is_file():
        return whole.ini
    for machine in _machines(run):
        for path in sorted(machine.root.glob("*.ini")):
            return path
    raise ValueError(f"{run}: no INI there, so nobody knows who had which samples")


def _machines(run: Path) -> list[MachineFolder]:
    return [*RunFolder(run).machines().values()] or [MachineFolder(run)]


def nodes_of(run: Path) -> int:
    """How many nodes a run had, by what its first machine wrote down; raises ValueError."""
    first = _machines(run)[0]
    found: Any = read_object(first.run).get("nodes_per_machine")
    args = read_object(first.args)
    if not _counts(found):
        found = args.get("procs_per_machine")
        if _counts(found) and len(found) == 1 and type(args.get("machines")) is int:
            found = found * args["machines"]
    if not _counts(found):
        raise ValueError(f"{first.args}: says nothing of how many nodes there were")
    return sum(found)


def _counts(found: Any) -> bool:
    return isinstance(found, list) and bool(found) and all(type(n) is int for n in found)
