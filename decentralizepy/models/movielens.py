"""Models for MovieLens: pairs of a user and a film, int64 [B, 2] from 1, to ratings [B].

What the classes say of themselves is explained in `decentralizepy.models`.
"""

from typing import ClassVar

from torch import Tensor, nn


class MatrixFactorization(nn.Module):
    """206,680 parameters: 20 factors for each of 610 users and 9,724 films.

    The reference's `MatrixFactorization` (Koren, Bell and Volinsky, Computer 2009, without biases):
    a rating is the product of both. Factors are uniform in -0.05 .. 0.05 at first.
    """

    eval_batch: ClassVar[int] = 4096
    n_parameters: ClassVar[int] = 206_680
    train_s: ClassVar[float] = 3e-6  # guess
    evaluate_s: ClassVar[float] = 1e-7  # guess

    def __init__(self, n_users: int = 610, n_items: int = 9_724, n_factors: int = 20) -> None:
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        self.user_factors = nn.Embedding(n_users, n_factors)
        self.item_factors = nn.Embedding(n_items, n_factors)
        for factors in (self.user_factors, self.item_factors):
            nn.init.uniform_(factors.weight, -0.05, 0.05)

    def forward(self, x: Tensor) -> Tensor:
        """Ratings [B]."""
        users, items = self.user_factors(x[:, 0] - 1), self.item_factors(x[:, 1] - 1)
        return (users * items).sum(dim=1)
