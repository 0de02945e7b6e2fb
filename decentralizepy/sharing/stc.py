"""Sparse ternary compression: what a server and its clients say of a change, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import Tensor

from decentralizepy.compression.base import Sparse
from decentralizepy.compression.chain import Chain
from decentralizepy.compression.golomb import Golomb
from decentralizepy.compression.scaled_sign import ScaledSign
from decentralizepy.compression.top_k import checked_share, largest, number_of
from decentralizepy.errors import RunError
from decentralizepy.messages.message import Message
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.sharing import Sharing


class STC(Sharing):
    """C(u) = mu sign(u) on the round(alpha P) largest entries of u, where mu is their mean size.

    Sparse ternary compression (Sattler, Wiedemann, Mueller & Samek, arXiv 1903.02891, algorithms 1
    and 2). Whoever says a change d adds what was not said before: u = d + r, says C(u), and keeps
    r <- u - C(u). Clients say how training changed the model that the server gave them, the server
    how the mean of what it heard changes its own: a node program for both is needed, such as
    `testingSTC.py` starts.

    Positions are sent as Golomb codes. ``compression`` in the INI replaces ternary values and
    Golomb codes; EliasFpzipLossy with 8 bits is what the reference system sends.

    Args:
        alpha: the share of the entries that is said, in (0, 1].

    Bytes: 1 bit for each entry that is said and that of its position (`Golomb`): with alpha 0.01,
    9.1 bits in place of 32 for each of 100 entries, so 0.28 % of the model.
    Passes over the row: the sum, the selection (`largest`); everything else is on the entries that
    are said. Whoever hears writes one row.
    """

    reference_name: ClassVar[str] = "decentralizepy.sharing.STC"
    kept: ClassVar[tuple[str, ...]] = ("unsaid",)
    packs: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    sends_changes: ClassVar[bool] = True
    needs_server: ClassVar[bool] = True

    def __init__(self, *, alpha: float = 1.0) -> None:
        self.alpha = checked_share(alpha)
        self.compression = Chain(ScaledSign(), Golomb())
        #: r, what was not said
        self.unsaid: Tensor | None = None

    def outgoing(self, x: Tensor, ctx: Context) -> Iterator[tuple[Sequence[int], Message]]:
        """Not for gossip: raises `RunError`."""
        raise RunError("STC is for a server and its clients: take the driver testingSTC.py")
        yield

    def say(self, change: Tensor, ctx: Context) -> Message:
        """The message of a change [P], and of what was not said before."""
        u = change.clone() if self.unsaid is None else self.unsaid.add_(change)
        indices = largest(u, number_of(self.alpha, len(u)))
        part = Sparse(indices, u.index_select(0, indices), len(u))
        message = self.pack(part, ctx)
        self.unsaid = self.added(u, message, -1.0)
        return message

    def applied(self, x: Tensor, message: Message, weight: float = 1.0) -> Tensor:
        """A row of its own: ``x`` [P] and, times ``weight``, the change that a message says."""
        return self.added(x.clone(), message, weight)

    def added(self, out: Tensor, message: Message, weight: float = 1.0) -> Tensor:
        """``out`` [P], into which the change that a message says is added, times ``weight``."""
        said = self.unpack(message, len(out))
        assert isinstance(said, Sparse)
        indices, values = said.indices.to(out.device), said.values.to(out)
        return out.index_add_(0, indices, values, alpha=weight)
