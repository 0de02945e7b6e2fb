"""Learning-rate schedules: pure functions of the iteration, so resuming gives the same numbers.

A schedule is called with the iteration ``t`` (from 0) and the number of ``iterations`` of the run
and gives the factor by which the optimizer's lr is multiplied in all local steps of ``t``. These
closed forms are those of ``torch.optim.lr_scheduler`` stepped once per iteration; loading torch's
own would cost 0.8 s and 70 MB in every process. A user's schedule is a function
``f(t, iterations) -> factor``, or a class whose objects are called so.
"""

from __future__ import annotations

import bisect
import functools
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from decentralizepy.config import Component
from decentralizepy.errors import ConfigError, RunError


class LearningRate(ABC):
    """A linear warm-up, then `factor` counted from the warm-up's end.

    Over ``warmup`` iterations the factor grows linearly from ``warmup_start`` to 1 (Goyal et al.,
    "Accurate, Large Minibatch SGD", 2017, 2.2): warmup_start + (1 - warmup_start) t / warmup.
    """

    def __init__(self, *, warmup: int = 0, warmup_start: float = 0.1) -> None:
        if warmup < 0 or not 0 <= warmup_start <= 1:
            raise ValueError("warmup must be at least 0, and warmup_start between 0 and 1")
        self.warmup, self.warmup_start = warmup, warmup_start

    def __call__(self, t: int, iterations: int) -> float:
        if t < self.warmup:
            return self.warmup_start + (1 - self.warmup_start) * t / self.warmup
        return self.factor(t - self.warmup, iterations - self.warmup)

    @abstractmethod
    def factor(self, t: int, iterations: int) -> float:
        """The factor ``t`` iterations after the warm-up, which ``iterations`` follow in all."""


class Constant(LearningRate):
    """1 after the warm-up."""

    def factor(self, t: int, iterations: int) -> float:
        return 1.0


class Step(LearningRate):
    """gamma ** floor(t / step_size)."""

    def __init__(self, *, step_size: int, gamma: float = 0.1, **warmup: Any) -> None:
        super().__init__(**warmup)
        if step_size < 1:
            raise ValueError("step_size must be at least 1")
        self.step_size, self.gamma = step_size, _positive(gamma)

    def factor(self, t: int, iterations: int) -> float:
        return float(self.gamma ** (t // self.step_size))


class MultiStep(LearningRate):
    """gamma ** (number of milestones that are at most t)."""

    def __init__(self, *, milestones: list[int], gamma: float = 0.1, **warmup: Any) -> None:
        super().__init__(**warmup)
        self.milestones, self.gamma = sorted(milestones), _positive(gamma)

    def factor(self, t: int, iterations: int) -> float:
        return float(self.gamma ** bisect.bisect_right(self.milestones, t))


class Exponential(LearningRate):
    """gamma ** t."""

    def __init__(self, *, gamma: float, **warmup: Any) -> None:
        super().__init__(**warmup)
        self.gamma = _positive(gamma)

    def factor(self, t: int, iterations: int) -> float:
        return float(self.gamma**t)


class Cosine(LearningRate):
    """floor + (1 - floor) (1 + cos(pi t / period)) / 2, and ``floor`` after the period.

    One period of Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5. ``period`` counts
    iterations after the warm-up; by default it ends with the run. ``floor`` is a fraction of lr.
    """

    def __init__(self, *, period: int | None = None, floor: float = 0.0, **warmup: Any) -> None:
        super().__init__(**warmup)
        if (period is not None and period < 1) or not 0 <= floor <= 1:
            raise ValueError("period must be at least 1, and floor between 0 and 1")
        self.period, self.floor = period, floor

    def factor(self, t: int, iterations: int) -> float:
        period = self.period or max(iterations, 1)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(t / period, 1))) / 2


def _positive(gamma: float) -> float:
    if not 0 < gamma <= 1:
        raise ValueError("gamma must be above 0 and at most 1")
    return gamma


class Rate:
    """The factor of every iteration of one run, checked; the last one is kept."""

    def __init__(self, component: Component, iterations: int) -> None:
        self.name, self.iterations = component.target.dotted, iterations
        self._function = _function(component)
        self._last: tuple[int, float] = (-1, 1.0)
        try:
            self.factor(0)
        except RunError as error:
            raise ConfigError(f"[LR_SCHEDULE] {error}") from None

    def factor(self, t: int) -> float:
        """What lr is multiplied by in iteration ``t``; raises `RunError` for what is no factor."""
        if t != self._last[0]:
            self._last = t, self._checked(t)
        return self._last[1]

    def _checked(self, t: int) -> float:
        try:
            found = float(self._function(t, self.iterations))
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise RunError(f"{self.name} failed in iteration {t + 1}: {what}") from error
        if not (math.isfinite(found) and found >= 0):
            raise RunError(
                f"{self.name} gave {found} in iteration {t + 1}: a finite factor of at least 0 "
                "is expected"
            )
        return found


def _function(component: Component) -> Callable[[int, int], float]:
    found = component.target.load()
    if inspect.isclass(found):
        made: Callable[[int, int], float] = component.build()
        if not callable(made):
            raise ConfigError(f"[LR_SCHEDULE] {component.target.dotted} cannot be called")
        return made
    return functools.partial(found, **component.options)
