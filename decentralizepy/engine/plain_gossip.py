"""Whether the nodes of a run gossip plainly, so that `Average` may be done for many at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from decentralizepy.engine.seat import Seat
from decentralizepy.node.node import Node

#: bytes of a row above which messages cost little, and a kernel for each neighbour is faster
_SMALL: Final = 1 << 18
#: what decides how nodes gossip
_DECIDE: Final = frozenset(
    {"around", "bind", "context", "graph_at", "program", "programs", "setup", "sharing", "timeout",
     "x"}
)  # fmt: skip


def can_average(seats: Mapping[int, Seat], row_bytes: int) -> bool:
    """Whether all nodes ask for `Average`, with unmodified `Sharing`, and rows are small."""
    nodes = [seat.node for uid, seat in seats.items() if uid >= 0]
    kinds = {(type(node), type(node.sharing), node.sharing.is_plain) for node in nodes}
    if len(kinds) != 1 or row_bytes > _SMALL:
        return False
    ((kind, _, plain),) = kinds
    as_made = all(vars(node).keys().isdisjoint(_DECIDE - {"sharing", "timeout"}) for node in nodes)
    return plain and as_made and averages_together(kind)


def averages_together(kind: type[Node]) -> bool:
    """`Node.averages_together` of the class that says it, unless one derived from it overrides what
    decides how nodes gossip."""
    for cls in kind.__mro__:
        if "averages_together" in vars(cls):
            return bool(vars(cls)["averages_together"])
        if not _DECIDE.isdisjoint(vars(cls)):
            return False
    return False
