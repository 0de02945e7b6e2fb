"""Seals the words of the control plane with the run key, by sessions of `transport.secure`.

Sans I/O: what goes in are the frames that a socket received, what comes out are frames to send and
words that were found authentic and fresh. Without a key words pass as they are.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from decentralizepy.jsonfile import parse_object
from decentralizepy.transport.secure import (
    HELLO_START,
    WELCOME_START,
    Initiator,
    Party,
    RefusedError,
    RunKey,
    Session,
    answer,
    claimed_machine,
    new_life,
    read_hello,
)

#: the supervisor of a machine, among its workers
SUPERVISOR: Final = -1
_MAX_PENDING: Final = 1024
_ME: Final = Party(0, SUPERVISOR)


class Opened(NamedTuple):
    """Frames to send back, words that arrived, and whether a session was found to be broken.

    A session breaks when words of it were altered or taken out on the way.
    """

    replies: Sequence[bytes] = ()
    words: Sequence[bytes] = ()
    broken: bool = False


class Seal(Protocol):
    """One end of the control plane; ``who`` tells connections of a ROUTER apart."""

    refused: Counter[str]
    #: machines from which somebody said hello with another key, or without one
    doubted: set[int]

    def machine(self, who: bytes) -> int | None:
        """Which machine has proved to be at the other end; None without a key."""

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
        self.doubted: set[int] = set()

    def machine(self, who: bytes) -> int | None:
        return None

    def first(self) -> list[bytes]:
        return []

    def seal(self, who: bytes, word: bytes) -> list[bytes]:
        return [word]

    def open(self, who: bytes, frame: bytes) -> Opened:
        if frame.startswith(HELLO_START):
            self.refused["unsealed"] += 1
            _note(self.doubted, claimed_machine(_ME, frame))
            return Opened()
        return Opened(words=[frame])


class CoordinatorSeal:
    """Machine 0's end: a session with every machine that proves to have the key."""

    waiting = 0

    def __init__(self, key: RunKey) -> None:
        self.refused: Counter[str] = Counter()
        self.doubted: set[int] = set()
        self._key, self._me = key, _ME._replace(life=new_life())
        self._sessions: dict[bytes, tuple[Session, int]] = {}
        self._pending: deque[bytes] = deque()

    def machine(self, who: bytes) -> int | None:
        return self._sessions[who][1]

    def first(self) -> list[bytes]:
        return []

    def seal(self, who: bytes, word: bytes) -> list[bytes]:
        return [self._sessions[who][0].sealer.head(word, 0)]

    def open(self, who: bytes, frame: bytes) -> Opened:
        session, _ = self._sessions.get(who, (None, None))
        hello = frame.startswith(HELLO_START)
        try:
            if hello:
                return Opened([self._greet(who, frame)])
            if session is None:
                raise self._unknown(frame)
            return Opened(words=[session.opener.head(frame)[0]])
        except RefusedError as error:
            self.refused[error.kind] += 1
            return Opened(broken=session is not None and not hello and not error.harmless)

    def _unknown(self, frame: bytes) -> RefusedError:
        if not frame.startswith(b"{"):
            return RefusedError("foreign", "nobody said hello on this connection")
        _note(self.doubted, _said_by(frame))
        return RefusedError("unsealed", "words in the clear")

    def _greet(self, who: bytes, hello: bytes) -> bytes:
        """Replayed hellos get sessions that nobody can use, so these may be forgotten."""
        if who in self._sessions:
            raise RefusedError("foreign", "another hello on a connection that has a session")
        try:
            greeting = read_hello(self._key, self._me, hello)
        except RefusedError:
            _note(self.doubted, claimed_machine(self._me, hello))
            raise
        session, welcome = answer(self._key, self._me, greeting, 0)
        self._sessions[who] = session, greeting.sender.machine
        self._pending.append(who)
        if len(self._pending) > _MAX_PENDING:
            oldest = self._pending.popleft()
            if oldest in self._sessions and not self._sessions[oldest][0].opener.opened:
                del self._sessions[oldest]
        return welcome


def _note(machines: set[int], machine: int | None) -> None:
    """Add a machine that a stranger may claim to be; no more than there can be."""
    if machine is not None and len(machines) < _MAX_PENDING:
        machines.add(machine)


def _said_by(word: bytes) -> int | None:
    """The machine that says hello in words that are not sealed."""
    news = parse_object(word)
    machine = news.get("machine") if "hello" in news else None
    return machine if type(machine) is int else None


class MemberSeal:
    """The end of every other machine; words are kept until machine 0 has proved itself."""

    def __init__(self, key: RunKey, machine: int) -> None:
        self.refused: Counter[str] = Counter()
        self.doubted: set[int] = set()
        self._initiator = Initiator(key, Party(machine, SUPERVISOR, new_life()), _ME.place)
        self._session: Session | None = None
        self._kept: list[bytes] = []

    def machine(self, who: bytes) -> int | None:
        return 0

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
        session = self._session
        try:
            if session is None and frame.startswith(WELCOME_START):
                return Opened(self._welcomed(frame))
            if session is None:
                raise RefusedError("foreign", "words before the welcome")
            return Opened(words=[session.opener.head(frame)[0]])
        except RefusedError as error:
            self.refused[error.kind] += 1
            return Opened(broken=session is not None and not error.harmless)

    def _welcomed(self, welcome: bytes) -> list[bytes]:
        """What was kept, sealed."""
        self._session = self._initiator.finish(welcome)[0]
        kept, self._kept = self._kept, []
        return [self._session.sealer.head(word, 0) for word in kept]


def coordinator_seal(key: bytes | None) -> Seal:
    """Machine 0's seal."""
    return CoordinatorSeal(RunKey(key)) if key else Clear()


def member_seal(key: bytes | None, machine: int) -> Seal:
    """Another machine's seal."""
    return MemberSeal(RunKey(key), machine) if key else Clear()
