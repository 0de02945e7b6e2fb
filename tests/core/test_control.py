"""How machines agree: the decisions as a pure state machine, and the sockets around them."""

import itertools
import json
import socket
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.codec import encode
from decentralizepy.errors import ConfigError
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.node.membership import Epoch
from decentralizepy.settings import Resilience
from decentralizepy.supervision.agreement import MOST_VAIN, Agreement
from decentralizepy.supervision.control import Alone, Coordinator, Member, connect
from decentralizepy.words import (
    Abort,
    Complete,
    Done,
    End,
    Ended,
    Failed,
    Go,
    Hello,
    Leave,
    Leaving,
    Lost,
    Pause,
    Paused,
    Ready,
    Rollback,
    Saved,
    Start,
)  # fmt: skip

DIGESTS = {"INI file (a.ini)": "1", "graph (a.edges)": "2"}


def hello(workers=1, **digests):
    return Hello(workers, {**DIGESTS, **digests}, {})


def agreement_of(machines, **resilience):
    """The agreement of machines with two nodes each."""
    return Agreement(Mapping((2,) * machines), Resilience(**resilience))


def plane_of(machine, addresses, port):
    """The control plane of a machine with four nodes per machine."""
    settings = SimpleNamespace(
        machine=machine, addresses=addresses, mapping=Mapping((4,) * len(addresses)),
        resilience=Resilience(), experiment=SimpleNamespace(offset=port), key=None,
    )  # fmt: skip
    return connect(settings)


def start(*workers):
    """What is announced once all machines with so many workers have said hello."""
    return [Start(workers, 0, (), 0)]


def orders(most=5):
    return st.integers(1, most).flatmap(lambda n: st.permutations(range(n)))


def started(machines):
    agreement = agreement_of(machines)
    for machine in range(machines):
        agreement.take(machine, hello())
    return agreement


# ---------------------------------------------------------------- decisions


@given(orders())
def test_all_hellos_in_any_order_give_the_workers_by_machine(order):
    agreement = agreement_of(len(order))
    said = [agreement.take(machine, hello(10 + machine)) for machine in order]
    assert said[:-1] == [[]] * (len(order) - 1)
    assert said[-1] == start(*(10 + machine for machine in range(len(order))))
    assert agreement.missing() == []


@given(orders(), st.data())
def test_missing_machines_are_known_at_any_time(order, data):
    agreement = agreement_of(len(order))
    here = order[: data.draw(st.integers(0, len(order)))]
    for machine in here:
        agreement.take(machine, hello())
    assert agreement.missing() == sorted(set(order) - set(here))


@given(orders().filter(lambda order: len(order) > 1), st.data())
def test_another_experiment_is_found_in_any_order(order, data):
    odd = data.draw(st.sampled_from(order))
    key, value = data.draw(st.sampled_from([*((key, "9") for key in DIGESTS), ("new key", "1")]))
    agreement = agreement_of(len(order))
    said = []
    for machine in order:
        said += agreement.take(machine, hello(**({key: value} if machine == odd else {})))
    (abort,) = said
    assert abort.config and f"different {key}; give all machines" in abort.why
    assert f"machine {odd}" in abort.why and agreement.over


def test_all_that_differs_is_listed():
    agreement = agreement_of(2)
    agreement.take(0, hello())
    (abort,) = agreement.take(1, Hello(1, {"INI file (b.ini)": "1"}, {}))
    for key in ("INI file (a.ini)", "graph (a.edges)", "INI file (b.ini)"):
        assert key in abort.why


@given(orders(), st.data())
def test_go_and_end_come_once_when_the_last_machine_says_so(order, data):
    """Whatever is said twice, and however the machines' words interleave."""
    n = len(order)
    agreement = started(n)
    said = [agreement.take(machine, Ready(0)) for machine in [*order] * 2]
    assert said == [[]] * (n - 1) + [[Go()]] + [[]] * n
    dones = [*order[:-1], *order[:-1], order[-1], *order]
    said = [agreement.take(machine, Done(0)) for machine in dones]
    assert list(itertools.chain(*said)) == [End()] and said[2 * n - 2] == [End()]
    assert agreement.over


