"""The supervisors' words, sealed with the run key."""

import json
import socket
import threading
import time

import pytest
import zmq
from proxies import Proxy

from decentralizepy.mappings.mapping import Mapping
from decentralizepy.settings import Resilience
from decentralizepy.supervision import control
from decentralizepy.supervision.control import Coordinator, Member
from decentralizepy.transport.secure import Initiator, Party, RunKey
from decentralizepy.words import Abort, Failed, Go, Hello, Ready, Saved, Start

KEY, OTHER = bytes(range(32)), bytes(32)
HELLO = Hello(1, {"flags": "1"}, {})
SECRET = "a reason that nobody else should read"


def coordinator(port, key):
    return Coordinator(Mapping((1, 1)), Resilience(), f"tcp://127.0.0.1:{port}", key)


def member(machine, endpoint, key):
    return Member(machine, Mapping((1, 1)), 60.0, endpoint, key)


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def planes(port, monkeypatch):
    """Make the planes of a run with a proxy between: (coordinator, member, proxy)."""
    made = []
    monkeypatch.setattr(control, "_LAST_WORD_S", 0.1)

    def make(key=KEY, theirs=KEY):
        proxy = Proxy(("127.0.1.1", port), ("127.0.0.1", port))
        made.append(proxy)
        made.append(coordinator(port, key))
        made.append(member(1, f"tcp://127.0.1.1:{port}", theirs))
        return made[-2], made[-1], proxy

    yield make
    for plane in made:  # the proxy first: who is cut off waits for no welcome
        plane.close()


def hear(planes, kind, seconds=10.0):
    """Let all planes hear until each has heard such a word; the words, by plane."""
    heard = {}
    until = time.monotonic() + seconds
    while len(heard) < len(planes) and time.monotonic() < until:
        for number, plane in enumerate(planes):
            for word in plane.hear():
                if isinstance(word, kind):
                    heard[number] = word
        time.sleep(0.002)
    assert len(heard) == len(planes), f"{kind.__name__} was heard by {sorted(heard)} only"
    return [heard[number] for number in range(len(planes))]


def aborted(planes):
    """Why the run has ended, by plane."""
    return [abort.why for abort in hear(planes, Abort)]


@pytest.mark.parametrize("key", [KEY, None])
def test_machines_agree_and_only_the_clear_can_be_read(planes, key):
    first, second, proxy = planes(key, key)
    for plane in (first, second):
        plane.say(HELLO)
    assert [one.workers for one in hear([first, second], Start)] == [(1, 1)] * 2
    second.say(Failed(SECRET))
    assert aborted([first, second]) == [SECRET] * 2
    assert (SECRET.encode() in proxy.seen) == (key is None)
    assert not first.refused and not second.refused


@pytest.mark.parametrize("theirs", [OTHER, None])
def test_another_key_is_refused_and_counted(planes, theirs):
    first, second, _ = planes(KEY, theirs)
    first.say(HELLO)
    second.say(HELLO)
    until = time.monotonic() + 10
    while not first.refused and time.monotonic() < until:
        assert first.hear() == second.hear() == []
    assert first.refused and first.missing() == [1]


def test_replayed_words_are_not_heard(planes, port):
    """A recorded hello and all that followed, from another connection; ready is said once."""
    recorded = []
    seal = control.coordinator_seal

    class Recording:
        def __init__(self, real):
            self.real, self.refused, self.waiting = real, real.refused, 0
            self.first, self.seal, self.machine = real.first, real.seal, real.machine
            self.doubted = real.doubted

        def open(self, who, frame):
            recorded.append(frame)
            return self.real.open(who, frame)

    control.coordinator_seal = lambda key: Recording(seal(key))
    try:
        first, second, _ = planes()
    finally:
        control.coordinator_seal = seal
    for plane in (first, second):
        plane.say(HELLO)
    hear([first, second], Start)
    second.say(Ready(0))
    while len(recorded) < 3:
        first.hear()
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.connect(f"tcp://127.0.0.1:{port}")
    replay = list(recorded)
    try:
        for frame in replay:
            stranger.send(frame)
        while len(recorded) < 6:
            assert first.hear() == []
        assert first.refused == {"forged": 2}, "the hello alone is authentic, and leads nowhere"
    finally:
        context.destroy(linger=0)
    first.say(Ready(0))
    assert hear([first, second], Go)


def test_a_last_word_waits_for_the_welcome(port):
    """A machine that fails at once is heard, though its words wait for machine 0's welcome."""
    second = member(1, f"tcp://127.0.0.1:{port}", KEY)
    machine0 = coordinator(port, KEY)
    try:
        second.say(Failed(SECRET, True))
        leaving = threading.Thread(target=second.close)
        leaving.start()
        assert aborted([machine0]) == [SECRET]
        leaving.join(5)
    finally:
        machine0.close()


