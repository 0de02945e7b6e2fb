"""Two workers of different machines in one process, over real sockets: what is refused, what is
sent again, who is held."""

from __future__ import annotations

import errno
import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import torch
import zmq
from proxies import Proxy

from decentralizepy.errors import RunError
from decentralizepy.mappings.placement import WorkerId
from decentralizepy.messages.message import Message
from decentralizepy.transport import batches, inbound
from decentralizepy.transport.batches import MAX_FRAME
from decentralizepy.transport.endpoint import make_context, too_many
from decentralizepy.transport.frames import AT_ONCE, MessageReader, to_frames
from decentralizepy.transport.inbound import Inbound
from decentralizepy.transport.outbound import Outbound, wire_bytes
from decentralizepy.transport.remote import RemoteSockets
from decentralizepy.transport.secure import (
    HELLO_START,
    WELCOME_START,
    Initiator,
    Party,
    RunKey,
)

KEY = bytes(range(32))
HERE = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
PROXIES = ("127.0.1.1", "127.0.1.2")
A, B = WorkerId(0, 0), WorkerId(1, 0)
NOTHING = {"refused": {}, "reconnects": 0, "resent": 0, "held": 0, "duplicates": 0}
CANARY = b"the model's own bytes, seen by anyone who listens"


def free_offset() -> int:
    """An offset whose ports are free on all addresses that tests use."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        try:
            for address in (*HERE, *PROXIES):
                with socket.socket() as probe:
                    probe.bind((address, port + 1))
            return port
        except (OSError, OverflowError):
            continue


class End:
    """A wire and what it has delivered: one frame is one message here."""

    def __init__(self, me: WorkerId, addresses: tuple[str, ...], offset: int, key: bytes | None,
                 timeout: float) -> None:  # fmt: skip
        self.context: zmq.Context = zmq.Context()
        self.poller = zmq.Poller()
        self.machine = me.machine
        self.wire = RemoteSockets(me, addresses, offset, self.context, self.poller, key=key,
                         peer_timeout=timeout)  # fmt: skip
        self.got: list[bytes] = []
        self.done: list[int] = []

    def close(self) -> None:
        self.wire.close()
        self.context.destroy(linger=0)

    def reader(self, peer: WorkerId) -> Reading:
        return Reading(self, peer)

    def pump(self) -> None:
        self.poller.poll(2)
        self.wire.outbound.flush()
        self.wire.inbound.receive(self.reader)
        self.wire.service(idle=True)


class Reading:
    def __init__(self, end: End, peer: WorkerId) -> None:
        self.end, self.peer, self.frames = end, peer, []

    def frame(self, part) -> None:
        self.frames.append(bytes(part.content()))

    def deliver(self) -> int:
        self.end.got += self.frames
        return sum(map(len, self.frames))


Make = Callable[..., End]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make ends of one run; ``through`` puts other addresses of peers in their way."""
    ends: list[End] = []
    offset = free_offset()

    def build(me: WorkerId, key: bytes | None = KEY, timeout: float = 60.0,
              through: dict[int, str] | None = None) -> End:  # fmt: skip
        addresses = tuple((through or {}).get(m, address) for m, address in enumerate(HERE))
        ends.append(End(me, addresses, offset, key, timeout))
        return ends[-1]

    build.offset = offset  # type: ignore[attr-defined]
    yield build
    for end in ends:
        end.close()


