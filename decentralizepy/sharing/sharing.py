"""Full-model gossip with Metropolis-Hastings weights, and the interface of every method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from decentralizepy.compression.base import CompressionError, Sparse
from decentralizepy.compression.chain import INDICES, VALUES, Chain
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import MixingRow, from_weights, metropolis_hastings
from decentralizepy.messages.message import Message, Missing
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.parts import add_parts

_ZERO: Final = torch.zeros(())
#: key of a message's meta, and of a method's state, that belongs to compression
PACKED: Final = "packed"


class Sharing:
    """x_i <- w_ii x_i + sum_j w_ij x_j with Metropolis-Hastings weights w (Xiao & Boyd, 2004).

    A method of one's own subclasses this and overrides what differs: `outgoing` (what is said),
    `merge` (what is made of what was heard), `mixing` (the weights). Options are the annotated
    keyword parameters of ``__init__``. Attributes that must survive a round are named in ``kept``.

    What is sent goes through `pack`, what is heard through `unpack`: so whatever compression the
    INI names works for every method. Without compression neither copies anything.
    """

    #: attributes that a checkpoint keeps: tensors, JSON values, dictionaries of these
    kept: ClassVar[tuple[str, ...]] = ()

    reference_name: ClassVar[str] = "decentralizepy.sharing.Sharing"
    #: whether `outgoing` sends the whole row once over each edge; who overrides it says it anew
    sends_whole_row: ClassVar[bool] = True
    #: whether `outgoing` sends through `pack`, so that compression has an effect; who overrides it
    #: says it anew
    packs: ClassVar[bool] = True
    #: whether the method itself chooses coordinates (it packs a `Sparse`): no selector then
    selects: ClassVar[bool] = False
    #: whether what is sent is added to what was sent before: only then does error feedback go with
    #: a selector
    sends_changes: ClassVar[bool] = False
    #: whether nodes that gossip cannot use it, since `outgoing` refuses
    needs_server: ClassVar[bool] = False
    #: whether `mixing` needs edges both ways; who overrides it says it anew
    needs_symmetric: ClassVar[bool] = True

    #: whether, without compression, a message of one tensor holds just what `pack` was given
    _unpacks_as_here: ClassVar[bool] = True

    #: what the INI names; empty, it sends vectors as they are. One object per node
    compression: Chain = Chain()

    def begin(self, x: Tensor) -> None:
        """Learn the row ``x`` [P] that the node starts from; a resumed node gets its state after.

        Called once, before anything is trained. Keep it if you like; don't write into it.
        """

    def mixing(self, graph: Graph, uid: int) -> MixingRow:
        """The node's row of the mixing matrix; weights that the graph carries come first."""
        return from_weights(graph, uid) if graph.weights else metropolis_hastings(graph, uid)

    def outgoing(self, x: Tensor, ctx: Context) -> Iterator[tuple[Sequence[int], Message]]:
        """Pairs (receivers, message) for the row ``x`` [P]; one message serves many receivers."""
        if ctx.receivers:
            yield ctx.receivers, self.pack(x, ctx)

    def merge(self, x: Tensor, heard: Sequence[Message | Missing], ctx: Context) -> Tensor:
        """The node's next row from its own and the messages, which come in ascending uid."""
        return self.average(x, heard, ctx.mixing, ctx)

    # ---------------------------------------------------------------- for methods to call

    def pack(
        self,
        x: Tensor | Sparse,
        ctx: Context,
        meta: Mapping[str, Any] | None = None,
        receiver: int | None = None,
    ) -> Message:
        """A message of a vector [n], or of some of its numbers, compressed as the INI says.

        ``meta`` is the method's own. ``receiver`` names the node that alone gets this message,
        where a round has a message for each: what compression remembers, and its random numbers,
        are then apart. At most one call a round for each receiver.
        """
        if not self.compression and isinstance(x, Tensor):
            return Message({VALUES: x}, meta)
        series = "" if receiver is None else str(receiver)
        packed = self.compression.compress(x, ctx.compression_generator(receiver), series)
        more = {PACKED: dict(packed.meta)} if packed.meta else {}
        return Message(packed.tensors, {**(meta or {}), **more})

    def pack_later(
        self, make: Callable[[], Tensor], like: Tensor, ctx: Context, receiver: int
    ) -> Message:
        """A message for one receiver of a vector that ``make()`` gives, such as a noisy row.

        Uncompressed it is made as it is read and not kept (`Message.deferred`), else at once, since
        its size depends on the numbers. ``like`` has its shape and dtype; ``make`` must not depend
        on when, or how often, it is called.
        """
        if self.compression:
            return self.pack(make(), ctx, receiver=receiver)
        return Message.deferred(lambda: {VALUES: make()}, {VALUES: like}, kept=False)

    def unpack(self, message: Message, n: int) -> Tensor | Sparse:
        """The vector [n] that `pack` was given, as far as compression kept it: read it only.

        A `Sparse` where only some numbers were sent: it is decoded once for all nodes of a worker,
        who get the same message. Raises `CompressionError` for a message that no chain like this
        one has made.
        """
        known = message.decoded
        if isinstance(known, Sparse) and known.length == n:
            return known
        found = self.decode(message, n)
        if isinstance(found, Sparse):
            message.decoded = found
        return found

    def decode(self, message: Message, n: int) -> Tensor | Sparse:
        """`unpack` for the first time; a method that sends something else than `pack` gives
        overrides it."""
        if not self.compression and INDICES not in message:
            return message[VALUES]
        return self.compression.decompress(message.tensors, _packed(message), n)

    def is_part(self, message: Message) -> bool:
        """Whether only some numbers of a vector were sent, so that `unpack` gives a `Sparse`."""
        return _is_sparse(message)

    def average(
        self, x: Tensor, heard: Sequence[Message | Missing], mixing: MixingRow, ctx: Context
    ) -> Tensor:
        """`weighted_sum` of the node's row and the messages, unpacked."""
        if self._unpacks_as_here and not self.compression.parts and _are_whole(heard):
            return weighted_sum(x, heard, mixing, ctx.out)
        return weighted_sum(
            x, heard, mixing, ctx.out, lambda message: self.unpack(message, len(x)), self.is_part
        )

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = cls.decode, cls.unpack, cls.is_part
        cls._unpacks_as_here = own == (Sharing.decode, Sharing.unpack, Sharing.is_part)

    @property
    def is_plain(self) -> bool:
        """Whether a round is the exchange of whole rows and their `weighted_sum`, nothing else: all
        but the weights is as in this class."""
        names = "outgoing", "merge", "average", "pack", "unpack", "decode", "is_part"
        as_here = all(getattr(type(self), name) is getattr(Sharing, name) for name in names)
        return as_here and vars(self).keys().isdisjoint(names) and not self.compression

    # ---------------------------------------------------------------- checkpoints

    def state(self) -> dict[str, Any]:
        """What is remembered between rounds: the attributes in ``kept``, and what compression
        keeps."""
        packed = self.compression.state()
        more = {PACKED: packed} if packed else {}
        return {name: getattr(self, name) for name in self.kept} | more

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        for name, value in state.items():
            if name != PACKED:
                setattr(self, name, value)
        if state.get(PACKED):
            self.compression.load(state[PACKED])


