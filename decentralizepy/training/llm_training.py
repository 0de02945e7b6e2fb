"""Local training of text models, under the name it has in the reference system."""

from __future__ import annotations

from typing import ClassVar

from decentralizepy.training.training import Training


class LLMTraining(Training):
    """`Training`: what a batch of texts is, and its loss, the data set and its task say here."""

    reference_name: ClassVar[str] = "decentralizepy.training.text.LLMTraining"
