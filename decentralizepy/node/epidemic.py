"""Epidemic learning (de Vos et al., NeurIPS 2023): fresh random receivers in every iteration."""

from __future__ import annotations

from typing import ClassVar

from decentralizepy.node.dpsgd import DPSGD


class EpidemicLearning(DPSGD):
    """D-PSGD over an `EpidemicSchedule` (local) or a random regular graph (oracle).

    With a ``timeout``, a round goes on after so many seconds without those that are late; what
    they say comes too late then and is dropped. Take a method that averages what came, such as
    ``PlainAverageSharing``.
    """

    gossips: ClassVar[bool] = True

    def __init__(self, *, timeout: float | None = None) -> None:
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout = {timeout}: seconds above 0 are needed")
        self.timeout = timeout
