"""Federated averaging (McMahan et al., AISTATS 2017)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from decentralizepy.messages.message import Message
from decentralizepy.node.federated import Federated


class FedAvg(Federated):
    """The server's model is the mean of its clients' models, added up in float64."""

    _sum: Tensor | None = None

    def tell(self, clients: Sequence[int], t: int) -> Iterable[tuple[Sequence[int], Message]]:
        """The model, the same for all."""
        yield clients, self.sharing.pack(self.x, self.apart(t))

    def take(self, said: Message) -> None:
        """The server's model is where the client begins."""
        self.x = self.unpacked(said)

    def reply(self) -> Message:
        """The trained model."""
        meta = {"samples": self.n_samples}
        return self.sharing.pack(self.x, self.apart(self.round), meta)

    def fold(self, said: Message, weight: float) -> None:
        """Add a client's model to the sum."""
        if self._sum is None:
            self._sum = torch.zeros(self.x.shape, dtype=torch.float64, device=self.x.device)
        self._sum.add_(self.unpacked(said), alpha=weight)

    def close(self, total: float) -> None:
        """Take the mean."""
        assert self._sum is not None
        self.x = self._sum.div_(total).float()
        self._sum.zero_()