def test_a_machine_may_be_done_before_another_is_ready():
    agreement = started(2)
    assert agreement.take(0, Ready(0)) == []
    assert agreement.take(1, Ready(0)) == [Go()]
    assert agreement.take(1, Done(0)) == []
    assert agreement.take(0, Done(0)) == [End()]


def test_two_machines_of_one_number():
    agreement = agreement_of(3)
    agreement.take(1, hello())
    (abort,) = agreement.take(1, hello())
    assert abort.why == "two machines claim to be machine 1 (-mid)" and abort.config


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["failed", "lost", "hello"]))))
def test_an_abort_is_the_last_word(events):
    agreement = started(3)
    said = []
    for machine, what in events:
        if what == "lost":
            said += agreement.lost(machine)
        else:
            said += agreement.take(machine, hello() if what == "hello" else Failed("why"))
    assert len(said) == bool(events) and all(isinstance(news, Abort) for news in said)
    assert agreement.take(0, Done(0)) == [] or not events


def test_failures_are_passed_on_with_their_kind():
    assert started(2).take(1, Failed("no disk")) == [Abort("no disk")]
    (abort,) = started(2).take(1, Failed("no key", True))
    assert abort.config


def test_who_goes_before_the_end_is_lost_even_if_it_was_done():
    """Others may still wait for what it had to send."""
    for machine in range(2):
        agreement = started(2)
        agreement.take(1, Done(0))
        (abort,) = agreement.lost(machine)
        assert f"machine {machine} is gone" in abort.why and not abort.config


# ---------------------------------------------------------------- losses


def going(machines, **resilience):
    agreement = agreement_of(machines, **resilience)
    for machine in range(machines):
        agreement.take(machine, hello())
    said = [agreement.take(machine, Ready(0)) for machine in range(machines)]
    assert said[-1] == [Go()]
    return agreement


def epoch(before, left, workers, why):
    return [Leave(Leaving(before, tuple(left), why, tuple(workers)))]


def loss(uids, worker, why="it died"):
    return Lost(tuple(uids), (tuple(worker),), why)


def test_drop_waits_until_all_rest_and_leaves_after_what_was_sent():
    agreement = going(3, on_loss="drop")
    assert agreement.take(1, loss([2], [1, 0])) == [Pause(1)]
    assert agreement.take(0, Paused(1, 7)) == []
    assert agreement.take(2, Paused(1, 9)) == []
    said = agreement.take(1, Paused(1, 8))
    assert said == epoch(10, [2], [(1, 0)], "it died (node 2)")
    assert agreement.membership.at(9) is None
    assert agreement.membership.at(10) == {0, 1, 3, 4, 5}


def test_drop_of_a_whole_machine_goes_on_with_the_others():
    agreement = going(3, on_loss="drop")
    assert agreement.lost(1) == [Pause(1)]
    agreement.take(0, Paused(1, 3))
    (said,) = agreement.take(2, Paused(1, 2))
    assert said.who.left == (2, 3) and said.who.before == 4
    assert agreement.take(1, Done(0)) == []  # it no longer counts
    assert agreement.take(0, Saved(5)) == []
    assert agreement.take(2, Saved(5)) == [Complete(5)]
    assert agreement.take(0, Done(0)) == []
    assert agreement.take(2, Done(0)) == [End()]


def test_a_machine_whose_nodes_have_ended_is_in_all_later_checkpoints():
    agreement = going(3)
    assert agreement.take(0, Saved(2)) == agreement.take(1, Saved(2)) == []
    assert agreement.take(0, Saved(4)) == agreement.take(1, Saved(4)) == []
    assert agreement.take(2, Ended(4)) == [Complete(4)], "not the one before: it has to say so"
    assert agreement.take(2, Saved(2)) == [Complete(2)]
    assert agreement.take(0, Saved(6)) == []
    assert agreement.take(1, Saved(6)) == [Complete(6)]


def test_all_workers_of_a_lost_machine_are_dead():
    agreement = agreement_of(2, on_loss="drop")
    for machine, workers in enumerate((1, 2)):
        agreement.take(machine, hello(workers))
    for machine in range(2):
        agreement.take(machine, Ready(0))
    agreement.lost(1)
    (said,) = agreement.take(0, Paused(1, 5))
    assert said.who.workers == ((1, 0), (1, 1))


