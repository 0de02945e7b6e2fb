"""Where the optimizer states of stacked nodes lie: side by side, so that they need no gathering."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from decentralizepy.training.learner import Learner
from decentralizepy.training.rows import Rows, ScatteredRows, rows

#: entries of optimizer states as stacks [G, P], by name
State = dict[str, Tensor]


class Homes:
    """A place for each node's row of every entry; nodes get theirs when they first have a state."""

    def __init__(self) -> None:
        #: nodes that there will be, as far as anybody knows
        self.expected = 0
        self._made: dict[str, int] = {}
        self._free: dict[str, list[Tensor]] = {}

    def rows(self, name: str, learners: Sequence[Learner]) -> Rows:
        """An entry of nodes that all have it; one that lies elsewhere, as from a file, moves in."""
        vectors = [one.optimizer[name] for one in learners]
        found = rows(vectors)
        if isinstance(found, ScatteredRows) and len(vectors) > 1:
            pairs = zip(learners, vectors, strict=True)
            homes = [self._home(name, one, vector) for one, vector in pairs]
            if any(home is not vector for home, vector in zip(homes, vectors, strict=True)):
                torch._foreach_copy_(homes, vectors)
                return self._settled(name, learners, homes)
        return found

    def settle(self, name: str, learners: Sequence[Learner], values: Tensor) -> None:
        """Give nodes a new entry [G, P]."""
        homes = [self._home(name, one, values[0]) for one in learners]
        self._settled(name, learners, homes).put(0, values)

    def _settled(self, name: str, learners: Sequence[Learner], homes: list[Tensor]) -> Rows:
        for learner, home in zip(learners, homes, strict=True):
            learner.optimizer[name] = home
        return rows(homes)

    def _home(self, name: str, learner: Learner, like: Tensor) -> Tensor:
        found = learner.homes.get(name)
        if found is None:
            found = learner.homes[name] = self._next(name, like)
        return found

    def _next(self, name: str, like: Tensor) -> Tensor:
        free = self._free.setdefault(name, [])
        if not free:
            made = self._made.get(name, 0)
            block = like.new_empty(max(self.expected - made, 1), len(like))
            free.extend(reversed(block.unbind()))
            self._made[name] = made + len(block)
        return free.pop()
