"""Handwritten digits of 8 x 8 pixels, as bundled with scikit-learn: no files, no network."""

import gzip
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from decentralizepy.datasets.base import Dataset, Normalization
from decentralizepy.datasets.prepare import Progress

# One sample of each class in this many is for testing.
TEST_EVERY = 5
_FILE: Final = "data/digits.csv.gz"


class Digits(Dataset):
    """The 1,797 digits of scikit-learn's `load_digits` (UCI "Optical Recognition ..." test set).

    1,442 are for training and 355 for testing: of every class each fifth sample, whatever the
    options, so that all experiments share one test set. Pixels are 0 .. 16; models see x / 16.

    The data is always there: `train_dir` and `test_dir` are accepted, so that a configuration can
    switch data sets, and ignored. The other options are those of `CIFAR10`.
    """

    name: ClassVar[str] = "digits"
    reference_name: ClassVar[str] = "decentralizepy.datasets.Digits"
    num_classes: ClassVar[int] = 10
    samples: ClassVar[tuple[int, int]] = (1442, 355)
    normalization: ClassVar[Normalization] = Normalization(scale=1 / 16, shift=0.0)

    def __init__(
        self,
        *,
        random_seed: int = 1234,
        sizes: list[float] | None = None,
        partition_niid: str | bool = "simple",
        alpha: float = 100.0,
        shards: int = 1,
        test_batch_size: int = 64,
        train_dir: str = "",
        test_dir: str = "",
        validation_source: str = "",
        validation_size: float = 0.0,
    ) -> None:
        super().__init__(
            random_seed=random_seed,
            sizes=sizes,
            partition_niid=partition_niid,
            alpha=alpha,
            shards=shards,
            test_batch_size=test_batch_size,
            train_dir=train_dir,
            test_dir=test_dir,
            validation_source=validation_source,
            validation_size=validation_size,
        )

    def identity(self) -> list[str]:
        """Constant: the data never changed, and asking scikit-learn would mean importing it."""
        return ["load_digits", str(TEST_EVERY)]

    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        """Both parts, in the order of scikit-learn."""
        progress("reading the digits of scikit-learn")
        x, y = _load()
        test = _fifths(y)
        return {"train_x": x[~test], "train_y": y[~test], "test_x": x[test], "test_y": y[test]}


def _load() -> tuple[np.ndarray, np.ndarray]:
    """All images (uint8 [1797, 8, 8, 1]) and labels (int64 [1797])."""
    found = _read()
    if found is None:
        found = _loaded()
    return found[:, :-1].reshape(-1, 8, 8, 1).astype(np.uint8), found[:, -1].astype(np.int64)


def _read() -> np.ndarray | None:
    """Pixels and label of each digit [1797, 65] from the file that scikit-learn brings along.

    Importing scikit-learn would take 20 times as long. None if the file is not where it was.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        return None
    try:
        with gzip.open(Path(spec.origin).with_name("datasets") / _FILE, "rt") as file:
            found = np.loadtxt(file, delimiter=",", dtype=np.int64)
    except (OSError, EOFError, ValueError):
        return None
    return found if found.shape == (1797, 65) else None


def _loaded() -> np.ndarray:
    """The same by scikit-learn's own function."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            "Digits needs scikit-learn, which is not installed: "
            "pip install 'decentralizepy[digits]' (or pip install scikit-learn)"
        ) from error
    data = load_digits()
    return np.column_stack([data.data, data.target])


def _fifths(labels: np.ndarray) -> np.ndarray:
    """True for each fifth sample of every class: a split that needs no random numbers."""
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return chosen
