"""Seals the words of the control plane with the run key, by sessions of `communication.secure`.

Sans I/O: what goes in are the frames that a socket received, what comes out are frames to send and
words that were found authentic and fresh. Without a key words pass as they are.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final, NamedTuple, Protocol

from decentralizepy.communication.secure import (
    HELLO_START,
    WELCOME_START,
    Initiator,
    Party,
    RefusedError,
    RunKey,
    Session,
    answer,
    new_life,
    read_hello,
)

#: the supervisor of a machine, among its workers
SUPERVISOR: Final = -1
_MAX_PENDING: Final = 1024


class Opened(NamedTuple):
    """Frames to send back, and words that arrived."""

    replies: list[bytes]
    words: list[bytes]


class Seal(Protocol):
    """One end of the control plane; ``who`` tells connections of a ROUTER apart."""

    refused: Counter[str]

    def first(self) -> list[bytes]:
        """What to send before anything else."""

    def seal(self, who: bytes, word: bytes) -> list[bytes]:
        """Frames to send now for a word; it may be kept until the other side has answered."""

    def open(self, who: bytes, frame: bytes) -> Opened:
        """Take a frame that arrived; what is refused is counted."""

    @property
    def waiting(self) -> int:
        """Words that are kept."""


class Clear:
    """No key, no seal."""

    waiting = 0

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()

    def first(self) -> list[bytes]:
        return []

    def seal(self, who: bytes, word: bytes) -> list[bytes]:
        return [word]

    def open(self, who: bytes, frame: bytes) -> Opened:
        if frame.startswith(HELLO_START):
            self.refused["unsealed"] += 1
            return Opened([], [])
        return Opened([], [frame])


class CoordinatorSeal:
    """Machine 0's end: a session with every machine that proves to have the key."""

    waiting = 0

    def __init__(self, key: RunKey) -> None:
        self.refused: Counter[str] = Counter()
        self._key, self._me = key, Party(0, SUPERVISOR, new_life())
        self._sessions: dict[bytes, Session] = {}
        self._pending: deque[bytes] = deque()

    def first(self) -> list[bytes]:
        return []

    def seal(self, who: bytes, word: bytes) -> list[bytes]:
        return [self._sessions[who].sealer.head(word, 0)]

    def open(self, who: bytes, frame: bytes) -> Opened:
        try:
            if frame.startswith(HELLO_START):
                return Opened([self._greet(who, frame)], [])
            if who not in self._sessions:
                kind = "unsealed" if frame.startswith(b"{") else "foreign"
                raise RefusedError(kind, "nobody said hello on this connection")
            return Opened([], [self._sessions[who].opener.head(frame)[0]])
        except RefusedError as error:
            self.refused[error.kind] += 1
            return Opened([], [])

    def _greet(self, who: bytes, hello: bytes) -> bytes:
        """Replayed hellos get sessions that nobody can use, so these may be forgotten."""
        greeting = read_hello(self._key, self._me, hello)
        self._sessions[who], welcome = answer(self._key, self._me, greeting, 0)
        self._pending.append(who)
        if len(self._pending) > _MAX_PENDING:
            oldest = self._pending.popleft()
            if oldest in self._sessions and not self._sessions[oldest].opener.opened:
                del self._sessions[oldest]
        return welcome


class MemberSeal:
    """The end of every other machine; words are kept until machine 0 has proved itself."""

    def __init__(self, key: RunKey, machine: int) -> None:
        self.refused: Counter[str] = Counter()
        self._initiator = Initiator(key, Party(machine, SUPERVISOR, new_life()), (0, SUPERVISOR))
        self._session: Session | None = None
        self._kept: list[bytes] = []

    @property
    def waiting(self) -> int:
        return len(self._kept)

    def first(self) -> list[bytes]:
        return [self._initiator.hello]

    def seal(self, who: bytes, word: bytes) -> list[bytes]:
        if self._session is None:
            self._kept.append(word)
            return []
        return [self._session.sealer.head(word, 0)]

    def open(self, who: bytes, frame: bytes) -> Opened:
        try:
            if self._session is None and frame.startswith(WELCOME_START):
                self._session = self._initiator.finish(frame)[0]
                kept, self._kept = self._kept, []
                return Opened([self._session.sealer.head(word, 0) for word in kept], [])
            if self._session is None:
                raise RefusedError("foreign", "words before the welcome")
            return Opened([], [self._session.opener.head(frame)[0]])
        except RefusedError as error:
            self.refused[error.kind] += 1
            return Opened([], [])


def coordinator_seal(key: bytes | None) -> Seal:
    """Machine 0's seal."""
    return CoordinatorSeal(RunKey(key)) if key else Clear()


def member_seal(key: bytes | None, machine: int) -> Seal:
    """Another machine's seal."""
    return MemberSeal(RunKey(key), machine) if key else Clear()
