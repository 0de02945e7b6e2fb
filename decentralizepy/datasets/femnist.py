"""FEMNIST: handwritten characters of 28 x 28 grey pixels in 62 classes, by their writers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decentralizepy.datasets.base import Normalization
from decentralizepy.datasets.leaf import (
    Leaf,
    Share,
    announced,
    folder_files,
    images,
    labels,
)
from decentralizepy.datasets.partitioners import Indices
from decentralizepy.datasets.prepare import Progress
from decentralizepy.files import expanded

NUM_CLASSES = 62
SIDE = 28
PIXELS = SIDE * SIDE

_PER_FILE = re.compile(r"data_(\d+)\.pt")

# How far from a whole number of 255ths a pixel may be and still be stored as a byte.
_BYTE_TOLERANCE = 1e-3


class Femnist(Leaf):
    """FEMNIST of LEAF (Caldas et al., 2018): its users are dealt to the nodes, whole.

    Models see the pixels as they are in the files, 0 (black) to 1 (white). Files of LEAF hold
    whole 255ths: these are stored as bytes, anything else as float32.
    """

    name: ClassVar[str] = "femnist"
    reference_name: ClassVar[str] = "decentralizepy.datasets.Femnist"
    num_classes: ClassVar[int] = NUM_CLASSES
    # LEAF's 805,263 samples, of every user nine tenths for training; smaller extracts are common
    samples: ClassVar[tuple[int, int]] = (724_700, 80_500)
    normalization: ClassVar[Normalization] = Normalization(scale=1 / 255, shift=0.0)

    def decode(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Images [n, 28, 28, 1], in 255ths, and labels."""
        found = labels(y, NUM_CLASSES)
        return stored(images(x, len(found), PIXELS)), found


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
        for path in folder_files(folder, ".pt", "train_dir"):
            if match := _PER_FILE.fullmatch(path.name):
                found[int(match[1])] = path
        missing = sorted(set(range(max(found, default=0) + 1)) - found.keys())
        if missing:
            raise ValueError(f"train_dir: the folder {folder} lacks data_{missing[0]}.pt")
        return [found[k] for k in sorted(found)]

    def _train_shares(self, progress: Progress) -> Iterable[Share]:
        from decentralizepy.datasets.saved_tensors import read_pairs  # loads torch

        for path in announced(self._train_files(), progress):
            share = read_pairs(path, PIXELS, NUM_CLASSES)
            yield Share(share.name, stored(share.x), share.y)


def stored(x: np.ndarray) -> np.ndarray:
    """Pixels [n, 784] from 0 to 1 as images in 255ths: uint8 if they are whole ones, else float32.

    NumPy joins bytes and float32 to float32, so a part is stored as bytes only if all users' are.
    """
    scaled = x.reshape(-1, SIDE, SIDE, 1) * 255.0
    whole = np.rint(scaled)
    fits = (np.abs(scaled - whole) <= _BYTE_TOLERANCE) & (whole >= 0) & (whole <= 255)
    return whole.astype(np.uint8) if fits.all() else scaled.astype(np.float32)
