"""Sessions between two parties: who has no key gets nowhere, and no nonce is used twice."""

import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.transport import secure
from decentralizepy.transport.secure import (
    Initiator,
    Party,
    RefusedError,
    RunKey,
    answer,
    new_life,
    read_hello,
)

KEY, OTHER = RunKey(bytes(range(32))), RunKey(bytes(32))
A, B, C = (Party(machine, 0, bytes([machine]) * 8) for machine in (0, 1, 2))


def greet(key=KEY, theirs=KEY, a=A, b=B):
    """Sessions of initiator and responder, and the two messages."""
    initiator = Initiator(key, a, b.place)
    greeting = read_hello(theirs, b, initiator.hello)
    responder, welcome = answer(theirs, b, greeting, 7)
    mine, peer, number = initiator.finish(welcome)
    assert (peer, number) == (b, 7)
    return mine, responder, initiator.hello, welcome


def group(sealer, body, chunks):
    return [sealer.head(body, len(chunks)), *(bytes(sealer.chunk(chunk)) for chunk in chunks)]


def ungroup(opener, frames):
    body, count = opener.head(frames[0])
    assert count == len(frames) - 1
    return body, [bytes(opener.chunk(i, frame)) for i, frame in enumerate(frames[1:], 1)]


def refusal(call, *args):
    with pytest.raises(RefusedError) as caught:
        call(*args)
    return caught.value.kind


@given(st.lists(st.tuples(st.binary(max_size=50), st.lists(st.binary(max_size=99), max_size=4))))
def test_what_is_sealed_is_opened_both_ways(groups):
    for key in (KEY, None):
        mine, theirs, _, _ = greet(key, key)
        for body, chunks in groups:
            assert ungroup(theirs.opener, group(mine.sealer, body, chunks)) == (body, chunks)
            assert ungroup(mine.opener, group(theirs.sealer, body, chunks)) == (body, chunks)


def test_chunks_go_into_preallocated_memory():
    mine, theirs, _, _ = greet()
    data = bytes(range(256)) * 40
    head = mine.sealer.head(b"x", 1)
    sealed = mine.sealer.chunk(data)
    theirs.opener.head(head)
    found = bytearray(len(data))
    theirs.opener.chunk_into(1, sealed, memoryview(found))
    assert found == data and data[:64] not in sealed


@settings(max_examples=200)
@given(st.data())
def test_a_changed_bit_is_refused(data):
    """In any message of the handshake, or in any frame of a group."""
    initiator = Initiator(KEY, A, B.place)
    hello = flip(data, initiator.hello, "hello")
    assert hello == initiator.hello or refusal(read_hello, KEY, B, hello)
    session, welcome = answer(KEY, B, read_hello(KEY, B, initiator.hello), 0)
    changed = flip(data, welcome, "welcome")
    assert changed == welcome or refusal(initiator.finish, changed)
    mine, _, _ = initiator.finish(welcome)
    frames = group(mine.sealer, b"body", [b"first chunk", b"second"])
    which = data.draw(st.integers(0, 2))
    frames[which] = flip(data, frames[which], "frame")
    assert refusal(ungroup, session.opener, frames) in ("forged", "malformed", "reflected")


def flip(data, frame, label):
    at = data.draw(st.integers(0, 8 * len(frame) - 1), label)
    changed = bytearray(frame)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_changes_nothing(garbage):
    mine, theirs, _, _ = greet()
    for prefix in (b"", secure.HELLO_START, secure.WELCOME_START, b"Gi" + bytes(12)):
        text = prefix + garbage
        assert refusal(read_hello, KEY, B, text) in ("malformed", "unsealed", "forged")
        assert refusal(Initiator(KEY, A, B.place).finish, text)
        assert refusal(theirs.opener.head, text)
    assert ungroup(theirs.opener, group(mine.sealer, b"still", [b"fine"])) == (b"still", [b"fine"])


def test_another_key_opens_nothing():
    """And with the same one it does: the check can fail."""
    initiator = Initiator(KEY, A, B.place)
    assert refusal(read_hello, OTHER, B, initiator.hello) == "forged"
    greeting = read_hello(KEY, B, initiator.hello)
    _, welcome = answer(OTHER, B, greeting, 0)
    assert refusal(initiator.finish, welcome) == "forged"
    assert read_hello(KEY, B, initiator.hello).sender == A


def test_one_side_without_a_key_is_told_apart():
    hello, clear = Initiator(KEY, A, B.place).hello, Initiator(None, A, B.place).hello
    assert refusal(read_hello, None, B, hello) == "unsealed"
    assert refusal(read_hello, KEY, B, clear) == "unsealed"