def test_a_last_word_waits_for_a_machine_0_that_is_there_but_busy(port, monkeypatch):
    monkeypatch.setattr(control, "_LAST_WORD_S", 0.2)
    machine0 = coordinator(port, KEY)
    second = member(1, f"tcp://127.0.0.1:{port}", KEY)
    try:
        second.say(Failed(SECRET, True))
        leaving = threading.Thread(target=second.close)
        leaving.start()
        time.sleep(0.6)  # it prepares data
        assert leaving.is_alive()
        assert aborted([machine0]) == [SECRET]
        leaving.join(5)
    finally:
        machine0.close()


@pytest.mark.parametrize("towards", ["machine 0", "machine 1"])
def test_altered_words_end_the_run_on_both_sides(planes, towards):
    """Nobody waits for a word that was refused."""
    first, second, _ = planes()
    for plane in (first, second):
        plane.say(HELLO)
    hear([first, second], Start)
    altering = (first if towards == "machine 0" else second)._wire.seal
    real = altering.open

    def alter(who, frame):
        return real(who, frame[:-1] + bytes([frame[-1] ^ 1]))

    altering.open = alter
    for plane in (first, second):
        plane.say(Ready(0))
    if towards == "machine 1":
        assert hear([first], Go) and "altered" in aborted([second])[0]
        second.close()  # as a supervisor does that has to end
        assert "its connection broke" in aborted([first])[0]
    else:
        assert all("altered" in text for text in aborted([first, second]))
    assert altering.refused["forged"] == 1


def test_a_word_that_was_taken_out_is_missed(planes):
    first, second, _ = planes()
    for plane in (first, second):
        plane.say(HELLO)
    hear([first, second], Start)
    second._wire.seal.seal(b"", b'{"machine": 1, "ready": 0}')  # sealed, and never sent
    second.say(Saved(4))
    assert all("not all" in text for text in aborted([first, second]))
    assert first.refused == {"missing": 1}


def test_a_machine_speaks_for_itself_only(port):
    planes = [coordinator(port, KEY), member(1, f"tcp://127.0.0.1:{port}", KEY)]
    planes[0]._agreement.mapping = Mapping((1, 1, 1))
    planes[0]._agreement.alive = {0, 1, 2}
    try:
        planes[0].say(HELLO)
        planes[1]._machine = 2
        planes[1].say(HELLO)
        planes[1].say(Failed("I say so"))
        planes[1]._machine = 1
        planes[1].say(HELLO)
        until = time.monotonic() + 10
        while planes[0].missing() != [2] and time.monotonic() < until:
            assert planes[0].hear() == planes[1].hear() == []
        assert planes[0].missing() == [2]
    finally:
        for plane in planes:
            plane.close()


@pytest.mark.parametrize("theirs", [OTHER, None])
def test_who_may_have_another_key_is_known_by_its_hello_alone(port, theirs):
    """A scanner's words raise no doubt: they would end a run that only waits."""
    planes = [coordinator(port, KEY)]
    (first,) = planes
    first.say(HELLO)
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.connect(f"tcp://127.0.0.1:{port}")
    try:
        for word in (b"GET / HTTP/1.1", b"{}", b'{"machine": 1}', b"DPY1H", b"DPY1H" + bytes(200)):
            stranger.send(word)
        until = time.monotonic() + 10
        while sum(first.refused.values()) < 5 and time.monotonic() < until:
            assert first.hear() == []
        assert first.doubted == set()
        planes.append(member(1, f"tcp://127.0.0.1:{port}", theirs))
        planes[1].say(HELLO)
        while not first.doubted and time.monotonic() < until:
            first.hear()
        assert first.doubted == {1}
    finally:
        context.destroy(linger=0)
        for plane in planes:
            plane.close()


def test_another_hello_on_a_connection_changes_nothing(planes):
    first, second, _ = planes()
    for plane in (first, second):
        plane.say(HELLO)
    hear([first, second], Start)
    stranger = Initiator(RunKey(KEY), Party(1, -1, b"another."), (0, -1))
    second._wire.socket.send(stranger.hello)
    until = time.monotonic() + 10
    while not first.refused and time.monotonic() < until:
        assert first.hear() == []
    assert first.refused == {"foreign": 1}
    for plane in (first, second):
        plane.say(Ready(0))
    assert hear([first, second], Go)


def test_machine_0_gone_before_its_welcome_hints_at_the_key(planes):
    first, second, _ = planes(KEY, OTHER)
    second.say(HELLO)
    until = time.monotonic() + 10
    while not first.refused and time.monotonic() < until:
        first.hear()
    first.close()
    (said,) = aborted([second])
    assert "machine 0 is gone" in said and "same run key" in said
    assert json.dumps(said).isascii()
