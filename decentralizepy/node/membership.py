"""Which nodes take part when: lost ones leave before a stated iteration; free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Epoch:
    """From iteration ``before`` (0-based) on, the run goes on without the nodes ``left``."""

    before: int
    left: tuple[int, ...]
    why: str = ""

    def value(self) -> dict[str, Any]:
        """As JSON."""
        return {"before": self.before, "left": list(self.left), "why": self.why}

    @property
    def note(self) -> str:
        """Who left when and why, for whoever reads the results."""
        return f"{self.why}: left before iteration {self.before + 1}"


@dataclass
class Membership:
    """The nodes of a run by iteration; everybody until an epoch says otherwise."""

    n: int
    epochs: list[Epoch] = field(default_factory=list)
    _at: list[tuple[int, frozenset[int]]] = field(default_factory=list)

    def add(self, epoch: Epoch) -> None:
        """More nodes leave; epochs come in the order of their iterations."""
        self.epochs.append(epoch)
        self._at.append((epoch.before, frozenset(range(self.n)) - self.left))

    def at(self, t: int) -> frozenset[int] | None:
        """The members in iteration ``t``; None as long as that is everybody."""
        found = None
        for before, members in self._at:
            if before <= t:
                found = members
        return found

    @property
    def left(self) -> frozenset[int]:
        """All nodes that have left."""
        return frozenset(uid for epoch in self.epochs for uid in epoch.left)

    def value(self) -> list[dict[str, Any]]:
        """As JSON."""
        return [epoch.value() for epoch in self.epochs]


def resumed(n: int, epochs: Sequence[Epoch], iteration: int) -> Membership:
    """The membership of a run that goes on after ``iteration``: who had left stays away."""
    membership = Membership(n)
    left = sorted({uid for epoch in epochs for uid in epoch.left})
    if left:
        why = "; ".join(dict.fromkeys(epoch.why for epoch in epochs))
        membership.add(Epoch(iteration, tuple(left), why))
    return membership


def are_epochs(value: Any) -> bool:
    """Whether JSON from a file or a message is what `Membership.value` gives."""
    return type(value) is list and all(type(epoch) is dict and _is_left(epoch) for epoch in value)


def _is_left(epoch: dict[str, Any]) -> bool:
    left = epoch.get("left")
    return type(left) is list and all(type(uid) is int for uid in left)


def describe(uids: Sequence[int], most: int = 8) -> str:
    """``node 3`` or ``nodes 3, 4, 5 and 20 more``."""
    shown = ", ".join(str(uid) for uid in uids[:most])
    more = f" and {len(uids) - most} more" if len(uids) > most else ""
    return f"node{'s' * (len(uids) > 1)} {shown}{more}"


def epochs_of(epochs: Iterable[dict[str, Any]]) -> tuple[Epoch, ...]:
    """Who had left, by a checkpoint's ``set.json``, of which only the uids are sure to be right."""
    found = ((epoch.get("before"), epoch["left"], str(epoch.get("why", ""))) for epoch in epochs)
    return tuple(
        Epoch(before if type(before) is int else 0, tuple(left), why) for before, left, why in found
    )
