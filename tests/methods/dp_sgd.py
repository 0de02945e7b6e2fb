"""Per-sample clipping with noise (DP-SGD; Abadi et al., CCS 2016)."""

import torch

from decentralizepy import Training


class PerSampleClipping(Training):
    def __init__(self, *, clip: float = 1.0, noise: float = 0.0, **options) -> None:
        super().__init__(**options)
        self.clip, self.noise = clip, noise

    def gradient(self, step):
        each = step.per_sample()  # [B, n_parameters]
        each *= (self.clip / each.norm(dim=1).clamp(min=1e-12)).clamp(max=1.0)[:, None]
        noise = torch.randn(each.shape[1], generator=step.generator)
        step.grad.copy_((each.sum(0) + self.noise * self.clip * noise) / len(each))
