"""Which samples are held out for validation; free of any data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from decentralizepy.datasets.partitioners import Indices
from decentralizepy.streams import generator

#: spelling in an INI file -> the part that gives the samples; empty: no validation
SOURCES = {"": "", "train": "train", "test": "test"}


@dataclass(frozen=True, eq=False)
class Selection:
    """Some samples of a stored part ("train" or "test"): ascending indices, or None for all."""

    part: str
    indices: Indices | None = None


def source(word: str) -> str:
    """The part that `validation_source` names: "train", "test" or "" (no validation).

    Raises ValueError for any other word.
    """
    found = SOURCES.get(word.strip().lower())
    if found is None:
        raise ValueError(
            f"validation_source = {word!r} is neither Train nor Test (empty: no validation set)"
        )
    return found


def check_size(size: float) -> None:
    """Raise ValueError unless `size` is a fraction between 0 and 1."""
    if not 0 < size < 1:
        raise ValueError(
            f"validation_size = {size:g} must be between 0 and 1: "
            "the fraction of validation_source that becomes the validation set"
        )


def split(count: int, size: float, seed: int) -> tuple[Indices, Indices]:
    """Deal 0 .. count - 1 into what stays and what is held out, both ascending int64.

    Held out are floor(count * size) samples, drawn without replacement from the stream
    (seed, 0, "validation", 0). Raises ValueError when one of the two would be empty.
    """
    held = int(count * size)
    if not 0 < held < count:
        raise ValueError(
            f"validation_size = {size:g} of {count} samples leaves an empty set; choose another"
        )
    order = generator(seed, 0, "validation", 0).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])
