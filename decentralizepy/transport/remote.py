"""A worker's sockets to workers of other machines: sealed, numbered, acknowledged, over TCP.

A worker binds one ROUTER (`inbound`). To each worker elsewhere that it talks to it opens a DEALER
(`outbound`) and says hello over it (`transport.secure`); acknowledgements and credits come back
the same way. What a peer has not acknowledged is sent again after a reconnect
(`transport.batches`). There is no high-water mark: sockets are always drained, and a sender
that is too fast is held by credits (`transport.credits`).

ZeroMQ's own thread answers heart-beats, so a peer that computes for minutes is not taken for lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

import zmq

from decentralizepy.mappings.placement import WorkerId
from decentralizepy.transport.endpoint import Endpoint
from decentralizepy.transport.inbound import Inbound
from decentralizepy.transport.outbound import Outbound
from decentralizepy.transport.secure import Party, RunKey, new_life

#: answers and broken connections are looked at no more often than this while there is work
_SERVICE_S: Final = 0.01
_OWING_MS: Final = 3


class RemoteSockets:
    """All sockets of one worker to workers of other machines; ``key`` None sends in the clear."""

    def __init__(
        self,
        me: WorkerId,
        addresses: Sequence[str],
        offset: int,
        context: zmq.Context[Any],
        poller: zmq.Poller,
        *,
        key: bytes | None,
        peer_timeout: float,
        give_up: float | None = None,
    ) -> None:
        """``give_up``: seconds of silence that fail the run; by default ``peer_timeout``."""
        self.counts: Counter[str] = Counter()
        party, run_key = Party(me.machine, me.worker, new_life()), RunKey(key) if key else None
        endpoint = Endpoint(
            party, addresses, offset, context, poller, run_key, peer_timeout, self.counts
        )
        self.inbound, self.outbound = Inbound(endpoint), Outbound(endpoint)
        self.outbound.give_up = give_up or peer_timeout
        self._serviced = 0.0

    def begin(self, workers: Sequence[int], window: int) -> None:
        """Before anything is sent: how many workers each machine has, and how many bytes a peer
        may have waiting."""
        self.inbound.workers, self.outbound.window = workers, window

    def service(self, idle: bool = False) -> bool:
        """Answers, broken connections, acknowledgements; True if a peer gave credit."""
        now = monotonic()
        if not idle and now - self._serviced < _SERVICE_S:
            return False
        self._serviced = now
        self.inbound.service(idle, now)
        return self.outbound.service(now)

    def credits(self) -> tuple[Counter[WorkerId], Counter[WorkerId]]:
        """How many messages of each worker elsewhere were heard or dropped here, and how many of
        ours each has said to have heard: equal counts on both sides mean that no news of room is on
        its way."""
        sources, peers = self.inbound.sources.values(), self.outbound.peers.values()
        given = Counter({source.peer: source.consumption.count for source in sources})
        return given, Counter({peer.worker: peer.window.credited for peer in peers})

    def patience(self, milliseconds: int) -> int:
        """How long to sleep at most: acknowledgements are not to wait for the next message."""
        return min(milliseconds, _OWING_MS) if self.inbound.owes else milliseconds

    def summary(self) -> dict[str, Any]:
        """What was refused, by kind; how often connections and messages were made anew, messages
        came twice and nodes were held."""
        refused = {
            name.removeprefix("refused_"): count
            for name, count in sorted(self.counts.items())
            if name.startswith("refused_")
        }
        duplicates = sum(source.received.duplicates for source in self.inbound.sources.values())
        counts = {name: self.counts[name] for name in ("reconnects", "resent", "held")}
        return {"refused": refused, **counts, "duplicates": duplicates}

    def close(self) -> None:
        """Stop watching; the context closes the sockets."""
        self.outbound.close()
