"""Gossip of the wavelet coefficients of the model that changed most."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from decentralizepy.errors import ConfigError
from decentralizepy.sharing.transformed import Transformed


class Wavelet(Transformed):
    """`PartialModel` in the wavelet domain: T is a discrete wavelet transform (Mallat, 1989).

    JWINS without its random share (arXiv 2306.04377, section III). The row is one signal,
    mirrored at its ends; coefficients are ordered from the coarsest to the finest.

    Args:
        wavelet: a name that PyWavelets knows: haar, sym2, db4, ...
        level: how often the signal is halved; rows too short for it are halved as often as useful.
        change_based_selection: choose by the change of a coefficient; else by its size.
        alpha, metadata_cap, accumulation, accumulate_averaging_changes: as in `PartialModel`.

    Bytes: 4 for each of alpha C coefficients, and 4 for each index. C is P and a few: each level
    adds at most as many as the wavelet's filter is long.
    Passes: those of `Transformed`.
    """

    reference_name: ClassVar[str] = "decentralizepy.sharing.JWINS.Wavelet"

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        metadata_cap: float = 1.0,
        wavelet: str = "haar",
        level: int = 4,
        change_based_selection: bool = True,
        accumulation: bool = False,
        accumulate_averaging_changes: bool = False,
    ) -> None:
        super().__init__(
            alpha=alpha,
            metadata_cap=metadata_cap,
            accumulation=accumulation,
            accumulate_averaging_changes=accumulate_averaging_changes,
        )
        self.change_based_selection = change_based_selection
        self._pywt = _library()
        if wavelet not in self._pywt.wavelist(kind="discrete"):
            raise ValueError(f"wavelet = {wavelet:.40}: PyWavelets has no discrete one named so")
        if level < 1:
            raise ValueError(f"level = {level}: at least 1 is expected")
        self.wavelet, self.level = self._pywt.Wavelet(wavelet), level

    def transform(self, x: Tensor) -> Tensor:
        """Coefficients [C] float32."""
        signal = x.detach().cpu().numpy()
        bands = self._pywt.wavedec(signal, self.wavelet, level=self._levels(len(x)))
        return torch.from_numpy(np.concatenate(bands)).to(x.device)

    def inverse(self, coefficients: Tensor, n: int) -> Tensor:
        """The row [n]; a signal of odd length comes back with one number more, which is cut."""
        flat = coefficients.cpu().numpy()
        ends = accumulate(self._lengths(n), initial=0)
        bands = [flat[first:end] for first, end in pairwise(ends)]
        return torch.from_numpy(self._pywt.waverec(bands, self.wavelet)[:n]).to(coefficients.device)

    def _levels(self, n: int) -> int:
        return min(self.level, self._pywt.dwt_max_level(n, self.wavelet))

    def _lengths(self, n: int) -> list[int]:
        """How many coefficients each band of a row [n] has, from the coarsest on."""
        lengths = [n]
        for _ in range(self._levels(n)):
            half = self._pywt.dwt_coeff_len(lengths[0], self.wavelet.dec_len, "symmetric")
            lengths[:1] = [half, half]
        return lengths


def _library() -> Any:
    try:
        import pywt
    except ImportError:
        raise ConfigError(
            "wavelets need PyWavelets, which is not installed: "
            "pip install 'decentralizepy[wavelets]' (or pip install PyWavelets)"
        ) from None
    return pywt