def until(ends: list[End], reached: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < limit, [(len(end.got), end.wire.summary()) for end in ends]
        for end in ends:
            end.pump()


def say(end: End, peer: WorkerId, count: int, size: int = 40, start: int = 0) -> list[bytes]:
    """Send numbered messages of node 0; each notes in ``done`` when its memory is free again."""
    said = []
    for i in range(start, start + count):
        frame = i.to_bytes(4, "little") + CANARY + bytes(max(0, size - 4 - len(CANARY)))
        end.wire.outbound.send(peer, [frame], 0, lambda i=i: end.done.append(i))
        said.append(frame)
    return said


@pytest.mark.parametrize("key", [KEY, None])
def test_messages_arrive_once_in_order_and_are_acknowledged(make: Make, key: bytes | None) -> None:
    a, b = make(A, key), make(B, key)
    said = say(a, B, 50) + say(a, B, 8, 1 << 20, 50)
    answers = say(b, A, 3)
    until([a, b], lambda: len(a.done) == 58 and len(b.done) == 3)
    assert b.got == said and a.got == answers
    assert a.done == list(range(58))
    for end in (a, b):
        assert end.wire.summary() == NOTHING


@pytest.mark.parametrize("key", [KEY, None])
def test_a_message_much_larger_than_any_row_arrives(make: Make, key: bytes | None) -> None:
    """Sealed it has its memory at once, in the clear as it comes."""
    a, b = make(A, key), make(B, key)
    noise = torch.randint(-100, 100, (AT_ONCE + (24 << 20),), dtype=torch.int8)
    header, payload = to_frames(Message({"x": noise}, {}, -1, (2, 0)))
    a.wire.outbound.send(B, [b"M", header, *payload], -1, lambda: a.done.append(0))
    got: list[Message] = []
    b.reader = lambda peer: MessageReader(  # type: ignore[assignment,method-assign]
        peer, lambda peer, first, message, nbytes: got.append(message)
    )
    until([a, b], lambda: a.done == [0])
    assert torch.equal(got[0]["x"], noise) and got[0].sender == -1
    b.wire.inbound.consumed(A, -1, noise.nbytes + len(header) + 1)
    until([a, b], lambda: not a.wire.outbound.peers[B].window.outstanding)


def test_memory_is_held_until_the_peer_has_it(make: Make) -> None:
    a = make(A)
    say(a, B, 1)
    for _ in range(10):
        a.pump()
    assert a.done == []
    b = make(B)
    until([a, b], lambda: a.done == [0])


def test_what_was_kept_for_a_dead_peer_is_let_go(make: Make) -> None:
    """Queued, kept or on its way: its memory is free, and the others are served."""
    a, c = make(A), make(WorkerId(2, 0))
    say(a, B, 2, MAX_FRAME)
    say(a, B, 1, start=2)
    a.pump()
    a.wire.outbound.forget(B)
    assert sorted(a.done) == [0, 1, 2] and a.wire.outbound.may_send(B, 0)
    say(a, WorkerId(2, 0), 1, start=3)
    until([a, c], lambda: len(a.done) == 4)


def test_who_listens_sees_the_model_only_without_encryption(make: Make) -> None:
    """The canary: taking the protection out makes the second half of this test fail."""
    for key, visible in ((None, True), (KEY, False)):
        proxy = Proxy((PROXIES[1], make.offset + 1), (HERE[1], make.offset + 1))
        try:
            a, b = make(A, key, through={1: PROXIES[1]}), make(B, key)
            said = say(a, B, 3) + say(a, B, 1, 1 << 20, 3)
            until([a, b], lambda a=a: len(a.done) == 4)
            assert b.got == said
            assert len(proxy.seen) > 1 << 20
            assert (CANARY in proxy.seen) == visible
            assert (KEY in proxy.seen, KEY[:16] in proxy.seen) == (False, False)
        finally:
            proxy.close()
            a.close()
            b.close()


def test_the_counted_bytes_are_those_on_the_wire(make: Make) -> None:
    """Within the handshake, the acknowledgements, and what coalescing saves."""
    for key in (KEY, None):
        proxy = Proxy((PROXIES[1], make.offset + 1), (HERE[1], make.offset + 1))
        try:
            a, b = make(A, key, through={1: PROXIES[1]}), make(B, key)
            counted = sum(a.wire.outbound.send(B, [bytes(900_000), bytes(300)]) for _ in range(6))
            until([a, b], lambda b=b: len(b.got) == 12)
            assert abs(len(proxy.seen) - counted) < 2500
            assert counted == 6 * wire_bytes([900_000, 300], key is not None)
        finally:
            proxy.close()
            a.close()
            b.close()


@pytest.mark.parametrize("key", [KEY, None])
def test_a_cut_connection_loses_nothing_and_doubles_nothing(make: Make, key: bytes | None) -> None:
    cuts = [300, 400_000, 1_000_000, 3_100_000, 3_200_000, 6_000_000]
    proxy = Proxy((PROXIES[1], make.offset + 1), (HERE[1], make.offset + 1), cuts)
    try:
        a, b = make(A, key, through={1: PROXIES[1]}), make(B, key)
        said = []
        for i in range(12):
            said += say(a, B, 1, MAX_FRAME // 2, i)
            a.pump()
            b.pump()
        until([a, b], lambda: len(a.done) == 12)
        assert b.got == said and sorted(a.done) == list(range(12))
        assert proxy.cut == len(cuts)
        summary = a.wire.summary()
        assert summary["reconnects"] >= len(cuts) - 1 and summary["resent"] > 0
        assert b.wire.summary()["refused"] == a.wire.summary()["refused"] == {}
    finally:
        proxy.close()


def test_without_resending_a_cut_loses_messages(make: Make, monkeypatch) -> None:
    """The test above can fail."""
    proxy = Proxy((PROXIES[1], make.offset + 1), (HERE[1], make.offset + 1), [900_000])
    try:
        a, b = make(A, through={1: PROXIES[1]}), make(B)
        say(a, B, 1)
        until([a, b], lambda: len(a.done) == 1)
        monkeypatch.setattr(batches.Unacknowledged, "waiting", lambda self: ())
        say(a, B, 3, MAX_FRAME, 1)
        until([a, b], lambda: proxy.cut == 1)
        settle([a, b], 300)
        assert len(b.got) < 4 and len(a.done) < 4
    finally:
        proxy.close()


class Stranger:
    """Somebody who can reach a worker's port."""

    def __init__(self, end: End, offset: int) -> None:
        self.socket: zmq.Socket = end.context.socket(zmq.DEALER)
        self.socket.linger = 0
        machine = end.machine
        self.socket.connect(f"tcp://{HERE[machine]}:{offset + 1}")

    def says(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def hears(self, pumped: list[End], seconds: float = 10.0) -> bytes:
        limit = time.monotonic() + seconds
        while not self.socket.poll(1):
            assert time.monotonic() < limit
            for end in pumped:
                end.pump()
        return self.socket.recv()


def recorded(make: Make, monkeypatch) -> tuple[End, End, list[bytes]]:
    """Two ends that have talked, and the frames that A sent to B."""
    frames: list[bytes] = []
    arrived = Inbound._arrived

    def record(self, identity, parts, new):
        if self._me.place == B:
            frames.extend(bytes(part) for part in parts)
        arrived(self, identity, parts, new)

    monkeypatch.setattr(Inbound, "_arrived", record)
    a, b = make(A), make(B)
    said = say(a, B, 4) + say(a, B, 1, 200_000, 4)
    until([a, b], lambda: len(a.done) == 5)
    assert b.got == said and frames[0].startswith(HELLO_START)
    return a, b, list(frames)


def settle(ends: list[End], rounds: int = 30) -> None:
    for _ in range(rounds):
        for end in ends:
            end.pump()


def test_replayed_frames_are_refused_and_counted(make: Make, monkeypatch) -> None:
    """On a connection of the stranger's own, hello included; what A says later still arrives."""
    a, b, frames = recorded(make, monkeypatch)
    before = list(b.got)
    stranger = Stranger(b, make.offset)
    stranger.says(frames[0])
    assert stranger.hears([b])
    for frame in frames[1:]:
        stranger.says(frame)
    settle([a, b])
    assert b.got == before
    refused = b.wire.summary()["refused"]
    assert refused["forged"] >= 1, "the replayed words are sealed for a session that is over"
    say(a, B, 1, start=5)
    until([a, b], lambda: len(a.done) == 6)
    assert len(b.got) == len(before) + 1 and a.wire.summary()["reconnects"] == 0


def test_replay_on_the_same_connection_is_refused(make: Make, monkeypatch) -> None:
    a, b, frames = recorded(make, monkeypatch)
    before = list(b.got)
    connection = next(iter(a.wire.outbound.peers.values())).connection
    heads = [frame for frame in frames[1:] if frame[:2] == b"Gi"]
    for frame in heads:
        connection.socket.send(frame)
    until([a, b], lambda: b.wire.summary()["refused"].get("replayed", 0) == len(heads))
    assert b.got == before
    say(a, B, 1, start=5)
    until([a, b], lambda: len(a.done) == 6)


def test_reflected_frames_are_refused(make: Make, monkeypatch) -> None:
    """A's own words come back to A, the hello and what followed."""
    a, b, frames = recorded(make, monkeypatch)
    stranger = Stranger(a, make.offset)
    for frame in frames:
        stranger.says(frame)
    settle([a, b])
    refused = a.wire.summary()["refused"]
    assert refused.get("reflected", 0) == 1 and sum(refused.values()) == len(frames)
    assert a.got == []


def test_an_altered_frame_is_refused_and_sent_again(make: Make, monkeypatch) -> None:
    """Whatever arrives altered is not delivered; the session is made anew and all comes again."""
    a, b = make(A), make(B)
    altered = []
    arrived = Inbound._arrived

    def alter(self, identity, parts, new):
        for at, part in enumerate(parts):
            new_session = identity not in altered and len(altered) < 3
            if self is b.wire.inbound and len(part) > 100_000 and new_session:
                changed = bytearray(part)
                changed[5000] ^= 1
                altered.append(identity)
                parts[at] = memoryview(changed)
        arrived(self, identity, parts, new)

    monkeypatch.setattr(Inbound, "_arrived", alter)
    said = say(a, B, 6, 200_000)
    until([a, b], lambda: len(a.done) == 6)
    assert b.got == said
    assert b.wire.summary()["refused"] == {"forged": 3}
    assert a.wire.summary()["reconnects"] == 3 and a.wire.summary()["resent"] >= 3


@pytest.mark.parametrize("what", ["altered", "taken out"])
def test_an_acknowledgement_that_does_not_arrive_is_asked_for_again(make, monkeypatch, what):
    a, b = make(A), make(B)
    hit = []
    answered = Outbound._answered

    def disturb(self, link, frame):
        if self is a.wire.outbound and not frame.startswith(WELCOME_START) and len(hit) < 2:
            hit.append(frame)
            if len(hit) == 2:  # the first one answers our proof; this one tells of a message
                if what == "taken out":
                    return
                frame = frame[:-1] + bytes([frame[-1] ^ 1])
        answered(self, link, frame)

    monkeypatch.setattr(Outbound, "_answered", disturb)
    a.wire.begin((1, 1, 1), 10)
    say(a, B, 1)
    until([a, b], lambda: len(hit) == 2)
    b.wire.inbound.consumed(A, 0, len(b.got[0]))
    until([a, b], lambda: a.wire.outbound.may_send(B, 0) and a.done == [0])
    refused = a.wire.summary()["refused"]
    assert refused.get("forged", 0) == (what == "altered")
    assert refused["forged" if what == "altered" else "missing"] >= 1
    assert a.wire.summary()["reconnects"] == 1 and len(b.got) == 1


def test_garbage_after_a_replayed_hello_takes_no_report_away(make: Make, monkeypatch) -> None:
    a, b, frames = recorded(make, monkeypatch)
    a.wire.outbound.peers[B].window.limit = 10
    assert not a.wire.outbound.may_send(B, 0)
    stranger = Stranger(b, make.offset)
    stranger.says(frames[0])
    stranger.hears([b])
    for frame in b.got:
        b.wire.inbound.consumed(A, 0, len(frame))
    stranger.says(b"Gi" + bytes(100))
    while not b.wire.summary()["refused"]:
        b.wire.inbound.receive(b.reader)
    until([a, b], lambda: a.wire.outbound.may_send(B, 0))


def test_another_hello_on_a_connection_changes_nothing(make: Make) -> None:
    a, b = make(A), make(B)
    say(a, B, 1)
    until([a, b], lambda: len(a.done) == 1)
    initiator = Initiator(RunKey(KEY), Party(2, 0, b"another."), B)
    a.wire.outbound.peers[B].connection.socket.send(initiator.hello)
    say(a, B, 1, start=1)
    until([a, b], lambda: len(a.done) == 2)
    assert b.wire.summary()["refused"] == {"foreign": 1} and not a.wire.summary()["reconnects"]


def test_hellos_of_workers_that_there_are_not_take_no_memory(make: Make) -> None:
    b = make(B, None)
    b.wire.begin((2, 1, 1), 10)
    places = [(0, 0), (0, 1), (0, 2), (2, 1), (3, 0), (-1, 0)]
    strangers = [Stranger(b, make.offset) for _ in places]
    for stranger, place in zip(strangers, places, strict=True):
        stranger.says(Initiator(None, Party(*place, b"somebody"), B).hello)
    until([b], lambda: b.wire.summary()["refused"] == {"foreign": 4})
    until([b], lambda: set(b.wire.inbound.sources) == {A, WorkerId(0, 1)})


def test_without_encryption_an_altered_frame_is_delivered(make: Make, monkeypatch) -> None:
    """What the test above protects from."""
    a, b = make(A, None), make(B, None)
    arrived = Inbound._arrived

    def alter(self, identity, parts, new):
        for part in parts:
            if self is b.wire.inbound and len(part) > 100_000:
                part[5000:5001] = b"!"
        arrived(self, identity, parts, new)

    monkeypatch.setattr(Inbound, "_arrived", alter)
    said = say(a, B, 1, 200_000)
    until([a, b], lambda: len(b.got) == 1)
    assert b.got != said


def test_strangers_and_other_keys_are_refused_before_anything_is_taken(make: Make) -> None:
    b, other = make(B), make(A, bytes(32))
    say(other, B, 1)
    stranger = Stranger(b, make.offset)
    for frames in ([b""], [b"x" * 1000], [HELLO_START], [HELLO_START + bytes(200)], [b"Gi"] * 3,
                   [b"", b"", b""], [bytes(8), b'{"from":0}', bytes(100)]):  # fmt: skip
        stranger.says(*frames)
    until([b, other], lambda: sum(b.wire.summary()["refused"].values()) >= 8)
    refused = b.wire.summary()["refused"]
    assert refused["forged"] >= 1 and set(refused) >= {"forged", "foreign"}
    assert b.got == [] and not b.wire.inbound.sources and other.done == []
    a = make(WorkerId(2, 0))
    say(a, B, 2)
    until([a, b, other], lambda: len(a.done) == 2)


def test_hellos_in_any_number_take_bounded_memory(make: Make, monkeypatch) -> None:
    monkeypatch.setattr(inbound, "_MAX_PENDING", 8)
    a, b, frames = recorded(make, monkeypatch)
    strangers = [Stranger(b, make.offset) for _ in range(40)]
    for stranger in strangers:
        stranger.says(frames[0])
    for stranger in strangers:
        stranger.hears([b])
    assert len(b.wire.inbound.streams) <= 9 + 1
    say(a, B, 1, start=5)
    until([a, b], lambda: len(a.done) == 6)


def test_a_peer_that_cannot_be_reached_fails_the_run_and_is_named(make: Make) -> None:
    a, b = make(A, timeout=1.0), make(B)
    say(a, B, 1)
    until([a, b], lambda: len(a.done) == 1)
    b.close()
    time.sleep(1.2)
    a.pump()  # nothing waits for an answer, so nobody is missed
    say(a, B, 1, start=1)
    with pytest.raises(RunError, match="machine 1 is gone: its worker 0 could not be reached"):
        until([a], lambda: False, 10.0)


def test_a_peer_that_computes_for_long_is_not_lost(make: Make) -> None:
    """Its ZeroMQ thread answers heart-beats while its own does not look at its sockets."""
    a, b = make(A, timeout=1.0), make(B)
    say(a, B, 1)
    until([a, b], lambda: len(a.done) == 1)
    say(a, B, 3, start=1)
    limit = time.monotonic() + 2.5
    while time.monotonic() < limit:
        a.pump()
    assert len(a.done) == 1
    until([a, b], lambda: len(a.done) == 4)
    assert a.wire.summary()["reconnects"] == 0


def test_a_cut_while_a_peer_computes_for_long_is_survived(make: Make) -> None:
    """The time of before the cut, in which it could be reached, does not count."""
    proxy = Proxy((PROXIES[1], make.offset + 1), (HERE[1], make.offset + 1))
    try:
        a, b = make(A, timeout=1.5, through={1: PROXIES[1]}), make(B)
        say(a, B, 1)
        until([a, b], lambda: len(a.done) == 1)
        say(a, B, 1, start=1)
        limit = time.monotonic() + 2.0
        while time.monotonic() < limit:
            a.pump()
        proxy.cut_now()
        until([a, b], lambda: len(a.done) == 2)
        assert a.wire.summary()["reconnects"] >= 1
    finally:
        proxy.close()


def test_a_worker_may_talk_to_more_peers_than_zeromq_has_sockets_for_by_itself() -> None:
    context = make_context(HERE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert soft == hard and context.get(zmq.MAX_SOCKETS) > 3 * 1023
        many = 1100 if hard < 0 or hard > 2000 else 100
        assert len([context.socket(zmq.DEALER) for _ in range(many)]) == many
    finally:
        context.destroy(linger=0)


def test_too_many_open_files_are_explained() -> None:
    assert "ulimit -Hn" in str(too_many(zmq.ZMQError(errno.EMFILE)))
    other = zmq.ZMQError(errno.EINVAL)
    assert too_many(other) is other


def test_a_restarted_peer_fails_the_run(make: Make) -> None:
    a, b = make(A), make(B)
    say(a, B, 1)
    until([a, b], lambda: len(a.done) == 1)
    b.close()
    again = make(B)
    say(a, B, 1, start=1)
    with pytest.raises(RunError, match="machine 1, worker 0 was started anew"):
        until([a, again], lambda: False, 10.0)


def test_credits_bound_what_a_slow_consumer_holds(make: Make) -> None:
    """The sender is held, the socket is drained, and nothing is lost."""
    a, b = make(A), make(B)
    a.wire.begin((1, 1, 1), 1_000_000)
    size, total, sent, held, most = 200_000, 40, 0, 0, 0
    consumed = 0
    while len(b.got) < total:
        if sent < total and a.wire.outbound.may_send(B, 0):
            say(a, B, 1, size, sent)
            sent += 1
        else:
            held += 1
        a.pump()
        b.pump()
        waiting = len(b.got) - consumed
        most = max(most, waiting)
        if waiting and (held % 3 == 2 or sent == total):  # it reads now and then
            b.wire.inbound.consumed(A, 0, len(b.got[consumed]))
            consumed += 1
    assert held > 0
    assert most * size <= 1_000_000 + 2 * size
    assert [int.from_bytes(frame[:4], "little") for frame in b.got] == list(range(total))


def test_who_has_nothing_waiting_there_is_never_held(make: Make) -> None:
    a, b = make(A), make(B)
    a.wire.begin((1, 1, 1), 10)
    say(a, B, 1, 1000)
    assert not a.wire.outbound.may_send(B, 0) and a.wire.outbound.may_send(B, 1)
    until([a, b], lambda: len(b.got) == 1)
    b.wire.inbound.consumed(A, 0, len(b.got[0]))
    until([a, b], lambda: a.wire.outbound.may_send(B, 0))


def test_credits_survive_a_reconnect(make: Make) -> None:
    proxy = Proxy((PROXIES[1], make.offset + 1), (HERE[1], make.offset + 1))
    try:
        a, b = make(A, through={1: PROXIES[1]}), make(B)
        a.wire.begin((1, 1, 1), 10)
        say(a, B, 1, 1000)
        until([a, b], lambda: len(a.done) == 1)
        proxy.cut_now()
        b.wire.inbound.consumed(A, 0, len(b.got[0]))
        while b.wire.inbound.owes:
            b.wire.service(idle=True)  # the report goes to a connection that is no more
        until([a, b], lambda: a.wire.outbound.may_send(B, 0))
    finally:
        proxy.close()
