"""Amazon reviews: the number of stars by the text, by the reviewer."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decentralizepy.datasets.by_user import ByUser
from decentralizepy.datasets.leaf import announced, folder_files, listed, starts
from decentralizepy.datasets.partitioners import Indices
from decentralizepy.datasets.prepare import Progress
from decentralizepy.datasets.tokens import tokens
from decentralizepy.files import expanded

NUM_CLASSES = 5
#: columns of a file: the text, and the number of stars
TEXT, STARS = "data_path", "label_name"


class AmazonReview(ByUser):
    """Amazon's reviews as FedScale has them: one CSV file per client, and one client per node.

    `train_dir` and `test_dir` are folders of CSV files with the columns `data_path` (the text) and
    `label_name` (1 to 5 stars). The files are shuffled with `random_seed`, and node uid gets the
    one at that place; further ones stay unused. The test set is that of all clients.

    Texts become tokens of `tokenizer`: `BERT`, `MobileBERT`, or a folder that has one, cut to
    `max_length`. Models see int64 [B, T], padded.
    """

    name: ClassVar[str] = "amazon_review"
    reference_name: ClassVar[str] = "decentralizepy.datasets.text.AmazonReview"
    num_classes: ClassVar[int] = NUM_CLASSES
    task: ClassVar[str] = "one_hot"

    def __init__(self, *, tokenizer: str = "BERT", max_length: int = 512, **options: Any) -> None:
        super().__init__(**options)
        if self.sizes is not None:
            raise ValueError("sizes: the files are the parts; leave it empty")
        if max_length < 2:
            raise ValueError(f"max_length = {max_length} must be at least 2")
        self.tokenizer, self.max_length = tokenizer, max_length

    def fetch(self, progress: Progress) -> None:
        """Nothing is downloaded: says which options are missing."""
        if not self.train_dir:
            raise ValueError("AmazonReview: set train_dir (and test_dir) to folders of CSV files")

    def identity(self) -> list[str]:
        """The files, and what makes tokens of them."""
        made = f"{self.tokenizer} {self.max_length}"
        return [f"{self.name} 1", made, *listed(self._files("train")), *listed(self._files("test"))]

    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        """Both parts, in the order of the files."""
        train, test = (_read(self._files(part), progress) for part in ("train", "test"))
        texts = [text for part in (train, test) for rows in part for text, _ in rows]
        x, count = tokens(texts, self.tokenizer, self.max_length), sum(map(len, train))
        return {
            "train_x": x[:count],
            "train_y": _labels(train),
            "test_x": x[count:],
            "test_y": _labels(test),
            "train_starts": starts(map(len, train)),
        }

    def _shares_of(self, n: int, count: int) -> list[Indices]:
        self._check_users(n, count)
        order = list(range(count))
        random.Random(self.random_seed).shuffle(order)
        return [np.array([order[uid]], dtype=np.int64) for uid in range(n)]

    def _files(self, part: str) -> list[Path]:
        folder = getattr(self, f"{part}_dir")
        return folder_files(expanded(Path(folder)), ".csv", f"{part}_dir") if folder else []


Rows = list[tuple[str, int]]


def _read(files: list[Path], progress: Progress) -> list[Rows]:
    return [read_file(path) for path in announced(files, progress)]


def read_file(path: Path) -> Rows:
    """Texts and stars, 1 to 5; raises ValueError, naming the file, for anything else."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, strict=True)
            if not {TEXT, STARS} <= set(table.fieldnames or ()):
                raise ValueError(f"it needs the columns {TEXT} and {STARS}")
            return [(row[TEXT] or "", _stars(row[STARS])) for row in table]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is not a file of reviews: {error}") from None


def _stars(text: str | None) -> int:
    try:
        stars = float(text or "")
    except ValueError:
        stars = 0.0
    if stars not in range(1, NUM_CLASSES + 1):
        raise ValueError(f"{STARS} = {text!r:.40} is not 1 to {NUM_CLASSES} stars")
    return int(stars)


def _labels(part: Iterable[Rows]) -> np.ndarray:
    return np.array([stars - 1 for rows in part for _, stars in rows], dtype=np.int64)
