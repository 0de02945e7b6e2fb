"""What all sockets between machines have in common."""

from __future__ import annotations

from typing import Any, Final

import zmq

from decentralizepy.communication import batch as batches
from decentralizepy.communication.secure import PREFIX_BYTES, TAG

_HEARTBEAT_MS: Final = 1000
_CONNECT_TIMEOUT_MS: Final = 3000
_MAX_MESSAGE: Final = max(batches.MAX_FRAME + TAG, PREFIX_BYTES + TAG + 8 + 4 * batches.MAX_FRAMES)


def make(context: zmq.Context[Any], kind: int, peer_timeout: float) -> zmq.Socket[bytes]:
    """A socket with heart-beats, without high-water mark, that takes no frame larger than ours."""
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.set_hwm(0)
    socket.linger = 0
    socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE)
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    # long enough for what a slow line has in its queue before the answer
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(500 * peer_timeout))
    socket.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_TIMEOUT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    return socket
