"""Full-model gossip under the name that the privacy methods' baseline has in the fork."""

from __future__ import annotations

from typing import ClassVar

from decentralizepy.sharing.sharing import Sharing


class SharingAsymmetric(Sharing):
    """`Sharing` under the name of the privacy methods' baseline.

    The weights are those of the round's own graph, also where the graph changes; a message that
    does not come leaves its weight with the node. Options, passes and bytes are those of `Sharing`.
    """

    reference_name: ClassVar[str] = "decentralizepy.sharing.SharingAsymmetric"
