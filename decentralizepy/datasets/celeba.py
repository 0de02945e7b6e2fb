"""CelebA: faces of celebrities, smiling or not, by the celebrity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decentralizepy.datasets.base import Normalization
from decentralizepy.datasets.leaf import Leaf, labels, texts
from decentralizepy.datasets.pictures import pixels
from decentralizepy.datasets.prepare import Progress, Streamed
from decentralizepy.files import expanded

NUM_CLASSES = 2
SIDE = 84


class Celeba(Leaf):
    """CelebA of LEAF (Caldas et al., 2018): its users are dealt to the nodes, whole.

    The JSON files name images, which are in `images_dir`: of `000001.jpg` the file `000001.png` is
    taken if it is there, as in the reference, else `000001.jpg`. Models see 84 x 84 pixels of three
    colours, from 0 to 255 as they are.
    """

    name: ClassVar[str] = "celeba"
    reference_name: ClassVar[str] = "decentralizepy.datasets.Celeba"
    num_classes: ClassVar[int] = NUM_CLASSES
    # LEAF's 200,288 images of 9,343 celebrities, of each nine tenths for training
    samples: ClassVar[tuple[int, int]] = (180_259, 20_029)
    normalization: ClassVar[Normalization] = Normalization(scale=1.0, shift=0.0)

    def __init__(self, *, images_dir: str, **options: Any) -> None:
        super().__init__(**options)
        self.images_dir = images_dir

    def identity(self) -> list[str]:
        """The JSON files, and the folder of images with the time of its last change."""
        folder = self._images()
        try:
            changed = folder.stat().st_mtime_ns
        except OSError as error:
            raise ValueError(f"images_dir: {folder}: {error.strerror}") from None
        return [*super().identity(), str(folder.resolve()), str(changed)]

    def build(self, progress: Progress) -> Mapping[str, np.ndarray | Streamed]:
        """Both parts; their images are read as they are written."""
        arrays: dict[str, np.ndarray | Streamed] = dict(super().build(progress))
        for part in ("train", "test"):
            names = arrays[f"{part}_x"]
            assert isinstance(names, np.ndarray)
            paths = [self._image(name) for name in names.tolist()]
            arrays[f"{part}_x"] = pixels(paths, SIDE, 3, progress)
        return arrays

    def decode(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Names of images, and labels."""
        found = labels(y, NUM_CLASSES)
        names = texts(x, "x")
        if len(names) != len(found):
            raise ValueError(f"'x' names {len(names)} images, 'y' has {len(found)} labels")
        strange = [name for name in names if not name or Path(name).name != name]
        if strange:
            raise ValueError(f"'x': {strange[0]!r:.80} is not the name of an image")
        return np.array(names, dtype=np.str_), found

    def _images(self) -> Path:
        return expanded(Path(self.images_dir))

    def _image(self, name: str) -> Path:
        path = self._images() / name
        png = path.with_suffix(".png")
        return png if png.exists() else path
