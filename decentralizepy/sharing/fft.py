"""Gossip of the frequencies of the model that changed most."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from decentralizepy.sharing.transformed import Transformed


class FFT(Transformed):
    """`PartialModel` in the frequency domain: T is the real discrete Fourier transform.

    As in DecentralizePy (arXiv 2304.08322), the competitor of JWINS (arXiv 2306.04377, section V).
    Of a row [P] there are P // 2 + 1 complex coefficients; those with the largest absolute change
    are said. P may be odd.

    Args:
        change_based_selection: choose by the change of a coefficient; else by its size.
        alpha, metadata_cap, accumulation, accumulate_averaging_changes: as in `PartialModel`.

    Bytes: 8 for each of alpha (P // 2 + 1) coefficients, so alpha of the model, and 4 for each
    index, so alpha / 2 of the model.
    Passes: those of `Transformed`.
    """

    reference_name: ClassVar[str] = "decentralizepy.sharing.JWINS.FFT"

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        metadata_cap: float = 1.0,
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

    def transform(self, x: Tensor) -> Tensor:
        """Frequencies [P // 2 + 1] complex64."""
        return torch.fft.rfft(x)

    def inverse(self, coefficients: Tensor, n: int) -> Tensor:
        """The row [n]; without n an odd one would lose its last number."""
        return torch.fft.irfft(coefficients, n=n)