def test_a_second_loss_while_all_rest_asks_again():
    agreement = going(3, on_loss="drop")
    agreement.take(0, loss([0], [0, 1], "first"))
    agreement.take(0, Paused(1, 3))
    assert agreement.lost(2) == [Pause(2)]
    assert agreement.take(1, Paused(1, 9)) == []  # an answer to the first question
    assert agreement.take(1, Paused(2, 4)) == []
    (said,) = agreement.take(0, Paused(2, 3))
    assert said.who.left == (0, 4, 5) and said.who.before == 5
    assert "first" in said.who.why and "machine 2 is gone" in said.who.why


def test_the_end_waits_for_an_epoch_under_way():
    agreement = going(2, on_loss="drop")
    agreement.take(0, loss([1], [0, 1]))
    assert agreement.take(0, Done(0)) == [] == agreement.take(1, Done(0))
    agreement.take(0, Paused(1, 3))
    said = agreement.take(1, Paused(1, 3))
    assert [type(news) for news in said] == [Leave, End]


def test_when_nobody_is_left_the_run_fails():
    agreement = going(2, on_loss="drop")
    agreement.take(0, loss([0, 1], [0, 0]))
    (abort,) = agreement.take(1, loss([2, 3], [1, 0]))
    assert "no node is left" in abort.why


@pytest.mark.parametrize("policy", ["fail", "drop", "wait"])
def test_without_machine_0_there_is_no_run(policy):
    (abort,) = going(2, on_loss=policy).lost(0)
    assert "machine 0 is gone" in abort.why


@pytest.mark.parametrize("policy", ["fail", "drop", "wait"])
def test_a_loss_before_the_start_fails(policy):
    agreement = agreement_of(2, on_loss=policy)
    agreement.take(0, hello())
    (abort,) = agreement.lost(1)
    assert "machine 1 is gone" in abort.why


def with_sets(*iterations, left=(), attempt=None):
    return replace(hello(), sets={t: tuple(left) for t in iterations}, attempt=attempt)


def test_wait_goes_back_to_the_newest_set_that_all_have():
    agreement = going(2, on_loss="wait")
    (said,) = agreement.lost(1)
    assert said.attempt == 1 and "machine 1 is gone" in said.why
    assert agreement.take(0, with_sets(20, 30, attempt=1)) == []
    assert agreement.take(0, Done(0)) == []  # of before
    (said,) = agreement.take(1, with_sets(10, 20))  # a new process, which knows no attempt
    assert (said.iteration, said.attempt) == (20, 1)
    agreement.take(0, Ready(1))
    assert agreement.take(1, Ready(1)) == [Go()]


def test_hellos_of_before_a_rollback_do_not_count():
    agreement = going(2, on_loss="wait")
    agreement.take(1, loss([2], [1, 0]))
    assert agreement.take(0, with_sets(attempt=1)) == []
    agreement.take(1, loss([3], [1, 1]))
    assert agreement.take(0, with_sets(attempt=1)) == [] and agreement.missing() == [0, 1]


def test_who_does_not_come_back_in_time_fails_the_run():
    seconds = [0.0]
    agreement = going(2, on_loss="wait", wait_limit=30.0)
    agreement.now = lambda: seconds[0]
    agreement.lost(1)
    agreement.take(0, with_sets(10, attempt=1))
    seconds[0] = 29.0
    assert agreement.tick() == []
    seconds[0] = 31.0
    (abort,) = agreement.tick()
    assert abort.why == "machine 1 did not come back within 30 s (wait_limit)"


def test_losing_again_and_again_without_progress_ends():
    agreement = going(1, on_loss="wait")
    said = []
    for number in range(1, MOST_VAIN + 2):
        agreement.take(0, loss([0], [0, 0]))
        said = agreement.take(0, with_sets(10, attempt=number))
        agreement.take(0, Ready(number))
    assert isinstance(said[0], Abort) and "since iteration 10" in said[0].why


