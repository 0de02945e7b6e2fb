"""Losses of a run's saved models as attacks have left them, for figures that need every sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decentralizepy.files import cache_home
from results.load import Run

if TYPE_CHECKING:
    from results.attacks.losstable import LossTable
    from results.attacks.world import Truth


@dataclass(frozen=True)
class KeptLosses:
    """A table of losses, and whose samples are whose."""

    truth: Truth
    table: LossTable

    def some(
        self, node: int, iterations: Sequence[int], most: int
    ) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(iteration, losses of the node's members, of non-members) of what it first sent.

        Of the iterations asked for, else of up to ``most`` spread evenly. Raises ValueError where
        there is none.
        """
        at: dict[int, int] = {}
        for i, one in enumerate(self.table.saved):
            if one.agent == node:
                at.setdefault(one.iteration, i)
        there = sorted(at)
        chosen = [one for one in iterations if one in at] if iterations else _spread(there, most)
        if not chosen:
            which = f": of iterations {there}" if there else ""
            raise ValueError(f"no such model of node {node} was kept{which}")
        members, others = self.truth.members[node], self.truth.tested
        rows = [(one, np.asarray(self.table.losses[at[one]])) for one in chosen]
        return [(one, losses[members], losses[others]) for one, losses in rows]


def _spread(values: Sequence[int], most: int) -> list[int]:
    if len(values) <= most:
        return [*values]
    places = np.linspace(0, len(values) - 1, most).round().astype(int)
    return [values[i] for i in places]


def kept_losses(
    run: Run, cache_dir: Path | None = None, overrides: Sequence[str] = ()
) -> KeptLosses:
    """The losses of a run's models, from its ``attacks`` folder or worked out now."""
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
    return KeptLosses(seen.truth, table)
