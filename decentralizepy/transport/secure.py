"""Authenticated encryption between two parties that share a run key; no I/O.

A session begins with two messages. The initiator's *hello* and the responder's *welcome* carry a
fresh X25519 public key each, both parties' identities and what the other one said, under an
HMAC-SHA256 with a key derived from the run key. Both then derive one AES-256-GCM key per direction
by HKDF-SHA256 (RFC 5869) from the shared secret, salted with the run key and bound to both
messages. This is the shape of the pattern NNpsk0 of the Noise framework. Session keys are never
stored, so a run key that leaks later does not open what was recorded earlier.

What follows comes in *groups*: a head and a number of chunks, each sealed with a nonce of its own.
A group starts with a clear prefix: kind, direction, the counter of its first nonce, the number of
its chunks. The prefix and a chunk's place are associated data. Counters only grow, and a session
has fresh keys, so no nonce is ever used twice under a key.

Without a run key the same messages travel in the clear, and nothing is protected.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Buffer = bytes | bytearray | memoryview

TAG: Final = 16
LIFE: Final = 8
_MAC: Final = 32
_LABEL: Final = b"decentralizepy transport 1"
_HELLO: Final = struct.Struct("<4sc?ii8sii32s")
_WELCOME: Final = struct.Struct("<4sc?ii8sii8s32sQ")
_PREFIX: Final = struct.Struct("<ccQI")
_INDEX: Final = struct.Struct("<I")
_MAGIC: Final = b"DPY1"
_GROUP: Final = b"G"
_LAST_COUNTER: Final = 1 << 63
#: first bytes of the messages of a handshake, to tell them from a session's
HELLO_START: Final = _MAGIC + b"H"
WELCOME_START: Final = _MAGIC + b"W"
PREFIX_BYTES: Final = _PREFIX.size

_NO_PUBLIC: Final = bytes(32)


class RefusedError(Exception):
    """A message that is not taken; ``kind`` is what it is counted as.

    ``malformed``: not of the form. ``foreign``: for somebody else, or on a connection that said no
    hello. ``unsealed``: from somebody without a key, or with one where we have none. ``forged``:
    not made with our key, or altered. ``missing``: what went before it has been taken out.
    ``replayed``: its counter has gone by. ``reflected``: our own words come back.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(f"{kind}: {why}")
        self.kind = kind

    @property
    def harmless(self) -> bool:
        """Whether the session in which it came goes on as if it had not come."""
        return self.kind in ("replayed", "reflected")


class Party(NamedTuple):
    """A worker of a machine (the supervisor is worker -1), and which life of it: 8 random bytes."""

    machine: int
    worker: int
    life: bytes = bytes(LIFE)

    @property
    def place(self) -> tuple[int, int]:
        return self.machine, self.worker


def new_life() -> bytes:
    """A name for this process, so that a restarted one is not taken for it."""
    return secrets.token_bytes(LIFE)


class RunKey:
    """The secrets derived from a run key; it says nothing of them when printed."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._auth = _hkdf(key, b"", _LABEL + b" handshake", 32)

    def mac(self, *parts: bytes) -> bytes:
        """HMAC-SHA256 of the parts."""
        return hmac.digest(self._auth, b"".join(parts), hashlib.sha256)

    def session(self, shared: bytes, transcript: bytes) -> tuple[bytes, bytes]:
        """Keys for (initiator to responder, responder to initiator)."""
        info = _LABEL + b" session" + hashlib.sha256(transcript).digest()
        both = _hkdf(shared, self._key, info, 64)
        return both[:32], both[32:]


def _hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


class _Ephemeral:
    """A key pair that is used once."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def shared(self, public: bytes) -> bytes:
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise RefusedError("malformed", "a public key of low order") from None


@dataclass
class Session:
    """What one party needs after a handshake."""

    sealer: Sealer
    opener: Opener