def test_a_run_resumed_after_a_drop_needs_no_set_of_who_left():
    left = (Epoch(7, (2, 3), "machine 1 is gone"),)
    agreement = agreement_of(2)
    agreement.take(0, with_sets(10, left=left))
    (said,) = agreement.take(1, with_sets())
    assert said.iteration == 10 and said.left == left
    assert agreement.membership.at(10) == {0, 1}


def test_alone():
    plane = plane_of(0, ("127.0.0.1",), 9000)
    assert isinstance(plane, Alone) and plane.hear() == []
    plane.say(hello(4))
    assert plane.hear() == start(4) and plane.hear() == []
    for word, answer in ((Ready(0), Go()), (Done(0), End())):
        plane.say(word)
        assert plane.hear() == [answer]
    plane.close()


# ---------------------------------------------------------------- sockets


@pytest.fixture
def cluster():
    """Make control planes of a run on 127.0.0.1 and above; all are closed at the end."""
    made = []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def make(machine, machines=2):
        made.append(plane_of(machine, tuple(f"127.0.0.{m + 1}" for m in range(machines)), port))
        return made[-1]

    make.port = port
    yield make
    for plane in made:
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


def test_a_run_of_three_machines_starts_and_ends(cluster):
    late = cluster(2, 3)  # before machine 0 is there
    assert isinstance(late, Member)
    late.say(hello(3))
    planes = [cluster(0, 3), cluster(1, 3), late]
    assert isinstance(planes[0], Coordinator) and planes[0].missing() == [0, 1, 2]
    planes[0].say(hello(1))
    planes[1].say(hello(2))
    assert [one.workers for one in hear(planes, Start)] == [(1, 2, 3)] * 3 and planes[
        0
    ].missing() == []
    for word, answer in ((Ready(0), Go()), (Done(0), End())):
        for plane in planes:
            plane.say(word)
        assert hear(planes, type(answer)) == [answer] * 3
    planes[1].close()
    time.sleep(0.05)
    assert planes[0].hear() == [] == planes[2].hear()  # leaving after the end is no loss
    planes[0].close()
    time.sleep(0.05)
    assert planes[2].hear() == []


@pytest.fixture
def running(cluster):
    """Three machines that have said hello."""
    planes = [cluster(machine, 3) for machine in range(3)]
    for plane in planes:
        plane.say(hello())
    hear(planes, Start)
    return planes


def test_a_machine_that_goes_away_aborts_the_others(running):
    running[1].close()
    before = time.monotonic()
    said = aborted([running[0], running[2]])
    assert said == ["machine 1 is gone: its connection broke"] * 2
    assert time.monotonic() - before < 2


def test_machine_0_going_away_aborts_the_others(running):
    running[0].close()
    assert aborted(running[1:]) == ["machine 0 is gone: its connection broke"] * 2
    assert running[1].hear() == []  # said once


def test_a_failure_reaches_everybody(running):
    running[2].say(Failed("machine 2, worker 0 was killed by SIGKILL", False))
    assert len(set(aborted(running))) == 1


def test_machine_0s_own_failure_reaches_the_others_even_if_it_leaves_at_once(running):
    running[0].say(Failed("machine 0: the disk is full"))
    running[0].close()
    assert aborted(running[1:]) == ["machine 0: the disk is full"] * 2


def test_who_fails_before_its_hello_is_heard(cluster):
    planes = [cluster(machine, 3) for machine in range(3)]
    planes[0].say(hello())
    planes[1].say(hello())
    until = time.monotonic() + 10
    while planes[0].missing() != [2] and time.monotonic() < until:
        planes[0].hear()
    planes[2].say(Failed("machine 2: no data", True))
    assert aborted(planes[:2]) == ["machine 2: no data"] * 2


def test_other_files_on_one_machine(cluster):
    planes = [cluster(0), cluster(1)]
    planes[0].say(hello())
    planes[1].say(hello(**{"graph (a.edges)": "other"}))
    for said in aborted(planes):
        assert "machine 1 does not run the same experiment as machine 0" in said
        assert "different graph (a.edges)" in said


def test_a_second_machine_1(running, cluster):
    cluster(1, 3).say(hello())
    said = aborted(running)
    assert said == ["two machines claim to be machine 1 (-mid)"] * 3


