"""Top-k gossip: each node says the part of its model that changed most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from decentralizepy.compression.base import Sparse
from decentralizepy.compression.top_k import checked_share, largest, number_of
from decentralizepy.messages.message import Message, Missing
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.sharing import Sharing


class PartialModel(Sharing):
    """x_i <- x_i + sum_j w_ij (x_j - x_i) on S_j, the entries of x_j that changed most.

    S_j holds the round(alpha P) largest of abs(x_j - l_j + a_j), where l_j is the model after the
    last averaging (at first, the initial one), and a_j what was left unsaid, if ``accumulation``
    (Alistarh et al., NeurIPS 2018, eq. 1; in DecentralizePy, arXiv 2304.08322). What a neighbour
    does not say counts as equal to one's own, so rows of weights sum to 1.

    Args:
        alpha: the share of the model that is said, in (0, 1].
        metadata_cap: with ``alpha`` at least this, the whole model is said, without indices.
        accumulation: whether changes that were not said count in later rounds. An entry's sum is
            set to 0 when it is said.
        accumulate_averaging_changes: whether the sum takes what training *and* averaging changed,
            after each averaging; else what training changed, before each message.

    Bytes: 4 for each value that is said and 4 for its index, so 2 alpha of the model; with an
    index coder, alpha and what that states. From ``metadata_cap`` on the model, without indices.
    Passes over the row: the difference, with ``accumulation`` one sum and with
    ``accumulate_averaging_changes`` two more, the selection (`largest`) and the next row;
    everything else is on the entries that are said.
    """

    reference_name: ClassVar[str] = "decentralizepy.sharing.PartialModel"
    kept: ClassVar[tuple[str, ...]] = ("last", "unsaid")
    packs: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        metadata_cap: float = 1.0,
        accumulation: bool = False,
        accumulate_averaging_changes: bool = False,
    ) -> None:
        self.alpha, self.metadata_cap = checked_share(alpha), metadata_cap
        self.accumulation = accumulation
        self.accumulate_averaging_changes = accumulate_averaging_changes
        self.change_based_selection = True
        #: the model after the last averaging, and the changes that were not said, as coefficients
        self.last: Tensor | None = None
        self.unsaid: Tensor | None = None
        self._said_of: tuple[Tensor, Tensor] | None = None

    def transform(self, x: Tensor) -> Tensor:
        """The coefficients of which a part is said; linear. Here the row itself."""
        return x

    def coefficients(self, x: Tensor) -> Tensor:
        """`transform` of ``x``, known already if this row was said."""
        said = self._said_of
        return said[1] if said is not None and said[0] is x else self.transform(x)

    def share(self, ctx: Context) -> float:
        """The share of the coefficients that is said in this round."""
        return self.alpha

    def begin(self, x: Tensor) -> None:
        """Changes are counted from the initial model."""
        self.last = self.transform(x)
        self.unsaid = torch.zeros_like(self.last) if self.accumulation else None

    def outgoing(self, x: Tensor, ctx: Context) -> Iterator[tuple[Sequence[int], Message]]:
        """The coefficients that changed most, or the whole row."""
        now = self.transform(x)
        self._said_of = x, now
        change = self._change(now)
        alpha = self.share(ctx)
        if alpha >= self.metadata_cap:
            self._forget(None)
            message = self.pack(x, ctx)
        else:
            by = change if self.change_based_selection else now
            indices = largest(by.abs() if by.is_complex() else by, number_of(alpha, len(by)))
            self._forget(indices)
            part = Sparse(indices, now.index_select(0, indices), len(now))
            message = self.pack(part, ctx)
        if ctx.receivers:
            yield ctx.receivers, message

    def _change(self, now: Tensor) -> Tensor:
        if self.last is None:
            raise RuntimeError(f"{type(self).__name__}: call begin(x) with the initial row first")
        change = now - self.last
        if self.unsaid is None:
            return change
        if self.accumulate_averaging_changes:
            return change.add_(self.unsaid)
        return self.unsaid.add_(change)

    def _forget(self, indices: Tensor | None) -> None:
        """Nothing is left unsaid of these coefficients (None: of all)."""
        if self.unsaid is not None:
            if indices is None:
                self.unsaid.zero_()
            else:
                self.unsaid.index_fill_(0, indices, 0)

    def merge(self, x: Tensor, heard: Sequence[Message | Missing], ctx: Context) -> Tensor:
        """Whole rows as in `Sharing`, parts of rows where they say something."""
        out = self.mixed(x, heard, ctx)
        self._averaged(out)
        return out

    def mixed(self, x: Tensor, heard: Sequence[Message | Missing], ctx: Context) -> Tensor:
        """The weighted sum; what is not said counts as one's own."""
        return self.average(x, heard, ctx.mixing, ctx)

    def _averaged(self, x: Tensor) -> None:
        """Changes are counted from here on."""
        before, self.last, self._said_of = self.last, self.transform(x), None
        if self.unsaid is not None and self.accumulate_averaging_changes and before is not None:
            self.unsaid.add_(self.last).sub_(before)
