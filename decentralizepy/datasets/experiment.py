"""The data set of an experiment, prepared; free of torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np

from decentralizepy.config import Experiment
from decentralizepy.datasets.base import Dataset
from decentralizepy.errors import ConfigError


def build_dataset(experiment: Experiment) -> Dataset:
    """Construct the data set; options that can't work are a `ConfigError` that names the INI."""
    try:
        dataset: Dataset = experiment.dataset.build()
    except ConfigError as error:
        raise ConfigError(f"{experiment.path}: [DATASET] {error}") from None
    return dataset


def prepared_dataset(
    experiment: Experiment, cache_dir: Path, progress: Callable[[str], None] | None = None
) -> Dataset:
    """Construct and prepare the data set; what is wrong with the data is a `ConfigError`."""
    dataset = build_dataset(experiment)
    try:
        dataset.prepare(cache_dir, progress=progress)
    except (ValueError, OSError, RuntimeError) as error:  # the last: ~nobody in a path
        raise ConfigError(f"{experiment.path}: [DATASET] {error}") from None
    except Exception as error:  # a class of the user's can raise anything
        raise _own(experiment, dataset, error) from error
    return dataset


def _own(experiment: Experiment, dataset: Dataset, error: Exception) -> ConfigError:
    """An error of the data set's own code, with the line of its file."""
    file = getattr(sys.modules.get(type(dataset).__module__), "__file__", None)
    frames = extract_tb(error.__traceback__)
    at = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1])
    where = f"{Path(at.filename).name}, line {at.lineno}, in {at.name}"
    return ConfigError(
        f"{experiment.path}: [DATASET] {experiment.dataset.target.dotted}: "
        f"{type(error).__name__}: {error} ({where})"
    )


def partition(dataset: Dataset, nodes: int, experiment: Experiment) -> list[np.ndarray]:
    """Training samples of every node; one that can't be dealt out is a `ConfigError`."""
    try:
        return _checked(dataset, nodes, dataset.partition(nodes))
    except ValueError as error:
        raise ConfigError(f"{experiment.path}: [DATASET] {error}") from None
    except Exception as error:
        raise _own(experiment, dataset, error) from error


def _checked(dataset: Dataset, nodes: int, parts: Sequence[Any]) -> list[np.ndarray]:
    """What `Dataset.partition` gives, which may be a user's; raises ValueError."""
    where, samples = f"{type(dataset).__name__}.partition({nodes})", len(dataset.stored("train"))
    if not isinstance(parts, list | tuple) or len(parts) != nodes:
        what = f"{len(parts)} of them" if isinstance(parts, list | tuple) else f"{parts!r:.60}"
        raise ValueError(f"{where} gives {what}: a list of {nodes} arrays is expected, one a node")
    found = []
    for uid, part in enumerate(parts):
        one = np.asarray(part)
        if one.ndim != 1 or (len(one) and one.dtype.kind not in "iu"):
            raise ValueError(
                f"{where} gives node {uid} {part!r:.60}: an array [k] of whole numbers is "
                "expected, the numbers of its samples (of a mask, np.flatnonzero(mask))"
            )
        outside = one[(one < 0) | (one >= samples)]
        if len(outside):
            raise ValueError(
                f"{where} gives node {uid} the sample {outside[0]}: the samples of the training "
                f"part are 0 to {samples - 1}"
            )
        found.append(one.astype(np.int64, copy=False))
    return found