class Initiator:
    """Opens one session; ``hello`` is what to send first."""

    def __init__(self, key: RunKey | None, me: Party, peer: tuple[int, int]) -> None:
        self._key, self.me, self.peer = key, me, peer
        self._ephemeral = _Ephemeral() if key else None
        public = self._ephemeral.public if self._ephemeral else _NO_PUBLIC
        body = _HELLO.pack(_MAGIC, b"H", key is not None, *me.place, me.life, *peer, public)
        self.hello = body + (key.mac(body) if key else b"")

    def finish(self, welcome: Buffer) -> tuple[Session, Party, int]:
        """(the session, who answered, the number it added); raises `RefusedError`."""
        body = _authentic(bytes(welcome), _WELCOME, self._key, self.hello)
        fields = _WELCOME.unpack(body)
        machine, worker, life, to_machine, to_worker, to_life, public, number = fields[3:]
        if (to_machine, to_worker, to_life) != self.me or (machine, worker) != self.peer:
            raise RefusedError("foreign", "a welcome for or from somebody else")
        mine, theirs = None, None
        if self._key is not None:
            assert self._ephemeral is not None
            shared = self._ephemeral.shared(public)
            mine, theirs = self._key.session(shared, self.hello + body)
        session = Session(Sealer(mine, b"i"), Opener(theirs, b"r"))
        return session, Party(machine, worker, life), number


@dataclass(frozen=True)
class Greeting:
    """A hello that was found authentic; nothing of it is trusted to be fresh yet."""

    sender: Party
    public: bytes
    text: bytes


def read_hello(key: RunKey | None, me: Party, hello: Buffer) -> Greeting:
    """Check a hello; raises `RefusedError`."""
    text = bytes(hello)
    body = _authentic(text, _HELLO, key)
    *_, machine, worker, life, to_machine, to_worker, public = _HELLO.unpack(body)
    if (machine, worker, life) == me:
        raise RefusedError("reflected", "our own hello")
    if (to_machine, to_worker) != me.place:
        raise RefusedError("foreign", "a hello for somebody else")
    return Greeting(Party(machine, worker, life), public, text)


def claimed_machine(me: Party, hello: Buffer) -> int | None:
    """Which machine a hello says it is from, authentic or not; None if it is none for us."""
    text = bytes(hello)
    if len(text) < _HELLO.size or not text.startswith(HELLO_START):
        return None
    *_, machine, _, _, to_machine, to_worker, _ = _HELLO.unpack(text[: _HELLO.size])
    return machine if (to_machine, to_worker) == me.place else None


def answer(key: RunKey | None, me: Party, greeting: Greeting, number: int) -> tuple[Session, bytes]:
    """(the session, the welcome to send); ``number`` travels in the welcome.

    The session is real once its opener has opened something: a replayed hello leads nowhere.
    """
    ephemeral = _Ephemeral() if key else None
    public = ephemeral.public if ephemeral else _NO_PUBLIC
    body = _WELCOME.pack(
        _MAGIC, b"W", key is not None, *me.place, me.life, *greeting.sender, public, number
    )
    theirs, mine = None, None
    if key is not None and ephemeral is not None:
        shared = ephemeral.shared(greeting.public)
        theirs, mine = key.session(shared, greeting.text + body)
    mac = key.mac(greeting.text, body) if key else b""
    return Session(Sealer(mine, b"r"), Opener(theirs, b"i")), body + mac


def _authentic(text: bytes, form: struct.Struct, key: RunKey | None, before: bytes = b"") -> bytes:
    """The body of a handshake's message, found to be made by a party with our key."""
    if len(text) < form.size or text[: len(_MAGIC)] != _MAGIC:
        raise RefusedError("malformed", "no message of a handshake")
    sealed = text[len(_MAGIC) + 1 : len(_MAGIC) + 2] == b"\1"
    if sealed != (key is not None):
        raise RefusedError("unsealed", "one side has a run key, the other has none")
    body, mac = text[: form.size], text[form.size :]
    if len(mac) != (_MAC if key else 0):
        raise RefusedError("malformed", "a message of a handshake of odd length")
    kind = text[len(_MAGIC) : len(_MAGIC) + 1]
    if kind != (b"H" if form is _HELLO else b"W"):
        raise RefusedError("malformed", "the wrong message of a handshake")
    if key is not None and not hmac.compare_digest(mac, key.mac(before, body)):
        raise RefusedError("forged", "a handshake with another run key")
    return body


