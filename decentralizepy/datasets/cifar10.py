"""CIFAR-10: 60,000 colour images of 32 x 32 in ten classes, read from its Python batch files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decentralizepy.datasets import download as archives
from decentralizepy.datasets.base import Dataset, Normalization
from decentralizepy.datasets.locks import locked
from decentralizepy.datasets.prepare import Progress, describe, make_folder
from decentralizepy.datasets.unpickle import load_batch
from decentralizepy.files import expanded

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"

BATCHES = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}

_SHAPE = (32, 32, 3)


class CIFAR10(Dataset):
    """CIFAR-10 (Krizhevsky, 2009; https://www.cs.toronto.edu/~kriz/cifar.html).

    `train_dir` and `test_dir` are folders that hold `cifar-10-batches-py` (as torchvision lays it
    out) or its files themselves; they may be the same, as in the reference's configurations, or
    read-only. As in the reference an empty one means no such part: `train()` or `test()` then has
    length 0. `download`: fetch the files (170 MB) into a folder that has none of them.

    `partition_niid`: simple, iid (or False), kshard (or True) with `shards`, dirichlet with
    `alpha`. `sizes`: fractions of the training set, one per node (None: equal).
    Models see (x / 255 - 0.5) / 0.5.
    """

    name: ClassVar[str] = "cifar10"
    reference_name: ClassVar[str] = "decentralizepy.datasets.CIFAR10"
    num_classes: ClassVar[int] = 10
    samples: ClassVar[tuple[int, int]] = (50_000, 10_000)
    normalization: ClassVar[Normalization] = Normalization(scale=2 / 255, shift=-1.0)

    def __init__(
        self,
        *,
        train_dir: str = "",
        test_dir: str = "",
        random_seed: int = 1234,
        sizes: list[float] | None = None,
        partition_niid: str | bool = "simple",
        alpha: float = 100.0,
        shards: int = 1,
        test_batch_size: int = 64,
        download: bool = True,
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
        self.download = download

    def fetch(self, progress: Progress) -> None:
        """Download into every given folder that holds no batch file (if `download` is on).

        Raises ValueError, saying where to put the files, when they are missing and stay so.
        """
        if not (self.train_dir or self.test_dir):
            raise ValueError("CIFAR10: set train_dir (and test_dir) to the folder of the data")
        for part, root in self._roots().items():
            if find(root, part) is None:
                self._fetch_into(root, part, progress)

    def identity(self) -> list[str]:
        """Path, size and time of each batch file that is used."""
        return [f"{part} {describe(path)}" for part in BATCHES for path in self._paths(part)]

    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        """Both parts from the batch files, in their order."""
        arrays: dict[str, np.ndarray] = {}
        for part in BATCHES:
            arrays[f"{part}_x"], arrays[f"{part}_y"] = _read(self._paths(part), progress)
        return arrays

    def _roots(self) -> dict[str, Path]:
        given = {"train": self.train_dir, "test": self.test_dir}
        return {part: expanded(Path(root)) for part, root in given.items() if root}

    def _paths(self, part: str) -> list[Path]:
        root = self._roots().get(part)
        if root is None:
            return []
        folder = find(root, part)
        if folder is None:
            raise ValueError(_missing(root, part))
        return [folder / name for name in BATCHES[part]]

    def _fetch_into(self, root: Path, part: str, progress: Progress) -> None:
        begun = _begun(root)  # asked first: another process may just be finishing its download
        if find(root, part) is not None:
            return
        if begun or not self.download:
            raise ValueError(_missing(root, part))
        try:
            make_folder(root, "CIFAR-10")
            with locked(root / FOLDER, progress, "downloads the same data"):
                if find(root, part) is None:
                    archives.fetch(URL, MD5, root / ARCHIVE, progress)
                    archives.extract(root / ARCHIVE, FOLDER, root)
        except ValueError as error:
            raise ValueError(f"{_missing(root, part)} The download failed: {error}") from error


def find(root: Path, part: str) -> Path | None:
    """The folder, at or below `root`, with all batch files of `part` ("train" or "test")."""
    for folder in (root / FOLDER, root):
        if not _absent(folder, part):
            return folder
    return None


def _absent(folder: Path, part: str) -> list[str]:
    try:
        return [name for name in BATCHES[part] if not (folder / name).is_file()]
    except PermissionError as error:
        raise ValueError(f"CIFAR10: may not look into {folder} ({error})") from error


def _begun(root: Path) -> bool:
    """Whether some of the files are there: then the user must look, not a download."""
    given = any(len(_absent(root, part)) < len(BATCHES[part]) for part in BATCHES)
    return given or (root / FOLDER).exists()


def _missing(root: Path, part: str) -> str:
    folder = root / FOLDER if (root / FOLDER).is_dir() else root
    return (
        f"CIFAR10: {folder} ({part}_dir) lacks {', '.join(_absent(folder, part))}. "
        f"Put the folder {FOLDER}, from {URL}, into {root}, or name the folder that holds it."
    )


def _read(paths: list[Path], progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Images (uint8 [N, 32, 32, 3]) and labels (int64 [N]) of these files, one after the other."""
    images = [np.empty((0, *_SHAPE), dtype=np.uint8)]
    labels = [np.empty(0, dtype=np.int64)]
    for path in paths:
        progress(f"reading {path}")
        batch = load_batch(path)
        labels.append(_labels(batch, path))
        images.append(_images(batch, len(labels[-1]), path))
    return np.concatenate(images), np.concatenate(labels)


def _images(batch: Mapping[bytes, Any], count: int, path: Path) -> np.ndarray:
    """A file stores all reds of an image, then all greens, then all blues: here colours go last."""
    data = batch.get(b"data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (count, 3072):
        raise ValueError(f"{path}: 'data' is not a uint8 array of shape ({count}, 3072)")
    return np.ascontiguousarray(data.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1))


def _labels(batch: Mapping[bytes, Any], path: Path) -> np.ndarray:
    labels = batch.get(b"labels")
    if not isinstance(labels, list) or not all(type(y) is int and 0 <= y < 10 for y in labels):
        raise ValueError(f"{path}: 'labels' is not a list of numbers from 0 to 9")
    return np.array(labels, dtype=np.int64)