def going_with_wait(cluster):
    """Two machines that train, and would wait for one another."""
    planes = [cluster(0), cluster(1)]
    planes[0]._agreement.resilience = Resilience(on_loss="wait")
    for word, answer in ((hello(), Start), (Ready(0), Go)):
        for plane in planes:
            plane.say(word)
        hear(planes, answer)
    return planes


def test_a_machine_that_is_back_before_it_was_seen_to_go(cluster):
    """It lost its power, and the connection of before looks alive: ``wait`` lets it come back."""
    planes = going_with_wait(cluster)
    again = cluster(1)
    again.say(hello())
    assert hear([planes[0]], Rollback)[0].attempt == 1
    assert "started anew" in aborted([planes[1]])[0]
    planes[0].say(replace(hello(), attempt=1))
    assert [one.workers for one in hear([planes[0], again], Start)] == [(1, 1)] * 2


def test_a_machine_that_comes_back_with_other_files_does_not_end_a_run_that_waits(cluster):
    planes = going_with_wait(cluster)
    planes[1].close()
    hear([planes[0]], Rollback)
    planes[0].say(replace(hello(), attempt=1))
    wrong = cluster(1)
    wrong.say(hello(**{"graph (a.edges)": "other"}))
    until = time.monotonic() + 10
    said = []
    while not said and time.monotonic() < until:
        assert planes[0].hear() == []
        said = wrong.hear()
    assert said[0].config and "different graph (a.edges)" in said[0].why
    wrong.close()
    right = cluster(1)
    right.say(hello())
    assert [one.workers for one in hear([planes[0], right], Start)] == [(1, 1)] * 2


STRANGERS = """
import socket, sys, time
made = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(60)]
time.sleep(0.2)
"""


def test_connections_that_broke_before_are_not_a_machines(cluster):
    """Strangers come and go while machine 0 prepares data; descriptors are used again."""
    planes = [cluster(0)]
    subprocess.run([sys.executable, "-c", STRANGERS, str(cluster.port)], check=True)
    planes.append(cluster(1))
    for plane in planes:
        plane.say(hello())
    assert planes[0]._wire.socket.poll(5000)  # all of this before machine 0 listens
    assert [one.workers for one in hear(planes, Start)] == [(1, 1)] * 2
    for plane in planes:
        plane.say(Ready(0))
    assert hear(planes, Go)


def garbage():
    """What a stranger may say to the port: lists of frames."""
    texts = [b"", b"\0" * 100, b"{", b"[]", b"7", b"null", b"[" * 60_000, b"\xff\xfe", b"{}"]
    values = [
        {"machine": 1},
        {"machine": 1, "hello": True},
        {"machine": 1, "hello": True, "workers": 1},
        {"machine": 1, "hello": True, "workers": 1, "digests": "x"},
        {"machine": 1, "hello": True, "workers": 1, "digests": ["x"]},
        {"machine": 1, "hello": True, "workers": 0, "digests": {}},
        {"machine": 1, "hello": True, "workers": True, "digests": {}},
        {"machine": 1, "hello": True, "workers": "1", "digests": {}},
        {"machine": 1, "hello": True, "workers": 1, "digests": {}},
        {"machine": 1, "hello": True, "workers": 1, "digests": {}, "sets": []},
        {"machine": 1, "hello": True, "workers": 1, "digests": {}, "sets": {"x": 1}},
        {"machine": 1, "hello": True, "workers": 1, "digests": {}, "sets": {"5": [1]}},
        {"machine": 1, "lost": [0], "workers": [], "why": "I say so"},
        {"machine": 1, "saved": 5},
        {"machine": 1, "paused": 1, "round": 2},
        {"machine": 1, "ready": True},
        {"machine": 1, "done": True},
        {"machine": True, "hello": True, "workers": 1, "digests": {}},
        {"machine": "1", "hello": True, "workers": 1, "digests": {}},
        {"machine": 0, "failed": "I am not machine 0"},
        {"machine": 0, "hello": True, "workers": 1, "digests": {}},
        {"machine": -1, "failed": "nobody"},
        {"machine": 2, "failed": "there is no machine 2"},
        {"machine": [1], "failed": "nobody"},
    ]
    messages = [[text] for text in [*texts, *(json.dumps(value).encode() for value in values)]]
    valid = encode(hello(), machine=1)
    return [*messages, [b"", valid], [valid, valid], [b"x" * (1 << 21)]]


