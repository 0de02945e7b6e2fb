"""Local steps that are differentially private: per-sample clipping with noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from decentralizepy.errors import ConfigError
from decentralizepy.pernode import value_of
from decentralizepy.streams import generator
from decentralizepy.training.accountant import epsilon
from decentralizepy.training.training import Draw, Training

if TYPE_CHECKING:  # torch is not loaded to check an INI
    from torch import Tensor

    from decentralizepy.training.step import LocalStep

SAMPLINGS: Final = ("poisson", "batches")
#: elements of per-sample gradients that are in memory at once
_AT_ONCE: Final = 1 << 25


class PrivateTraining(Training):
    """DP-SGD (Abadi et al., CCS 2016, algorithm 1): each *sample's* gradient is clipped.

    The gradient of every sample is scaled down to an l2 norm of at most ``clip``. To their sum is
    added normal noise of standard deviation ``noise`` * ``clip``, from the step's own stream.

    ``sampling = poisson``: in each step every sample is drawn with probability q = ``batch_size`` /
    n, independently, and the sum is divided by ``batch_size``, as accountants assume. Records then
    have the column ``epsilon``: all that the node has sent is (epsilon, ``delta``)-private with
    respect to one of its samples. ``batches`` takes the batches of `Training`, without such a
    promise. A model must not have BatchNorm, GRU or RNN.
    """

    reference_name: ClassVar[str] = "decentralizepy.training.PrivateTraining"

    def __init__(
        self,
        *,
        clip: float,
        noise: float,
        delta: float = 1e-5,
        sampling: str = "poisson",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not clip > 0 or not noise >= 0 or not 0 < delta < 1:
            raise ConfigError("[TRAIN_PARAMS] clip above 0, noise from 0, delta in 0 .. 1 expected")
        if sampling not in SAMPLINGS:
            raise ConfigError(f"[TRAIN_PARAMS] sampling = {sampling}: {' or '.join(SAMPLINGS)}")
        if self.clipping_norm is not None:
            raise ConfigError("[TRAIN_PARAMS] clipping_norm clips batches; clip clips each sample")
        self.clip, self.noise, self.delta, self.sampling = clip, noise, delta, sampling
        self._sizes_of: dict[int, int] = {}

    def gradient(self, step: LocalStep) -> None:
        """The noisy mean of clipped gradients; noise alone where no sample was drawn."""
        import torch

        at_once = max(1, _AT_ONCE // len(step.grad))
        for start in range(0, len(step.x), at_once):
            step.grad.add_(self._clipped(step.per_sample(start, start + at_once)))
        if self.noise:
            noise = torch.randn(step.grad.shape, generator=step.generator, device=step.grad.device)
            step.grad.add_(noise, alpha=self.noise * self.clip)
        step.grad.div_(self._sizes_of.get(step.uid, len(step.x)) or 1)

    def _clipped(self, each: Tensor) -> Tensor:
        """The sum [P] of rows [B, P] that are no longer than the norm."""
        scale = (self.clip / each.norm(dim=1).clamp(min=1e-12)).clamp(max=1.0)
        return each.mul_(scale[:, None]).sum(dim=0)

    def draw(self, n: int, seed: int, uid: int, t: int, steps: int | None = None) -> Draw:
        """The samples of an iteration; batches of ``poisson`` differ in size, and may be empty."""
        if self.sampling != "poisson" or not n:
            return super().draw(n, seed, uid, t, steps)
        steps = self.steps(n, uid) if steps is None else steps
        rng, rate = generator(seed, uid, "batches", t), self._rate(n, uid)
        drawn = [np.flatnonzero(rng.random(n) < rate) for _ in range(steps)]
        self._sizes_of[uid] = min(value_of(self.batch_size, uid), n)
        return Draw(np.concatenate([np.zeros(0, np.int64), *drawn]), [len(one) for one in drawn])

    def weight(self, size: int, total: int, steps: int) -> float:
        """Each step alike: how many samples it has is not to be seen."""
        return 1 / steps if self.sampling == "poisson" else super().weight(size, total, steps)

    def columns(self, n: int, uid: int, gradients: int) -> dict[str, float]:
        """The privacy that is spent, where it is known and finite."""
        if self.sampling != "poisson" or not self.noise or not n:
            return {}
        return {"epsilon": epsilon(gradients, self._rate(n, uid), self.noise, self.delta)}

    def remark(self, n: int, uid: int) -> str:
        """That no privacy is promised, where none is."""
        if self.noise and self.sampling == "poisson":
            return ""
        why = "sampling = batches" if self.noise else "noise = 0"
        return f"no privacy is accounted for: {why}"

    def _rate(self, n: int, uid: int) -> float:
        return min(1.0, value_of(self.batch_size, uid) / n)
