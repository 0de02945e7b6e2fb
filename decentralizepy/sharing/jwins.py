"""JWINS: wavelet coefficients, in a share that is drawn anew in each round."""

from __future__ import annotations

from typing import ClassVar

from decentralizepy.compression.top_k import checked_share
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.wavelet import Wavelet


class JWINS(Wavelet):
    """`Wavelet` with a random cut-off (Dhasade et al., ICDCS 2023, arXiv 2306.04377, algorithm 1).

    In each round a node draws its share from ``alpha_list``, all with equal probability. Shares
    from ``metadata_cap`` on mean the whole model, without indices. The paper's settings: sym2,
    level 4, both kinds of accumulation, shares 0.1, 0.15, 0.2, 0.25, 0.3, 0.4 and 1.0, cap 0.5,
    indices in Elias gamma, values packed by fpzip.

    Args:
        alpha_list: the shares.
        wavelet, level, change_based_selection: as in `Wavelet`.
        metadata_cap, accumulation, accumulate_averaging_changes: as in `PartialModel`.

    Bytes: those of `Wavelet` with the share that was drawn; in the mean over many rounds those of
    the mean share, where shares from the cap on count as 1 without indices.
    Passes: those of `Transformed`.
    """

    reference_name: ClassVar[str] = "decentralizepy.sharing.JWINS.JWINS"

    def __init__(
        self,
        *,
        alpha_list: list[float] | tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 1.0),
        metadata_cap: float = 1.0,
        wavelet: str = "haar",
        level: int = 4,
        change_based_selection: bool = True,
        accumulation: bool = False,
        accumulate_averaging_changes: bool = False,
    ) -> None:
        super().__init__(
            metadata_cap=metadata_cap,
            wavelet=wavelet,
            level=level,
            change_based_selection=change_based_selection,
            accumulation=accumulation,
            accumulate_averaging_changes=accumulate_averaging_changes,
        )
        if not alpha_list:
            raise ValueError("alpha_list is empty: at least one share is expected")
        self.alpha_list = [checked_share(alpha) for alpha in alpha_list]

    def share(self, ctx: Context) -> float:
        """One of the shares, from the node's stream of this round."""
        return self.alpha_list[ctx.generator.integers(len(self.alpha_list))]