@pytest.fixture
def stranger(cluster):
    """A socket that has nothing to do with the run, connected to machine 0's port."""
    context = zmq.Context()
    made = context.socket(zmq.DEALER)
    made.connect(f"tcp://127.0.0.1:{cluster.port}")
    yield made
    context.destroy(linger=0)


@pytest.mark.parametrize("when", ["before the hello", "after it"])
def test_strangers_are_not_heard(cluster, stranger, when):
    planes = [cluster(0), cluster(1)]
    planes[0].say(hello(1))
    if when == "after it":
        planes[1].say(hello(2))
        assert [one.workers for one in hear(planes, Start)] == [(1, 2)] * 2
    for frames in garbage():
        stranger.send_multipart(frames)
    with socket.create_connection(("127.0.0.1", cluster.port)) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\xff" * 1000)
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            assert planes[0].hear() == []
            time.sleep(0.005)
    stranger.close()
    if when == "before the hello":
        planes[1].say(hello(2))
        assert [one.workers for one in hear(planes, Start)] == [(1, 2)] * 2
    for word, answer in ((Ready(0), Go()), (Done(0), End())):
        for plane in planes:
            plane.say(word)
        assert hear(planes, type(answer)) == [answer] * 2


def speak_zmtp_1(stranger, message):
    """An anonymous peer of ZeroMQ's protocol 1.0 and its message: length, flags, body."""
    stranger.sendall(b"\x01\x00" + bytes([len(message) + 1]) + b"\x00" + message)


def speak_zmtp_2(stranger, message):
    """The same for 2.0: signature, revision 1, DEALER, no identity; flags, length, body."""
    stranger.sendall(b"\xff" + bytes(7) + b"\x01\x7f" + b"\x01\x05" + b"\x00\x00")
    stranger.sendall(b"\x00" + bytes([len(message)]) + message)


@pytest.mark.parametrize("speak", [speak_zmtp_1, speak_zmtp_2])
@pytest.mark.parametrize("message", [b"x", b'{"machine": 1, "failed": "I say so"}'])
def test_strangers_with_an_older_protocol_are_counted_and_not_heard(cluster, speak, message):
    """Their frames do not tell which connection they came on."""
    planes = [cluster(0), cluster(1)]
    planes[0].say(hello())
    with socket.create_connection(("127.0.0.1", cluster.port)) as stranger:
        speak(stranger, message)
        until = time.monotonic() + 10
        while not planes[0].refused and time.monotonic() < until:
            assert planes[0].hear() == []
        assert planes[0].refused == {"malformed": 1}
    planes[1].say(hello())
    assert [one.workers for one in hear(planes, Start)] == [(1, 1)] * 2


def test_connections_that_are_taken_and_closed_are_no_machine_0(cluster):
    """A port forwarder does that while nobody listens behind it."""
    member = cluster(1)
    member.say(hello())
    with socket.create_server(("127.0.0.1", cluster.port)) as forwarder:
        for _ in range(3):
            forwarder.accept()[0].close()
            until = time.monotonic() + 0.1
            while time.monotonic() < until:
                assert member.hear() == []
    planes = [cluster(0), member]
    planes[0].say(hello())
    assert [one.workers for one in hear(planes, Start)] == [(1, 1)] * 2
    planes[0].close()
    assert aborted([member]) == ["machine 0 is gone: its connection broke"]


def test_a_machines_words_count_from_its_own_socket_only(running, cluster):
    impostor = cluster(1, 3)
    impostor.say(Failed("I say so"))
    impostor.say(Done(0))
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        assert running[0].hear() == []
        time.sleep(0.005)


def test_a_port_in_use_is_named(cluster):
    cluster(0)
    with pytest.raises(ConfigError, match=rf"127.0.0.1:{cluster.port}: Address already in use"):
        cluster(0)
    with pytest.raises(ConfigError, match=r"check ip.json, or set another 'offset'"):
        Coordinator(Mapping((1, 1)), Resilience(), "tcp://192.0.2.7:9000")
