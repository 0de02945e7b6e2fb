"""Parts of rows, added to a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import Sparse

#: entries of a row that all parts are added to before the next ones: they stay in the cache
_PIECE: Final = 1 << 18


def add_parts(out: Tensor, own: Tensor, parts: Sequence[tuple[Sparse, float]]) -> None:
    """``out += weight (part - own)`` [n] where the part says something, for each in its turn.

    Long rows in pieces, which changes no sum: an entry takes part after part all the same.
    """
    if out.is_cpu and out.numel() > _PIECE and all(_ascends(part) for part, _ in parts):
        _add_in_pieces(out, own, parts)
        return
    for part, weight in parts:
        _add(out, own, part.indices, part.values, weight)


def _add_in_pieces(out: Tensor, own: Tensor, parts: Sequence[tuple[Sparse, float]]) -> None:
    ends = np.arange(_PIECE, len(out) + _PIECE, _PIECE)
    cut = [(part, weight, _cuts(part.indices, ends)) for part, weight in parts]
    for piece in range(len(ends)):
        for part, weight, cuts in cut:
            here = slice(cuts[piece], cuts[piece + 1])
            _add(out, own, part.indices[here], part.values[here], weight)


def _ascends(part: Sparse) -> bool:
    """What a chain has decoded does; a method of one's own may decode otherwise."""
    return part.checked or bool((part.indices[1:] >= part.indices[:-1]).all())


def _cuts(indices: Tensor, ends: np.ndarray) -> list[int]:
    """Where each piece begins among ascending indices, and the last one ends."""
    return [0, *indices.cpu().numpy().searchsorted(ends).tolist()]


def _add(out: Tensor, own: Tensor, indices: Tensor, values: Tensor, weight: float) -> None:
    if values.device != own.device:
        indices, values = indices.to(own.device), values.to(own.device)
    change = own.index_select(0, indices)
    torch.sub(values, change, out=change)
    out.index_add_(0, indices, change, alpha=weight)