def test_a_group_is_opened_once():
    mine, theirs, _, _ = greet()
    first, second = (group(mine.sealer, body, [b"chunk"]) for body in (b"1", b"2"))
    ungroup(theirs.opener, first)
    assert refusal(theirs.opener.head, first[0]) == "replayed"
    ungroup(theirs.opener, second)
    for frames in (first, second):
        assert refusal(theirs.opener.head, frames[0]) == "replayed"


def test_what_was_taken_out_is_missed():
    mine, theirs, _, _ = greet()
    _, second, third = (group(mine.sealer, body, [b"chunk"]) for body in (b"1", b"2", b"3"))
    for frames in (second, third):
        assert refusal(theirs.opener.head, frames[0]) == "missing"


def test_frames_out_of_their_place_are_refused():
    mine, theirs, _, _ = greet()
    head, one, two = group(mine.sealer, b"", [b"one", b"two"])
    theirs.opener.head(head)
    assert refusal(theirs.opener.chunk, 1, two) == "forged"
    assert bytes(theirs.opener.chunk(1, one)) == b"one"


def test_what_comes_back_is_refused():
    mine, theirs, hello, _ = greet()
    assert refusal(mine.opener.head, group(mine.sealer, b"x", [])[0]) == "reflected"
    assert refusal(theirs.opener.head, group(theirs.sealer, b"x", [])[0]) == "reflected"
    assert refusal(read_hello, KEY, A, hello) == "reflected"
    changed = bytearray(group(mine.sealer, b"x", [])[0])
    changed[1:2] = b"r"  # its direction turned round as well
    assert refusal(mine.opener.head, bytes(changed)) == "forged"


def test_a_handshake_is_for_one_pair():
    _, _, hello, welcome = greet()
    assert refusal(read_hello, KEY, C, hello) == "foreign"
    other = Initiator(KEY, A, B.place)
    assert refusal(other.finish, welcome) == "forged", "a welcome answers one hello"
    assert refusal(Initiator(KEY, A, C.place).finish, welcome) == "forged"


def test_a_replayed_hello_leads_nowhere():
    """Its sessions have other keys, so nothing recorded can be opened in them."""
    mine, theirs, hello, _ = greet()
    recorded = group(mine.sealer, b"secret", [b"chunk"])
    again, _ = answer(KEY, B, read_hello(KEY, B, hello), 0)
    assert refusal(again.opener.head, recorded[0]) == "forged"
    assert ungroup(theirs.opener, recorded)[0] == b"secret"


def test_no_nonce_is_used_twice(monkeypatch):
    """Over groups, directions, reconnects and restarts, under all keys that there ever were."""
    used = []

    class Recording:
        def __init__(self, key):
            self.key, self.real = key, AESGCM(key)

        def encrypt(self, nonce, data, associated):
            used.append((self.key, nonce))
            return self.real.encrypt(nonce, data, associated)

        def encrypt_into(self, nonce, data, associated, buffer):
            used.append((self.key, nonce))
            return self.real.encrypt_into(nonce, data, associated, buffer)

        def decrypt(self, nonce, data, associated):
            return self.real.decrypt(nonce, data, associated)

    monkeypatch.setattr(secure, "AESGCM", Recording)
    for _ in range(20):
        mine, theirs, _, _ = greet(a=A._replace(life=new_life()))
        for session in (mine, theirs):
            for count in (0, 3, 1):
                group(session.sealer, b"the same", [b"the same"] * count)
    assert len(used) == 20 * 2 * 7 == len(set(used))
    assert len({key for key, _ in used}) == 40, "a key for each session and direction"


def test_the_check_above_sees_a_nonce_that_is_used_twice(monkeypatch):
    mine, _, _, _ = greet()
    monkeypatch.setattr(secure.Sealer, "_nonce", lambda self: bytes(12))
    first, second = (group(mine.sealer, b"x" * 16, [])[0] for _ in range(2))
    assert first[-16 - 16 : -16] == second[-16 - 16 : -16], "equal text gives equal bytes"


def test_a_key_of_low_order_is_refused(monkeypatch):
    monkeypatch.setattr(secure, "_NO_PUBLIC", bytes(32))
    initiator = Initiator(KEY, A, B.place)
    body = bytearray(initiator.hello[:-32])
    body[-32:] = bytes(32)
    greeting = read_hello(KEY, B, bytes(body) + KEY.mac(bytes(body)))
    assert refusal(answer, KEY, B, greeting, 0) == "malformed"


def test_a_key_says_nothing_of_itself():
    assert "0001" not in repr(KEY) and KEY._key.hex() not in repr(vars(Initiator(KEY, A, (1, 0))))
    assert struct.calcsize("<ccQI") == secure.PREFIX_BYTES