def _packed(message: Message) -> Mapping[str, Any]:
    found = message.meta.get(PACKED, {})
    if not isinstance(found, Mapping):
        raise CompressionError(f"meta {PACKED} = {found!r:.40} is no object")
    return found


def _are_whole(heard: Sequence[Message | Missing]) -> bool:
    for message in heard:  # a plain loop: this is asked for every node and round
        if not isinstance(message, Missing) and len(message.like) != 1:
            return False
    return True


def _is_sparse(message: Message) -> bool:
    return INDICES in message.like or (
        PACKED in message.meta and Chain.is_sparse(message.like, _packed(message))
    )


def weighted_sum(
    x: Tensor,
    heard: Sequence[Message | Missing],
    mixing: MixingRow,
    out: Tensor | None,
    unpack: Callable[[Message], Tensor | Sparse] | None = None,
    is_part: Callable[[Message], bool] = _is_sparse,
) -> Tensor:
    """Own row first, then the others in ascending uid, one multiply-add each.

    The weight of a message that is missing goes to the own row, so that weights still sum to 1.
    Coordinates that a message leaves out count as one's own. Without ``unpack`` all messages are
    whole rows.

    The order and the kernel are fixed, whatever worker holds which row, so that every placement
    gives the same bits (a matrix product would not).
    """
    out = torch.empty_like(x) if out is None else out
    own, weights, near = mixing.self_weight, mixing.weights, x.is_cpu
    for message in heard:
        if isinstance(message, Missing) or (unpack is not None and is_part(message)):
            own += weights[message.sender]
    torch.add(_ZERO, x, alpha=own, out=out)  # no product, whose zeros may be negative
    if unpack is not None:
        _add_unpacked(out, x, heard, weights, unpack)
        return out
    for message in heard:
        if not isinstance(message, Missing):
            row = message.last_look()[VALUES]
            out.add_(row if near else row.to(out.device), alpha=weights[message.sender])
            del row  # a deferred one goes before the next is made
    return out


def _add_unpacked(
    out: Tensor,
    x: Tensor,
    heard: Sequence[Message | Missing],
    weights: Mapping[int, float],
    unpack: Callable[[Message], Tensor | Sparse],
) -> None:
    """Add what messages say, in their order; parts that follow one another together."""
    parts: list[tuple[Sparse, float]] = []
    for message in heard:
        if isinstance(message, Missing):
            continue
        said, weight = unpack(message), weights[message.sender]
        if isinstance(said, Sparse):
            parts.append((said, weight))
        else:
            add_parts(out, x, parts)
            parts.clear()
            out.add_(said if said.device == out.device else said.to(out.device), alpha=weight)
        del said  # or there would be two rows while the next one is made
    add_parts(out, x, parts)
