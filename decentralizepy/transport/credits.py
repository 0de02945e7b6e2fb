"""Back-pressure between a sending and a receiving worker; no I/O.

The receiver counts, for each sending node, the messages that its nodes have consumed; the counts
travel with acknowledgements. The sender compares them with what it sent. Beyond its window it
lets only those nodes send that have nothing waiting there. So synchronous programs never wait for
each other: the slowest node of all is heard by everybody, hence has nothing waiting.
"""

from __future__ import annotations

import struct
from typing import Final

from decentralizepy.transport.secure import RefusedError

_REPORT: Final = struct.Struct("<qQQ")  # servers have negative ids


class SendWindow:
    """The sender's side, for one receiving worker; ``limit`` in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._sent: dict[int, tuple[int, int]] = {}
        self._consumed: dict[int, tuple[int, int]] = {}
        self.outstanding = 0
        #: messages that the receiver has said to have consumed
        self.credited = 0

    def sent(self, uid: int, nbytes: int) -> None:
        """A message of a node was sent."""
        count, total = self._sent.get(uid, (0, 0))
        self._sent[uid] = count + 1, total + nbytes
        self.outstanding += nbytes

    def open(self, uid: int) -> bool:
        """Whether a node may send now."""
        if self.outstanding <= self.limit:
            return True
        return self._sent.get(uid, (0, 0))[0] == self._consumed.get(uid, (0, 0))[0]

    def take(self, report: bytes) -> None:
        """Believe a report of the receiver; it may repeat older news. Raises `RefusedError`."""
        if len(report) % _REPORT.size:
            raise RefusedError("malformed", "a report of odd length")
        for uid, count, total in _REPORT.iter_unpack(report):
            sent = self._sent.get(uid, (0, 0))
            if count > sent[0] or total > sent[1]:
                raise RefusedError("malformed", f"node {uid} did not send that much")
            before = self._consumed.get(uid, (0, 0))
            if count > before[0]:
                self._consumed[uid] = count, total
                self.outstanding -= total - before[1]
                self.credited += count - before[0]


class Consumption:
    """The receiver's side, for one sending worker."""

    def __init__(self) -> None:
        self._counts: dict[int, tuple[int, int]] = {}
        self._news: set[int] = set()
        self.unreported = 0
        #: messages that were consumed, told or not
        self.count = 0

    def consumed(self, uid: int, nbytes: int) -> None:
        """The last receiver here has gone past a message of node ``uid``."""
        count, total = self._counts.get(uid, (0, 0))
        self._counts[uid] = count + 1, total + nbytes
        self._news.add(uid)
        self.unreported += nbytes
        self.count += 1

    def report(self, everything: bool = False) -> bytes:
        """What the sender does not know yet, or all that there is to know."""
        news, self._news = self._news, set()  # what is freed meanwhile is news of the next one
        self.unreported = 0
        uids = sorted(self._counts) if everything else sorted(news)
        return b"".join(_REPORT.pack(uid, *self._counts[uid]) for uid in uids)

    @property
    def news(self) -> bool:
        return bool(self._news)
