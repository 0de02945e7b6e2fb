"""Networks for Shakespeare: 80 letters, int64 [B, 80], to logits [B, 92] of the next one.

What the classes say of themselves is explained in `decentralizepy.models`.
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

LETTERS, LENGTH = 92, 80


class LSTM(nn.Module):
    """2,683,708 parameters: embedding of 8, two layers of LSTM (256), and 80 x 256 to 92.

    The reference's `LSTM`: the last layer sees the outputs at all 80 places, through ReLU.
    """

    eval_batch: ClassVar[int] = 64
    n_parameters: ClassVar[int] = 2_683_708
    train_s: ClassVar[float] = 6e-3  # guess
    evaluate_s: ClassVar[float] = 2e-3  # guess

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LETTERS, 8)
        self.lstm = nn.LSTM(8, 256, num_layers=2, batch_first=True)
        self.l1 = nn.Linear(256 * LENGTH, LETTERS)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 92]."""
        out, _ = self.lstm(self.embedding(x))
        return self.l1(F.relu(out.reshape(len(x), -1)))
