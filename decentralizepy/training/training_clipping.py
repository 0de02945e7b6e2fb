"""Local training with clipped gradients, under the name it has in the reference's fork."""

from __future__ import annotations

from typing import Any, ClassVar

from decentralizepy.training.training import Training


class TrainingClipping(Training):
    """`Training` whose ``clipping_norm`` is what the class is chosen for.

    The gradient of each *mini-batch* is clipped to that l2 norm (Pascanu, Mikolov and Bengio, ICML
    2013). No sample's own gradient is bounded, so this alone gives no differential privacy,
    whatever noise is added.
    """

    reference_name: ClassVar[str] = "decentralizepy.training.TrainingClipping"

    def __init__(self, *, clipping_norm: float | None = None, **options: Any) -> None:
        super().__init__(clipping_norm=clipping_norm, **options)
