"""ZIP-DL: noise that differs for each neighbour and cancels in the mean of the network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import MixingRow
from decentralizepy.messages.message import Message, Missing
from decentralizepy.sharing import noise
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.sharing import Sharing


class ZeroSumSharing(Sharing):
    """Node i sends x_i + Z_v to v, with Z_v = Y_v - 1/(q w_v) sum_u w_u Y_u (Biswas et al., ZIP-DL,
    PoPETs 2025, section 4) over its q targets; w_v is the weight that v gives to i.

    Hence sum_v w_v Z_v = 0: what is added here is taken away there, and the mean of all nodes stays
    as it is, on any graph and with any weights. The Y_v are independent and have the standard
    deviation noise_std * sqrt(q / (q - 1)); with equal weights each Z_v then has noise_std, with
    others the level differs by target: ((q-2) / q + sum_u w_u^2 / (q w_v)^2) q / (q - 1) of its
    square. With ``self_noise`` the node is a target too, whose noise is on its own model as it
    averages. Only the first averaging round of an iteration has noise.

    A node with one neighbour in the run's first graph is refused without ``self_noise``, since its
    noise would be none. Where the others of a node drop out later, it is a target itself.

    Passes over the row: q draws, each added to a sum; then for each neighbour a copy of the row, a
    draw and that sum, block by block. In memory are the row that is said, the sum, and one message
    at a time, whatever q is. (Compression with a memory keeps one for each neighbour.)
    """

    reference_name: ClassVar[str] = "decentralizepy.sharing.ZeroSumSharing"
    sends_whole_row: ClassVar[bool] = True
    packs: ClassVar[bool] = True
    needs_symmetric: ClassVar[bool] = True

    def __init__(
        self, *, noise_std: float = 0.0, self_noise: bool = False, sharing_seed: int = 421
    ) -> None:
        self.noise_std, self.self_noise = noise.level(noise_std), self_noise
        self.sharing_seed = sharing_seed
        self._column: tuple[Graph, Mapping[int, float]] | None = None
        self._round: _Noises | None = None
        self._is_checked = False

    def mixing(self, graph: Graph, uid: int) -> MixingRow:
        """The weights of `Sharing`; a `ValueError` where noise cannot cancel in the first graph."""
        row = super().mixing(graph, uid)
        if not self._is_checked:
            self._check(graph, uid, row.self_weight)
            self._is_checked = True
        return row

    def _check(self, graph: Graph, uid: int, self_weight: float) -> None:
        alone = graph.out_degree(uid) == 1 and not (self.self_noise and self_weight)
        if self.noise_std and alone:
            raise ValueError(
                f"node {uid} has one neighbour: noise that cancels over a single target is none, "
                "and the model would travel as it is. Set self_noise = True, or add an edge"
            )

    def outgoing(self, x: Tensor, ctx: Context) -> Iterator[tuple[Sequence[int], Message]]:
        """A message for each neighbour, made as it is read; without noise, one for all."""
        if not self._is_noisy(ctx):
            yield from super().outgoing(x, ctx)
            return
        self._round = noises = _Noises(self, x, ctx)
        for peer in ctx.receivers:
            yield [peer], self.pack_later(partial(noises.said, x, peer), x, ctx, peer)

    def merge(self, x: Tensor, heard: Sequence[Message | Missing], ctx: Context) -> Tensor:
        """The weighted sum, with noise on the node's own share of it where that is asked for."""
        merged = super().merge(x, heard, ctx)
        if self._round is not None and ctx.uid in self._round.weights:
            missing = (ctx.mixing.weights[m.sender] for m in heard if isinstance(m, Missing))
            self._round.add(merged, ctx.uid, ctx.mixing.self_weight + sum(missing))
        self._round = None
        return merged

    def _is_noisy(self, ctx: Context) -> bool:
        return self.noise_std > 0 and ctx.k == 0 and bool(ctx.receivers)

    def targets(self, ctx: Context) -> Mapping[int, float]:
        """Who takes how much of what the node says: those for whom the noise has to cancel."""
        if self._column is None or self._column[0] is not ctx.graph:
            taken = {v: self.mixing(ctx.graph, v).weights[ctx.uid] for v in ctx.receivers}
            with_own = self.self_noise or len(taken) == 1
            own = {ctx.uid: ctx.mixing.self_weight} if with_own else {}
            column = {v: weight for v, weight in (taken | own).items() if weight}
            self._column = ctx.graph, column
        return self._column[1]


class _Noises:
    """The noises of one node in one round, of which only the weighted sum is in memory."""

    def __init__(self, method: ZeroSumSharing, x: Tensor, ctx: Context) -> None:
        #: who takes how much of what the node says
        self.weights, self._ctx = method.targets(ctx), ctx
        self._sharing_seed, q = method.sharing_seed, len(self.weights)
        if q == 1:
            raise ValueError(f"node {ctx.uid}: noise over one target with a weight cannot cancel")
        self._std = method.noise_std * math.sqrt(q / (q - 1)) if q else method.noise_std
        self._sum = torch.zeros_like(x[: ctx.n_parameters])
        for target, weight in self.weights.items():
            noise.add(self._sum, weight / q, self._seed(target))

    def said(self, x: Tensor, peer: int) -> Tensor:
        """What ``peer`` is told: the row with the noise for it."""
        out = torch.empty_like(x)
        out[len(self._sum) :] = x[len(self._sum) :]
        self._add(x, peer, 1.0, out)
        return out

    def add(self, row: Tensor, target: int, factor: float) -> None:
        """row += factor * Z of the target."""
        self._add(row, target, factor, row)

    def _add(self, row: Tensor, target: int, factor: float, out: Tensor) -> None:
        scale, weight = factor * self._std, self.weights.get(target)
        for at, drawn in noise.blocks(self._seed(target), self._sum):
            part = torch.add(row[at], drawn, alpha=scale, out=out[at])
            if weight:
                part.sub_(self._sum[at], alpha=scale / weight)

    def _seed(self, target: int) -> int:
        return noise.seed_of(self._ctx.peer_generator(target), self._sharing_seed)
