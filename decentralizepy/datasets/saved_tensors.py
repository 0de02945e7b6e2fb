"""Reads lists of (image, label) that torch.save wrote, without running what a pickle may ask for.

Torch is imported when a file is read: a prepared copy does without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from decentralizepy.datasets.leaf import Share, labels


def read_pairs(path: Path, features: int, classes: int) -> Share:
    """The pairs of one file: tensors of `features` numbers, labels as tensors or numbers.

    Raises ValueError, naming the file, when it is damaged, holds anything else, or is a pickle
    that asks for more than tensors and plain containers.
    """
    import torch

    pairs = _load(path)
    wanted = f"{path} is not a list of pairs (tensor of {features} pixels, label)"
    if not isinstance(pairs, list) or not all(_is_pair(pair, features) for pair in pairs):
        raise ValueError(wanted)
    try:
        y = labels([_number(label) for _, label in pairs], classes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    x = np.empty((len(pairs), features))
    for row, (image, _) in zip(x, pairs, strict=True):
        row[:] = image.detach().reshape(-1).to(torch.float64).numpy()
    if not np.isfinite(x).all():
        raise ValueError(f"{path}: a pixel is not a finite number")
    return Share(path.name, x, y)


def _load(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        first = str(error).strip().split("\n")[0][:200]
        raise ValueError(
            f"{path} was not loaded: it is no file of tensors alone ({first})"
        ) from None


def _is_pair(pair: Any, features: int) -> bool:
    import torch

    if not isinstance(pair, tuple | list) or len(pair) != 2:
        return False
    image, label = pair
    if not isinstance(image, torch.Tensor):
        return False
    odd = image.is_complex() or image.is_quantized or image.is_meta
    plain = image.layout == torch.strided and not odd and image.numel() == features
    return plain and (type(label) is int or getattr(label, "numel", int)() == 1)


def _number(label: Any) -> Any:
    return label if type(label) is int else label.item()
