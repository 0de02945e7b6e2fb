"""Losses of a run's saved models as attacks have left them, for figures that need every sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from decentralizepy.files import cache_home, replacing
from results.load import Run

if TYPE_CHECKING:
    from results.attacks.losstable import LossTable
    from results.attacks.world import Truth

#: in the folder of a run without models: the losses that the figures of a bundle show
PACKED: Final = Path("attacks/shown_losses.npz")

#: a node, the iterations asked for, and how many are shown where none are
Shown = tuple[int, Sequence[int], int]


class KeptLosses(ABC):
    """Losses of the models that nodes first sent, on their own samples and on the test set."""

    @abstractmethod
    def there(self, node: int) -> list[int]:
        """The iterations of which a model of the node was kept, ascending."""

    @abstractmethod
    def of(self, node: int, iteration: int) -> tuple[np.ndarray, np.ndarray]:
        """Losses of members and of non-members, of an iteration that is `there`."""

    def some(
        self, node: int, iterations: Sequence[int], most: int
    ) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(iteration, losses of the node's members, of non-members) of what it first sent.

        Of the iterations asked for, or spread over all; raises ValueError where there are none.
        """
        there = self.there(node)
        chosen = [one for one in iterations if one in there] if iterations else _spread(there, most)
        if not chosen:
            which = f": of iterations {there}" if there else ""
            raise ValueError(f"no such model of node {node} was kept{which}")
        return [(one, *self.of(node, one)) for one in chosen]


@dataclass(frozen=True)
class TableLosses(KeptLosses):
    """From a table of losses, and whose samples are whose."""

    truth: Truth
    table: LossTable

    def there(self, node: int) -> list[int]:
        return sorted(self._first(node))

    def of(self, node: int, iteration: int) -> tuple[np.ndarray, np.ndarray]:
        losses = np.asarray(self.table.losses[self._first(node)[iteration]])
        return losses[self.truth.members[node]], losses[self.truth.tested]

    def _first(self, node: int) -> dict[int, int]:
        """Row of what a node first sent in each iteration."""
        found: dict[int, int] = {}
        for i, one in enumerate(self.table.saved):
            if one.agent == node:
                found.setdefault(one.iteration, i)
        return found


@dataclass(frozen=True)
class PackedLosses(KeptLosses):
    """From a file that `pack` wrote."""

    path: Path

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path, allow_pickle=False) as found:
            return dict(found)

    def there(self, node: int) -> list[int]:
        found = self._arrays.get(f"there_{node}")
        return [] if found is None else [int(one) for one in found]

    def of(self, node: int, iteration: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            members, others = (
                self._arrays[f"{side}_{node}_{iteration}"] for side in ("members", "others")
            )
        except KeyError:
            raise ValueError(
                f"{self.path}: has no losses of node {node} in iteration {iteration}; only what "
                "the bundle's own figures show is in it"
            ) from None
        return members, others


def pack(kept: KeptLosses, shown: Iterable[Shown], path: Path) -> None:
    """Write what some figures show, so that `PackedLosses` finds it; the same data, same bytes."""
    arrays: dict[str, np.ndarray] = {}
    for node, iterations, most in shown:
        arrays[f"there_{node}"] = np.array(kept.there(node), dtype=np.int64)
        for iteration, members, others in kept.some(node, iterations, most):
            arrays[f"members_{node}_{iteration}"] = members
            arrays[f"others_{node}_{iteration}"] = others
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside, aside.open("wb") as out:
        np.savez(out, allow_pickle=False, **arrays)


def _spread(values: Sequence[int], most: int) -> list[int]:
    if len(values) <= most:
        return [*values]
    places = np.linspace(0, len(values) - 1, most).round().astype(int)
    return [values[i] for i in places]


def kept_losses(
    run: Run, cache_dir: Path | None = None, overrides: Sequence[str] = ()
) -> KeptLosses:
    """The losses of a run's models: of a bundle's run as packed, else from its ``attacks`` folder
    or worked out now."""
    if (run.folder / PACKED).is_file():
        return PackedLosses(run.folder / PACKED)
    from results.attacks.losstable import loss_table
    from results.attacks.saved import find
    from results.attacks.world import world

    saved = find(run.folder)
    seen = world(run.folder, cache_dir or cache_home(), overrides)
    table = loss_table(
        saved,
        seen.truth.samples,
        lambda: seen.victims().losses,
        run.folder / "attacks",
        members=seen.truth.members,
    )
    return TableLosses(seen.truth, table)
