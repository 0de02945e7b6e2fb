"""The data set of an experiment, prepared; free of torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
    return dataset


def partition(dataset: Dataset, nodes: int, experiment: Experiment) -> list[np.ndarray]:
    """Training samples of every node; one that can't be dealt out is a `ConfigError`."""
    try:
        return dataset.partition(nodes)
    except ValueError as error:
        raise ConfigError(f"{experiment.path}: [DATASET] {error}") from None
