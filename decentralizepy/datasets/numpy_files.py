"""Data of one's own in files of NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from decentralizepy.datasets.own import OwnData
from decentralizepy.datasets.prepare import Progress, describe
from decentralizepy.files import expanded


class NumpyFiles(OwnData):
    """`x.npy` and `y.npy` in `train_dir`, and in `test_dir` if there is a test set.

    Inputs are uint8 images [N, H, W, C] or [N, H, W], floating numbers [N, ...], or tokens, whole
    numbers wider than a byte; targets are labels [N], tokens [N, T] or ratings [N]. With `by_user`,
    `users.npy` in `train_dir` tells whose each sample is: whole numbers or texts [N].
    """

    name: ClassVar[str] = "numpy_files"
    reference_name: ClassVar[str] = "decentralizepy.datasets.NumpyFiles"

    def identity(self) -> list[str]:
        """The files, and whether samples are kept by user."""
        files = [path for folder in self._folders() for path in _files(folder)]
        if self.by_user:
            files.append(expanded(Path(self.train_dir)) / "users.npy")
        try:
            return [f"{self.name} 1", str(self.by_user), *map(describe, files)]
        except OSError as error:
            raise ValueError(f"{error.filename}: {error.strerror}") from None

    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        """Both parts; without `test_dir` the test part is empty."""
        folders = self._folders()
        progress(f"reading {folders[0]}")
        x, y = (load(path) for path in _files(folders[0]))
        _check_lengths(folders[0], x, y)
        users = load(expanded(Path(self.train_dir)) / "users.npy") if self.by_user else None
        test_x, test_y = x[:0], y[:0]
        if len(folders) > 1:
            test_x, test_y = (load(path) for path in _files(folders[1]))
            _check_lengths(folders[1], test_x, test_y)
        arrays = self._grouped(_with_channel(x), y, users)
        return {**arrays, "test_x": _with_channel(test_x), "test_y": test_y}

    def _folders(self) -> list[Path]:
        return [expanded(Path(name)) for name in (self.train_dir, self.test_dir) if name]


def load(path: Path) -> np.ndarray:
    """An array, memory-mapped; raises ValueError, naming the file, for what is none."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged file can raise nearly anything
        raise ValueError(f"{path} is not an array of NumPy ({error!s:.200})") from None
    if not isinstance(found, np.ndarray) or not found.ndim:
        raise ValueError(f"{path} is not one array with a row for each sample")
    return found


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "x.npy", folder / "y.npy"


def _check_lengths(folder: Path, x: np.ndarray, y: np.ndarray) -> None:
    if len(x) != len(y):
        raise ValueError(f"{folder}: x.npy has {len(x)} samples, y.npy {len(y)} targets")


def _with_channel(x: np.ndarray) -> np.ndarray:
    """Grey images get an axis for their one channel."""
    return x[..., np.newaxis] if x.dtype == np.uint8 and x.ndim == 3 else x
