"""FEMNIST: handwritten characters of 28 x 28 grey pixels in 62 classes, by their writers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from decentralizepy.datasets.base import Dataset, Normalization
from decentralizepy.datasets.leaf import Share, announced, files_of, read_files
from decentralizepy.datasets.partitioners import Indices, check_sizes, equal_sizes, iid
from decentralizepy.datasets.prepare import Progress
from decentralizepy.files import expanded

NUM_CLASSES = 62
SIDE = 28
PIXELS = SIDE * SIDE

_PER_FILE = re.compile(r"data_(\d+)\.pt")

# How far from a whole number of 255ths a pixel may be and still be stored as a byte.
_BYTE_TOLERANCE = 1e-3


class Femnist(Dataset):
    """FEMNIST of LEAF (Caldas et al., 2018): its users are dealt to the nodes, whole.

    `train_dir` and `test_dir` are folders of JSON files in LEAF's format, any number of users in
    each; an empty name means no such part. The users (by the names of their files, then in the
    files' order) are shuffled with `random_seed` and dealt by `sizes`, fractions of the users, one
    per node (None: equal). With one user per file that is the reference's partition. The test set
    is that of all users.

    Models see the pixels as they are in the files, 0 (black) to 1 (white). Files of LEAF hold
    whole 255ths: these are stored as bytes, anything else as float32.
    """

    name: ClassVar[str] = "femnist"
    reference_name: ClassVar[str] = "decentralizepy.datasets.Femnist"
    num_classes: ClassVar[int] = NUM_CLASSES
    # LEAF's 805,263 samples, of every user nine tenths for training; smaller extracts are common
    samples: ClassVar[tuple[int, int]] = (724_700, 80_500)
    normalization: ClassVar[Normalization] = Normalization(scale=1 / 255, shift=0.0)
    more_arrays: ClassVar[tuple[str, ...]] = ("train_starts",)

    def __init__(
        self,
        *,
        train_dir: str = "",
        test_dir: str = "",
        random_seed: int = 1234,
        sizes: list[float] | None = None,
        test_batch_size: int = 64,
        validation_source: str = "",
        validation_size: float = 0.0,
    ) -> None:
        super().__init__(
            random_seed=random_seed,
            sizes=sizes,
            test_batch_size=test_batch_size,
            train_dir=train_dir,
            test_dir=test_dir,
            validation_source=validation_source,
            validation_size=validation_size,
        )

    def fetch(self, progress: Progress) -> None:
        """Nothing is downloaded: says which options are missing."""
        if not (self.train_dir or self.test_dir):
            raise ValueError(
                f"{type(self).__name__}: set train_dir (and test_dir) to folders of LEAF's FEMNIST"
            )

    def identity(self) -> list[str]:
        """Name, size and time of each file that is used."""
        train, test = _listed(self._train_files()), _listed(self._tests())
        return [f"{self.name} 1", "train", *train, "test", *test]

    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        """Both parts, in the order of the files; `train_starts`: where each user begins."""
        arrays = dict(_part("train", self._train_shares(progress)))
        return arrays | _part("test", read_files(self._tests(), PIXELS, NUM_CLASSES, progress))

    def partition(self, n: int) -> list[Indices]:
        """For each uid in 0 .. n-1, the int64 indices of its samples in `train()`.

        Raises ValueError when there are fewer users than nodes, or a node would get no sample.
        """
        starts = self._array("train_starts")
        keep = np.ones(int(starts[-1]), dtype=bool)
        if (kept := self.select("train").indices) is not None:
            keep[:] = False
            keep[kept] = True
        parts = []
        for uid, shares in enumerate(self._shares_of(n, len(starts) - 1)):
            whole = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in shares])
            parts.append(whole[keep[whole]].astype(np.int64))
            if not len(parts[-1]):
                raise ValueError(f"node {uid} would get no training sample; use fewer nodes")
        return parts

    def _shares_of(self, n: int, count: int) -> list[Indices]:
        """The users of each node."""
        if not 1 <= n <= count:
            raise ValueError(f"{n} nodes but {count} users of {self.name}; use fewer nodes")
        fractions = equal_sizes(count, n) if self.sizes is None else list(self.sizes)
        check_sizes(fractions, count, n)
        return iid(count, fractions, self.random_seed)

    def _train_files(self) -> list[Path]:
        return _json_files(self.train_dir, "train_dir")

    def _train_shares(self, progress: Progress) -> Iterable[Share]:
        return read_files(self._train_files(), PIXELS, NUM_CLASSES, progress)

    def _tests(self) -> list[Path]:
        return _json_files(self.test_dir, "test_dir")


class FemnistLabelSplit(Femnist):
    """FEMNIST dealt by label beforehand: node uid trains on the file `train_dir/data_<uid>.pt`.

    Each file is a list, saved by torch, of pairs (tensor of 784 pixels, label). It is read without
    unpickling anything but tensors, lists and numbers. Files of higher numbers than there are
    nodes stay unused. The test set is that of `Femnist`.
    """

    name: ClassVar[str] = "femnist_label_split"
    reference_name: ClassVar[str] = "decentralizepy.datasets.FemnistLabelSplit"

    def _shares_of(self, n: int, count: int) -> list[Indices]:
        if self.sizes is not None:
            raise ValueError("sizes: the files of the label split are the parts; leave it empty")
        if not 1 <= n <= count:
            raise ValueError(
                f"{n} nodes but {count} files data_<uid>.pt in {self.train_dir}; "
                f"make files for {n} nodes or use fewer nodes"
            )
        return [np.array([uid], dtype=np.int64) for uid in range(n)]

    def _train_files(self) -> list[Path]:
        if not self.train_dir:
            return []
        folder = expanded(Path(self.train_dir))
        found = {}
        for path in _folder_files(folder, ".pt", "train_dir"):
            if match := _PER_FILE.fullmatch(path.name):
                found[int(match[1])] = path
        missing = sorted(set(range(max(found, default=0) + 1)) - found.keys())
        if missing:
            raise ValueError(f"train_dir: the folder {folder} lacks data_{missing[0]}.pt")
        return [found[k] for k in sorted(found)]

    def _train_shares(self, progress: Progress) -> Iterable[Share]:
        from decentralizepy.datasets.saved_tensors import read_pairs  # loads torch

        for path in announced(self._train_files(), progress):
            yield read_pairs(path, PIXELS, NUM_CLASSES)


def _json_files(folder: str, key: str) -> list[Path]:
    return _folder_files(expanded(Path(folder)), ".json", key) if folder else []


def _folder_files(folder: Path, ending: str, key: str) -> list[Path]:
    try:
        return files_of(folder, ending)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _listed(files: list[Path]) -> list[str]:
    """What tells these files of one folder from others, by one listing: there may be thousands."""
    if not files:
        return []
    folder, names = files[0].parent, {path.name for path in files}
    stats = {entry.name: entry.stat() for entry in os.scandir(folder) if entry.name in names}
    lines = (f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in sorted(stats.items()))
    return [str(folder.resolve()), *lines]


def _part(part: str, shares: Iterable[Share]) -> dict[str, np.ndarray]:
    """Images [N, 28, 28, 1], labels and starts [shares + 1] of these shares."""
    images = [np.empty((0, PIXELS), np.uint8)]
    labels = [np.empty(0, np.int64)]
    for share in shares:
        images.append(_stored(share.x))
        labels.append(share.y)
    y = np.concatenate(labels)
    return {
        # NumPy joins bytes and float32 to float32: bytes only if all are.
        f"{part}_x": np.concatenate(images).reshape(len(y), SIDE, SIDE, 1),
        f"{part}_y": y,
        f"{part}_starts": np.cumsum([len(one) for one in labels], dtype=np.int64),
    }


def _stored(x: np.ndarray) -> np.ndarray:
    """Pixels in 255ths: as uint8 if they are whole ones, else as float32."""
    scaled = x * 255.0
    whole = np.rint(scaled)
    fits = (np.abs(scaled - whole) <= _BYTE_TOLERANCE) & (whole >= 0) & (whole <= 255)
    return whole.astype(np.uint8) if fits.all() else scaled.astype(np.float32)
