"""Top-k gossip with dense masks, in any linear basis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from sharing_matrix import Row, Rows, Step, World, start

from decentralizepy.sharing.partial_model import PartialModel

GRAPHS = ("ring", "irregular", "star", "isolated", "changing", "directed")
#: how many coefficients are said, of each node: ([n], number of coefficients, t, k) -> [n]
Amounts = Callable[[World, int, int, int], list[int]]


def always(alpha: float) -> Amounts:
    """The same share for all."""
    return lambda world, c, t, k: [round(alpha * c)] * world.n


def mask(sizes: Rows, amounts: list[int]) -> Rows:
    """Ones [n, c] at the largest of each row."""
    chosen = np.zeros(sizes.shape)
    for row, size, k in zip(chosen, sizes, amounts, strict=True):
        row[np.argsort(-size, kind="stable")[:k]] = 1
    return chosen


def arrived(world: World, rows: Rows, t: int, k: int) -> Rows:
    """What neighbours decode of the rows, number by number; complex ones in their two parts."""
    if np.iscomplexobj(rows):
        return arrived(world, rows.real, t, k) + 1j * arrived(world, rows.imag, t, k)
    return np.stack([world.heard(row, t, k, uid)[0] for uid, row in enumerate(rows)])


def drawn_to(weights: Rows, own: Rows, heard: Rows, said: Rows) -> Rows:
    """By how much W moves what nodes have [n, c] to what they hear, where it is said."""
    off = weights - np.diag(np.diag(weights))
    return off @ (said * heard) - (off @ said) * own


def partial_model(
    world: World,
    amounts: Amounts,
    accumulation: bool = False,
    averaging: bool = False,
    by_change: bool = True,
    to: Callable[[Rows], Rows] = lambda rows: rows,
    back: Callable[[Rows], Rows] = lambda rows: rows,
) -> Step:
    """The method once more; ``to`` and ``back`` are the basis."""
    last = to(start(world).double().numpy())
    unsaid = np.zeros_like(last)

    def step(rows: Rows, t: int, k: int) -> Rows:
        nonlocal last, unsaid
        now = to(rows)
        change = now - last + (unsaid if accumulation else 0)
        counts = amounts(world, now.shape[1], t, k)
        said = mask(np.abs(change if by_change else now), counts)
        unsaid = np.where(said > 0, 0, unsaid if averaging else change)
        whole = said.all(axis=1, keepdims=True)  # a model, not coefficients
        weights, everywhere = world.weights(t), np.ones_like(rows)
        parts = drawn_to(weights, now, arrived(world, now, t, k), said * ~whole)
        models = drawn_to(weights, rows, arrived(world, rows, t, k), whole * everywhere)
        merged = rows + back(parts) + models
        before, last = last, to(merged)
        if averaging:
            unsaid = unsaid + last - before
        return merged

    return step


MODES = {"": {}, " accumulating": {"accumulation": True},
         " accumulating all": {"accumulation": True, "averaging": True}}  # fmt: skip
OPTIONS = {"accumulation": "accumulation", "averaging": "accumulate_averaging_changes"}


def made(mode: dict[str, bool]) -> dict[str, bool]:
    """The method's options of a mode."""
    return {OPTIONS[name]: value for name, value in mode.items()}


ROWS = [
    Row(
        f"PartialModel{name}",
        partial(PartialModel, alpha=0.3, **made(mode)),
        partial(partial_model, amounts=always(0.3), **mode),
        graphs=GRAPHS if not name else ("irregular", "changing"),
        keeps_mean=False,
    )
    for name, mode in MODES.items()
]
ROWS += [
    Row(
        "PartialModel of two rounds",
        partial(PartialModel, alpha=0.2, accumulation=True, accumulate_averaging_changes=True),
        partial(partial_model, amounts=always(0.2), accumulation=True, averaging=True),
        steps=2,
        graphs=("irregular",),
        keeps_mean=False,
    ),
    Row(
        "PartialModel above its cap",
        partial(PartialModel, alpha=0.5, metadata_cap=0.5, accumulation=True),
        partial(partial_model, amounts=always(1.0), accumulation=True),
        graphs=("irregular",),
    ),
]
