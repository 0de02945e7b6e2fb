"""Image files as arrays of bytes, by Pillow, which is loaded when the first one is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from decentralizepy.cpus import allotted
from decentralizepy.datasets.prepare import Progress, Streamed

#: Pillow's names of what has so many channels
MODES = {1: "L", 3: "RGB"}
#: images that are in memory at once
_BLOCK = 256


def pixels(paths: Sequence[Path], side: int, channels: int, progress: Progress) -> Streamed:
    """These images, uint8 [N, side, side, channels], read as they are written.

    An image of another size is resized (bicubic), one of other colours converted. Raises
    ValueError, naming the file, for one that is missing or damaged, or when Pillow is missing.
    """
    shape = len(paths), side, side, channels
    return Streamed(shape, np.dtype(np.uint8), _blocks(paths, side, channels, progress))


def _blocks(
    paths: Sequence[Path], side: int, channels: int, progress: Progress
) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(allotted()) as pool:  # Pillow decodes without the interpreter's lock
        for start in range(0, len(paths), _BLOCK):
            if start % (20 * _BLOCK) == 0:
                progress(f"reading images ({start} of {len(paths)})")
            part = paths[start : start + _BLOCK]
            yield np.stack(list(pool.map(lambda path: read(path, side, channels), part)))


def read(path: Path, side: int, channels: int) -> np.ndarray:
    """One image, uint8 [side, side, channels]; raises ValueError as `pixels` does."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(
            "images need Pillow, which is not installed: pip install 'decentralizepy[images]' "
            "(or pip install pillow)"
        ) from error
    try:
        with Image.open(path) as image:
            return converted(image, side, channels)
    except FileNotFoundError:
        raise ValueError(f"there is no image {path}") from None
    except Exception as error:  # a damaged image can raise nearly anything
        raise ValueError(f"{path} is not a readable image ({error!s:.200})") from None


def converted(image: Any, side: int, channels: int) -> np.ndarray:
    """An image of Pillow's as uint8 [side, side, channels]."""
    fitting = image.convert(MODES[channels]).resize((side, side))
    return np.asarray(fitting, dtype=np.uint8).reshape(side, side, channels)
