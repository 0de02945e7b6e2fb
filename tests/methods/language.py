"""A tiny language model over bytes: a data set, a model, and what the task of both is."""

import numpy as np
import torch
from torch import nn

from decentralizepy import Dataset, Normalization
from decentralizepy.training.task import LanguageModel

TEXT = "the quick brown fox jumps over the lazy dog and runs away from the small cat. " * 60


class Sentences(Dataset):
    """Windows of 16 bytes; the target is the next byte."""

    name, num_classes = "sentences", 0
    normalization = Normalization(scale=1.0, shift=0.0)
    task = LanguageModel()

    def identity(self):
        return ["sentences 1"]

    def build(self, progress):
        tokens = np.frombuffer(TEXT.encode(), np.uint8).astype(np.int64) % 128
        windows = np.lib.stride_tricks.sliding_window_view(tokens, 17)[::8]
        x, y = windows[:, :-1], windows[:, 1:]
        return {"train_x": x[:400], "train_y": y[:400], "test_x": x[400:], "test_y": y[400:]}


class TinyLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(128, 24), nn.Linear(48, 128)

    def forward(self, x):
        now = self.embed(x)
        before = torch.roll(now, 1, dims=1)
        return self.out(torch.cat([now, before], dim=2))
