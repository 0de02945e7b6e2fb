"""One measured number and its bound, and medians or minima of interleaved repeats."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """One measured number and what it must not exceed, or fall short of with ``at_least``.

    Without a bound (None) it is only shown. ``skipped`` says why there is no number.
    """

    name: str
    value: float
    bound: float | None
    detail: str
    at_least: bool = False
    skipped: str = ""

    @classmethod
    def skip(cls, name: str, why: str) -> Result:
        """A case that can't be measured here."""
        return cls(name, 0.0, None, "", skipped=why)

    @property
    def met(self) -> bool:
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def line(self) -> str:
        if self.skipped:
            return f"skip {self.name}: {self.skipped}"
        mark = "ok" if self.met else "UNDER" if self.at_least else "OVER"
        mark, bound = ("", "-") if self.bound is None else (mark, f"{self.bound:.2f}")
        kind = "least" if self.at_least else "bound"
        return f"{mark:<6}{self.name:<62} {self.value:8.3f}  {kind} {bound:>6}   {self.detail}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}


def medians(repeats: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Median of each measure over interleaved repeats."""
    return {name: statistics.median(values) for name, values in _all(repeats, measures).items()}


def minima(repeats: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Minimum of each measure over interleaved repeats.

    For short calls: what others do to the caches they share with these only adds to the time.
    """
    return {name: min(values) for name, values in _all(repeats, measures).items()}


def _all(repeats: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measure in measures.items():
            found[name].append(measure())
    return found
