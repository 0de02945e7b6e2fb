"""What both directions of a worker's wire have in common: who it is, where others are, sockets."""

from __future__ import annotations

import contextlib
import errno
import resource
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import zmq

from decentralizepy.communication import ports
from decentralizepy.errors import RunError
from decentralizepy.mappings.placement import WorkerId
from decentralizepy.transport import batches
from decentralizepy.transport.secure import PREFIX_BYTES, TAG, Party, RefusedError, RunKey

_HEARTBEAT_MS: Final = 1000
_CONNECT_TIMEOUT_MS: Final = 3000
_MAX_MESSAGE: Final = max(batches.MAX_FRAME + TAG, PREFIX_BYTES + TAG + 8 + 4 * batches.MAX_FRAMES)
#: three for each peer; ZeroMQ's own default is enough for 340
_MAX_SOCKETS: Final = 1 << 14


def make_context(addresses: Sequence[str]) -> zmq.Context[Any]:
    """A context for many peers, and as many open files as this process may have."""
    context: zmq.Context[Any] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
    if ports.has_ipv6(addresses):
        context.setsockopt(zmq.IPV6, 1)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some systems say "unlimited" and mean less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return context


@dataclass(frozen=True)
class Endpoint:
    """One worker among those of all machines; ``key`` None leaves everything in the clear."""

    me: Party
    addresses: Sequence[str]
    offset: int
    context: zmq.Context[Any]
    poller: zmq.Poller
    key: RunKey | None
    peer_timeout: float
    counts: Counter[str]

    def socket(self, kind: int) -> zmq.Socket[bytes]:
        """A socket with heart-beats, without high-water mark, that takes no frame larger than ours.

        Raises `RunError` when the process has too many files open.
        """
        try:
            socket: zmq.Socket[bytes] = self.context.socket(kind)
        except zmq.ZMQError as error:
            raise too_many(error) from None
        socket.set_hwm(0)
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE)
        socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        # long enough for what a slow line has in its queue before the answer
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(500 * self.peer_timeout))
        socket.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_TIMEOUT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        return socket

    def port(self, peer: WorkerId) -> int:
        """The TCP port of a worker."""
        return ports.worker_port(self.addresses, self.offset, *peer)

    def refuse(self, error: RefusedError) -> None:
        """Count what is not taken."""
        self.counts[f"refused_{error.kind}"] += 1


def too_many(error: zmq.ZMQError) -> Exception:
    """What a socket that cannot be made means, and what to do."""
    if error.errno != errno.EMFILE:
        return error
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return RunError(
        f"too many open files: a worker needs about four for each worker of other machines that "
        f"it talks to, and this machine allows {hard} (ulimit -Hn): raise that, or take fewer "
        "--workers"
    )
