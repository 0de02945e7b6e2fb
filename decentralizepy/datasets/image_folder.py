"""Images of one's own: a folder for each class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from decentralizepy.datasets.leaf import listed
from decentralizepy.datasets.own import OwnData
from decentralizepy.datasets.pictures import MODES, pixels
from decentralizepy.datasets.prepare import Progress, Streamed
from decentralizepy.files import expanded

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


class ImageFolder(OwnData):
    """`train_dir/<class>/<image>`, and `test_dir` likewise, if there is a test set.

    The classes are the folders of `train_dir` in the order of their names; `test_dir` must have no
    other ones. Images are resized to `side` x `side` and have `channels` colours, 1 or 3. Models
    see x / 127.5 - 1.
    """

    name: ClassVar[str] = "image_folder"
    reference_name: ClassVar[str] = "decentralizepy.datasets.ImageFolder"

    def __init__(
        self,
        *,
        side: int = 32,
        channels: int = 3,
        partition_niid: str | bool = "simple",
        alpha: float = 100.0,
        shards: int = 1,
        train_dir: str = "",
        test_dir: str = "",
        random_seed: int = 1234,
        sizes: list[float] | None = None,
        test_batch_size: int = 64,
        validation_source: str = "",
        validation_size: float = 0.0,
    ) -> None:
        super().__init__(
            scale=1 / 127.5,
            shift=-1.0,
            partition_niid=partition_niid,
            alpha=alpha,
            shards=shards,
            train_dir=train_dir,
            test_dir=test_dir,
            random_seed=random_seed,
            sizes=sizes,
            test_batch_size=test_batch_size,
            validation_source=validation_source,
            validation_size=validation_size,
        )
        if channels not in MODES or side < 1:
            raise ValueError(f"channels = {channels} must be 1 or 3, side = {side} at least 1")
        self.side, self.channels = side, channels

    def identity(self) -> list[str]:
        """The images, and what they are turned into."""
        found = [
            line
            for part in (self.train_dir, self.test_dir)
            for images in (classes(part).values() if part else ())
            for line in listed(images)
        ]
        return [f"{self.name} 1", f"{self.side} {self.channels}", *found]

    def build(self, progress: Progress) -> Mapping[str, np.ndarray | Streamed]:
        """Both parts, by class and by name; without `test_dir` the test part is empty."""
        train = classes(self.train_dir)
        test = classes(self.test_dir) if self.test_dir else {}
        strange = sorted(test.keys() - train.keys())
        if strange:
            raise ValueError(f"test_dir has the class {strange[0]}, which train_dir lacks")
        numbers = {name: k for k, name in enumerate(train)}
        arrays: dict[str, np.ndarray | Streamed] = {"train_starts": np.zeros(1, np.int64)}
        for part, found in (("train", train), ("test", test)):
            paths = [path for images in found.values() for path in images]
            labels = [numbers[name] for name, images in found.items() for _ in images]
            arrays[f"{part}_x"] = pixels(paths, self.side, self.channels, progress)
            arrays[f"{part}_y"] = np.array(labels, dtype=np.int64)
        return arrays


def classes(folder: str) -> dict[str, list[Path]]:
    """The images of each class, both by name.

    Raises ValueError where there is no such folder, no class in it, or no image in a class.
    """
    root = expanded(Path(folder))
    try:
        inside = sorted(path for path in root.iterdir() if path.is_dir())
        found = {
            one.name: sorted(p for p in one.iterdir() if p.suffix.lower() in ENDINGS)
            for one in inside
        }
    except OSError as error:
        raise ValueError(f"cannot look into the folder {root} ({error.strerror})") from None
    empty = [name for name, images in found.items() if not images]
    if not found or empty:
        where = root / empty[0] if empty else root
        raise ValueError(f"{where} has no {'image' if empty else 'folder of a class'}")
    return found
