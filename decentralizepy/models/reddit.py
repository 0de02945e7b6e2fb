"""Networks for Reddit: 10 words, int64 [B, 10], to logits [B, 9999] of the next one.

What the classes say of themselves is explained in `decentralizepy.models`.
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

WORDS = 9_999


class RNN(nn.Module):
    """4,317,895 parameters: embedding of 200, two layers of LSTM (256), 128, and 9,999 words.

    The reference's `RNN`: the next word follows from the second layer's last state. The word 0 is
    padding: its embedding is zero and stays so.
    """

    eval_batch: ClassVar[int] = 128
    n_parameters: ClassVar[int] = 4_317_895
    train_s: ClassVar[float] = 3e-3  # guess
    evaluate_s: ClassVar[float] = 1e-3  # guess

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 200, padding_idx=0)
        self.rnn_cells = nn.LSTM(200, 256, num_layers=2, batch_first=True)
        self.l1 = nn.Linear(256, 128)
        self.l2 = nn.Linear(128, WORDS)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 9999]."""
        _, (state, _) = self.rnn_cells(self.embedding(x))
        return self.l2(F.relu(self.l1(state[-1])))