class Sealer:
    """Seals what one party sends in a session; ``key`` None leaves it in the clear."""

    def __init__(self, key: bytes | None, direction: bytes) -> None:
        self._cipher = AESGCM(key) if key else None
        self._direction = direction
        self._counter = 0
        self._prefix = b""
        self._index = 0
        self._left = 0

    def head(self, body: Buffer, chunks: int) -> bytes:
        """Start a group of ``chunks`` chunks; returns its first frame."""
        assert not self._left, "a group has exactly the chunks that were announced"
        assert self._counter + chunks + 1 < _LAST_COUNTER
        self._prefix = _PREFIX.pack(_GROUP, self._direction, self._counter, chunks)
        self._index, self._left = 0, chunks
        if self._cipher is None:
            self._counter += 1
            return self._prefix + bytes(body)
        return self._prefix + self._cipher.encrypt(self._nonce(), body, self._prefix)

    def chunk(self, data: Buffer) -> Buffer:
        """The next chunk, sealed; in the clear it is the data itself, not a copy."""
        associated = self._associated()
        if self._cipher is None:
            self._counter += 1
            return data
        return self._cipher.encrypt(self._nonce(), data, associated)

    def _associated(self) -> bytes:
        assert self._left, "more chunks than were announced"
        self._left -= 1
        self._index += 1
        return self._prefix + _INDEX.pack(self._index)

    def _nonce(self) -> bytes:
        """The next nonce: none is given out twice."""
        counter, self._counter = self._counter, self._counter + 1
        return counter.to_bytes(12, "little")


class Opener:
    """Opens what the other party of a session sent."""

    def __init__(self, key: bytes | None, direction: bytes) -> None:
        self._cipher = AESGCM(key) if key else None
        self._direction = direction
        self._next = 0
        self._prefix = b""
        self._first = 0
        self.opened = 0

    @property
    def overhead(self) -> int:
        """Bytes that sealing adds to a chunk."""
        return TAG if self._cipher else 0

    def head(self, frame: Buffer) -> tuple[bytes, int]:
        """(body, number of chunks that follow); raises `RefusedError`, and then nothing changed."""
        if len(frame) < _PREFIX.size + self.overhead:
            raise RefusedError("malformed", "a head that is too short")
        prefix = bytes(frame[: _PREFIX.size])
        kind, direction, counter, chunks = _PREFIX.unpack(prefix)
        if kind != _GROUP or counter + chunks >= _LAST_COUNTER:
            raise RefusedError("malformed", "no head")
        if direction != self._direction:
            raise RefusedError("reflected", "a head that goes the other way")
        if counter < self._next:
            raise RefusedError("replayed", f"counter {counter}, after {self._next - 1}")
        body = self._open(counter, frame[_PREFIX.size :], prefix)
        if counter > self._next:
            raise RefusedError("missing", f"counter {counter}, before {self._next}")
        self._prefix, self._first, self._next = prefix, counter, counter + chunks + 1
        self.opened += 1
        return body, chunks

    def chunk(self, index: int, frame: Buffer) -> Buffer:
        """Chunk ``index``, from 1, of the group whose head came last."""
        if self._cipher is None:
            return frame
        return self._open(self._first + index, frame, self._prefix + _INDEX.pack(index))

    def chunk_into(self, index: int, frame: Buffer, buffer: memoryview) -> None:
        """Open a chunk into ``buffer``, which is exactly as long as its content."""
        if self._cipher is None:
            buffer[:] = frame
            return
        nonce = (self._first + index).to_bytes(12, "little")
        associated = self._prefix + _INDEX.pack(index)
        try:
            self._cipher.decrypt_into(nonce, frame, associated, buffer)
        except (InvalidTag, ValueError) as error:
            raise _refused(error) from None

    def _open(self, counter: int, sealed: Buffer, associated: bytes) -> bytes:
        if self._cipher is None:
            return bytes(sealed)
        try:
            return self._cipher.decrypt(counter.to_bytes(12, "little"), sealed, associated)
        except (InvalidTag, ValueError) as error:
            raise _refused(error) from None


def _refused(error: Exception) -> RefusedError:
    if isinstance(error, InvalidTag):
        return RefusedError("forged", "a seal that does not hold")
    return RefusedError("malformed", str(error))
