"""Networks for Amazon's reviews: tokens int64 [B, T] to logits [B, 5], one to five stars.

They are pretrained; see `decentralizepy.models.pretrained` for where their weights come from. What
the classes say of themselves is explained in `decentralizepy.models`, and is right for the
published weights.
"""

from typing import ClassVar

from decentralizepy.models.pretrained import TextClassifier

NUM_CLASSES = 5


class BERT(TextClassifier):
    """109,486,085 parameters: BERT base, uncased (Devlin et al., 2019), with five logits."""

    eval_batch: ClassVar[int] = 8
    n_parameters: ClassVar[int] = 109_486_085
    train_s: ClassVar[float] = 9.0  # guess, for 512 tokens
    evaluate_s: ClassVar[float] = 3.0  # guess

    def __init__(
        self, *, folder: str = "google-bert/bert-base-uncased", pretrained: bool = True
    ) -> None:
        super().__init__(folder=folder, classes=NUM_CLASSES, pretrained=pretrained)


class MobileBERT(TextClassifier):
    """24,584,453 parameters: MobileBERT, uncased (Sun et al., 2020), with five logits."""

    eval_batch: ClassVar[int] = 8
    n_parameters: ClassVar[int] = 24_584_453
    train_s: ClassVar[float] = 4.0  # guess, for 512 tokens
    evaluate_s: ClassVar[float] = 1.3  # guess

    def __init__(
        self, *, folder: str = "google/mobilebert-uncased", pretrained: bool = True
    ) -> None:
        super().__init__(folder=folder, classes=NUM_CLASSES, pretrained=pretrained)
