"""Federated learning with sparse ternary compression (Sattler et al., IEEE TNNLS 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from decentralizepy.errors import ConfigError
from decentralizepy.messages.message import Message
from decentralizepy.node.federated import Federated
from decentralizepy.sharing.stc import STC

#: changes that a client may have missed and is told one by one; else it gets the whole model
_MOST: Final = 64
#: the whole model as a message, which the changes that were missed must not outgrow
_WHOLE: Final = "model"


class STCFederated(Federated):
    """Clients say how training changed the server's model, and the server how the mean of that
    changes it: both ternary, both with what they could not say before (algorithm 2).

    A client that was not drawn for a while is told all changes since its last reply, in their order
    (their sum, in the paper), or the model if that is shorter: so every client begins at exactly
    the server's model. What a late reply said is lost.
    """

    stands_for: ClassVar[tuple[str, ...]] = ("STC",)
    row_names: ClassVar[tuple[str, ...]] = ("base",)
    kept: ClassVar[tuple[str, ...]] = ("version", "known", "changes")
    sharing: STC

    def setup(self) -> None:
        """All begin at the same model, version 0."""
        super().setup()
        if not isinstance(self.sharing, STC):
            raise ConfigError("STCFederated needs decentralizepy.sharing.STC / STC in [SHARING]")
        #: how many changes are in ``base``, the server's model as this node knows it
        self.version = 0
        self.rows["base"] = self.x
        #: of the server: client -> the version that it has for certain; and the latest changes
        self.known: dict[str, int] = {}
        self.changes: dict[str, dict[str, Any]] = {}
        self._sum: Tensor | None = None

    # ------------------------------------------------------------------ the server

    def tell(self, clients: Sequence[int], t: int) -> Iterable[tuple[Sequence[int], Message]]:
        """To each client the changes that it has not confirmed; one message for equal ones."""
        groups: dict[int, list[int]] = {}
        for uid in clients:
            groups.setdefault(self.known.get(str(uid), 0), []).append(uid)
        for since, uids in groups.items():
            yield uids, self._since(since)

    def _since(self, version: int) -> Message:
        """All changes after a version, or the model."""
        missed = [self.changes.get(str(v)) for v in range(version, self.version)]
        told = {"version": self.version, "from": version}
        if None in missed or _nbytes(missed) > self.x.nbytes:
            return Message({_WHOLE: self.x}, told)
        tensors = {
            f"{i}/{name}": tensor
            for i, change in enumerate(missed)
            for name, tensor in (change or {})["tensors"].items()
        }
        return Message(tensors, told | {"changes": [(change or {})["meta"] for change in missed]})

    def fold(self, said: Message, weight: float) -> None:
        """Add a client's change to the sum."""
        if self._sum is None:
            self._sum = torch.zeros(self.x.shape, dtype=torch.float64, device=self.x.device)
        self.sharing.added(self._sum, said, weight)
        self.known[str(said.sender)] = int(said.meta["version"])

    def close(self, total: float) -> None:
        """Say how the mean changes the model, and change it so."""
        assert self._sum is not None
        message = self.sharing.say((self._sum / total).float(), self.apart(self.round, 1))
        self._sum.zero_()
        self.x = self.sharing.applied(self.x, message)
        said = {"tensors": dict(message.tensors), "meta": dict(message.meta)}
        self.changes[str(self.version)] = said
        self.version += 1
        self.changes.pop(str(self.version - 1 - _MOST), None)

    # ------------------------------------------------------------------ a client

    def take(self, said: Message) -> None:
        """Begin at the server's model: make the changes that are new here."""
        if _WHOLE in said:
            self.rows["base"] = said[_WHOLE]
        else:
            base = self.rows["base"].clone()
            for i in range(self.version - said.meta["from"], len(said.meta["changes"])):
                self.sharing.added(base, _change(said, i))
            self.rows["base"] = base
        self.version = int(said.meta["version"])
        self.x = self.rows["base"]

    def reply(self) -> Message:
        """How training changed the server's model."""
        message = self.sharing.say(self.x - self.rows["base"], self.apart(self.round))
        more = {"samples": self.n_samples, "version": self.version}
        return Message(message.tensors, {**message.meta, **more})


def _change(said: Message, i: int) -> Message:
    prefix = f"{i}/"
    own = {
        name.removeprefix(prefix): tensor
        for name, tensor in said.tensors.items()
        if name.startswith(prefix)
    }
    return Message(own, said.meta["changes"][i])


def _nbytes(changes: Sequence[dict[str, Any] | None]) -> int:
    return sum(tensor.nbytes for change in changes for tensor in (change or {})["tensors"].values())
