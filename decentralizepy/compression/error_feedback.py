"""Error feedback: what a compressor lost is added to the next vector."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from decentralizepy.compression.base import CompressionError, Memory, Part, Sparse


class ErrorFeedback(Part):
    """Send C(x_t + e_t) and keep e_{t+1} = x_t + e_t - C(x_t + e_t), with e_0 = 0.

    Seide et al., Interspeech 2014; Stich, Cordonnier & Jaggi, NeurIPS 2018, algorithm 1. What was
    sent until now and the residual sum up to all vectors: nothing is lost, only late. With a
    contraction C of factor delta and |x_t| <= M, |e_t|^2 stays below 4 (1 - delta) / delta^2 M^2
    (Karimireddy et al., ICML 2019, lemma 3).

    It takes one row of memory, kept in checkpoints. Coordinates that were not sent count as zero,
    so this is meant for methods that send changes; a method that sends its model as it is sends
    the sum of model and residual.
    """

    name: ClassVar[str] = "error_feedback"

    def add(self, x: Tensor, memory: Memory) -> Tensor:
        """x_t + e_t [n], in a tensor of its own."""
        residual = memory.get("residual")
        if residual is None:
            return x.clone()
        if residual.shape != x.shape:
            raise CompressionError(f"the residual has {len(residual)} numbers, not {len(x)}")
        return x + residual

    def keep(self, x: Tensor, sent: Tensor | Sparse, memory: Memory) -> None:
        """Keep what of ``x`` [n], which may be written, receivers do not get."""
        if isinstance(sent, Sparse):
            x.index_add_(0, sent.indices.to(x.device), sent.values.to(x), alpha=-1)
        else:
            x.sub_(sent.to(x))
        memory["residual"] = x
