"""Messages that wait: what a node hears and when, against a plain list of what was sent."""

import json
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from decentralizepy.engine.mailbox import Mailbox
from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.effects import ANY, Receive, Train
from decentralizepy.node.mail import Mail

rounds = st.tuples(st.integers(0, 2), st.integers(0, 1))
senders = st.integers(-1, 4)
named = st.builds(Receive, st.lists(senders, unique=True, max_size=5), rounds | st.just(ANY))
counted = st.builds(Receive, st.just(ANY), rounds | st.just(ANY), st.none() | st.integers(1, 4))
puts = st.tuples(st.just("put"), senders, rounds)
takes = st.tuples(st.just("take"), named | counted, st.sampled_from(["", "lost", "deadline"]))
forgets = st.tuples(st.just("forget"), rounds)
#: a checkpoint is written and read
saves = st.just(("save",))
#: a deadline passes before node 0 speaks
LATE = ("take", Receive([0], (1, 0)), "deadline")


def message(sender, round_=(0, 0), text=""):
    return Message({}, {"text": text}, sender, round_)


def filled(*messages, mail=None):
    box = Mailbox(mail)
    for one in messages:
        box.put(one)
    return box


class Listed:
    """What a mailbox is for, as a list in the order of arrival."""

    def __init__(self, newest=None):
        self.newest, self.waiting = newest, []
        self.before, self.closed = (0, 0), set()

    def put(self, one):
        key = one.round, one.sender
        if one.round < self.before:
            return False
        if key in self.closed:
            return False
        mine = [old for old in self.waiting if old.sender == one.sender]
        if self.newest is not None and len(mine) >= self.newest:
            self.waiting.remove(mine[0])
        self.waiting.append(one)
        return True

    def fitting(self, wanted):
        return [one for one in self.waiting if wanted.round is ANY or one.round == wanted.round]

    def absent(self, wanted):
        self.closed = {  # but of those that are asked again
            (round_, uid)
            for round_, uid in self.closed
            if uid not in wanted.sources or wanted.round not in (ANY, round_)
        }
        return set(wanted.sources) - {one.sender for one in self.fitting(wanted)}

    def take(self, wanted, reason):
        """(messages, who is missing)"""
        there, absent = self.fitting(wanted), []
        if wanted.sources is ANY:
            found = there[: wanted.count]
        else:
            absent = sorted(self.absent(wanted))
            there.sort(key=lambda one: one.round)  # stable: then as they came
            firsts = {one.sender: one for one in reversed(there)}
            found = [firsts[uid] for uid in wanted.sources if uid in firsts]
        found.sort(key=lambda one: (one.sender, one.round))
        self.waiting = [one for one in self.waiting if one not in found]
        if reason == "deadline" and wanted.round is not ANY:
            self.closed |= {(wanted.round, uid) for uid in absent}
        return found, absent

    def forget(self, before):
        self.before = max(self.before, before)
        self.waiting = [one for one in self.waiting if one.round >= before]
        self.closed = {key for key in self.closed if key[0] >= before}


@given(st.none() | st.integers(1, 3), st.lists(puts | puts | takes | forgets | saves, max_size=40))
@example(1, [("put", 1, (0, 0)), ("forget", (1, 0)), ("put", 1, (1, 0)), ("put", 1, (1, 0))])
@example(2, [("put", 1, (0, 1)), ("put", 1, (0, 0)), ("forget", (0, 1)), ("put", 1, (0, 1))])
@example(None, [LATE, ("take", Receive([0], (1, 0)), ""), ("put", 0, (1, 0))])
@example(None, [LATE, ("take", Receive([1], (1, 0)), ""), ("put", 0, (1, 0))])
@example(None, [LATE, ("take", Receive([0], ANY), ""), ("put", 0, (1, 0))])
@example(None, [LATE, ("put", 0, (1, 0)), ("put", 0, (1, 0))])
@example(None, [LATE, ("forget", (1, 0)), ("save",), ("put", 0, (1, 0)), ("put", 0, (0, 1))])
def test_like_a_list_of_what_was_sent(newest, steps):
    box, listed = Mailbox(Mail(newest)), Listed(newest)
    for kind, *rest in steps:
        if kind == "put":
            one = message(*rest)
            assert box.put(one) == listed.put(one)
        elif kind == "forget":
            box.forget(*rest)
            listed.forget(*rest)
        elif kind == "save":
            box = _resumed(box, newest)
        else:
            _check_take(box, listed, *rest)
        assert len(box) == box.number(ANY) == len(listed.waiting)
        assert box.waiting() == listed.waiting


def _resumed(box, newest):
    unwanted = json.loads(json.dumps(box.unwanted()))
    found = filled(*box.waiting(), mail=Mail(newest))
    found.refuse(unwanted)
    return found


def _check_take(box, listed, wanted, reason):
    assert box.number(wanted.round) == len(listed.fitting(wanted))
    if wanted.sources is not ANY:
        assert box.absent(wanted) == listed.absent(wanted)
        assert box.absent(wanted, frozenset({1, 2})) == listed.absent(wanted) - {1, 2}
    found, absent = listed.take(wanted, reason)
    heard = box.take(wanted, reason)
    assert [item for item in heard if isinstance(item, Message)] == found
    assert [item for item in heard if isinstance(item, Missing)] == [
        Missing(uid, reason) for uid in absent
    ]
    assert [item.sender for item in heard] == sorted(item.sender for item in heard)


def test_an_empty_mailbox():
    box = Mailbox()
    assert len(box) == 0 and box.take(Receive(ANY, ANY)) == []
    assert not box.absent(Receive([], (0, 0))) and not box.absent(Receive([], ANY))
    assert box.absent(Receive([1], (0, 0))) == {1} and box.number(ANY) == 0
    assert box.take(Receive([2, 1], (0, 0)), "lost") == [Missing(1, "lost"), Missing(2, "lost")]


def test_neighbours_are_heard_in_ascending_order_whenever_they_came():
    box = filled(message(3), message(-1), message(2))
    heard = box.take(Receive([3, 2, -1], (0, 0)))
    assert [one.sender for one in heard] == [-1, 2, 3] and len(box) == 0


def test_later_rounds_wait():
    early, late = message(1, (0, 0)), message(1, (1, 0))
    box = filled(late, early)
    assert box.absent(Receive([1], (0, 1))) == {1}
    assert box.take(Receive([1], (0, 0))) == [early]
    assert box.absent(Receive([1], (0, 0))) == {1} and not box.absent(Receive([1], (1, 0)))
    assert box.take(Receive([1], ANY)) == [late] and len(box) == 0


def test_of_a_named_source_only_the_oldest_is_taken():
    first, second = message(1, text="first"), message(1, text="second")
    box = filled(first, second)
    assert box.take(Receive([1], (0, 0))) == [first]
    assert box.take(Receive([1], (0, 0))) == [second]


def test_any_takes_all_or_those_that_came_first():
    messages = [message(uid, (t, 0)) for t in (1, 0) for uid in (2, 0)]
    assert [one.sender for one in filled(*messages).take(Receive(ANY, ANY))] == [0, 0, 2, 2]
    box = filled(*messages)
    taken = box.take(Receive(ANY, ANY, count=3))
    assert [(one.sender, one.round[0]) for one in taken] == [(0, 1), (2, 0), (2, 1)]
    assert box.waiting() == [messages[3]], "node 0 said that last"


@pytest.mark.parametrize("newest", [None, 1, 3])
@pytest.mark.parametrize("wanted", [Receive(ANY, (0, 0), count=1), Receive(ANY, ANY, count=3)])
def test_hearing_a_few_of_many_looks_at_all_of_them_only_once(newest, wanted, monkeypatch):
    looks, line_up = [], Mailbox._queue_of
    monkeypatch.setattr(Mailbox, "_queue_of", lambda *of: looks.append(of) or line_up(*of))
    box = filled(*(message(sender) for sender in range(800)), mail=Mail(newest))
    heard = []
    while len(box):
        heard += box.take(wanted)
    assert [one.sender for one in heard] == list(range(800))
    assert len(looks) == 1


@pytest.mark.parametrize("newest", [None, 1, 3])
def test_a_long_run_of_all_ways_of_hearing_leaves_nothing_behind(newest):
    box, listed = Mailbox(Mail(newest)), Listed(newest)
    for t in range(1000):
        for sender in (2, 1, 0):
            one = message(sender, (t, 0))
            assert box.put(one) == listed.put(one)
        for wanted in (
            Receive(ANY, ANY, count=1), Receive([0], (t, 0)), Receive(ANY, (t, 0), count=1),
            Receive([1], (t, 1)),
        ):  # fmt: skip
            _check_take(box, listed, wanted, "deadline")
        box.forget((t - 3, 0))
        listed.forget((t - 3, 0))
    assert len(box._queues) < 10
    assert max(map(len, [*box._queues.values(), *box._by_sender.values()])) < 100


@pytest.mark.parametrize("round_", [(0, 0), ANY])
def test_a_source_that_is_named_twice_is_refused(round_):
    """The second time it would be missing, or not, as its messages come."""
    with pytest.raises(ValueError, match="Receive: sources hold node 3 twice; one message"):
        Mailbox().absent(Receive([1, 3, 2, 3], round_))


def test_what_a_deadline_missed_is_dropped_when_it_comes():
    box = filled(message(1))
    wanted = Receive([1, 2], (0, 0), deadline=1.0)
    assert box.take(wanted, "deadline")[1] == Missing(2, "deadline")
    assert not box.put(message(2)) and not box.put(message(2)) and len(box) == 0
    assert box.put(message(2, (0, 1))), "only of that round"
    assert box.put(message(1)), "who was heard in time may say more"
    box.take(Receive([3], (5, 0)), "lost")
    assert box.put(message(3, (5, 0))), "nobody was too late"


@pytest.mark.parametrize("round_", [(0, 0), ANY])
def test_who_is_asked_for_again_is_heard_however_late(round_):
    box = Mailbox()
    box.take(Receive([1, 2], (0, 0)), "deadline")
    assert not box.put(message(2)) and box.absent(Receive([2], round_)) == {2}
    assert box.put(message(2)) and box.put(message(2)), "all that it says from now on"
    assert not box.put(message(1)), "the other was not asked for"


def test_a_sender_that_is_far_behind_is_late_in_every_round_that_ended():
    box = Mailbox()
    for t in range(5000):
        box.take(Receive([1, 2], (t, 0)), "deadline")
    box.absent(Receive([2, 3], (1500, 0)))  # asked for again
    late = [box.put(message(sender, (t, 0))) for t in range(6000) for sender in (1, 2)]
    assert sum(late) == len(late) - 2 * 5000 + 1
    assert [one.round[0] for one in box.waiting()] == [1500, *(t // 2 for t in range(10000, 12000))]


def test_what_ended_by_deadlines_takes_little_memory():
    """Whether a sender says something later or never does; and none once all is forgotten."""
    box, rounds = Mailbox(), 100_000
    tracemalloc.start()
    for t in range(rounds):
        box.take(Receive([1, 2], (t, 0)), "deadline")
    spent, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spent < rounds
    for t in range(rounds - 2000):
        box.put(message(1, (t, 0)))
    assert len(box) == 0
    box.forget((rounds - 2000, 0))
    assert not box.put(message(2, (rounds - 2001, 0)))
    assert not box.put(message(1, (rounds - 1, 0))) and box.put(message(1, (rounds, 0)))
    box.forget((rounds + 1024, 0))
    assert not box._closed


def test_only_the_newest_of_each_sender_wait():
    said = [message(uid, (t, 0), str(t)) for t in range(5) for uid in (1, 2)]
    box = filled(*said, mail=Mail(newest=2))
    assert box.waiting() == said[-4:]
    assert [one.round for one in box.take(Receive([1, 2]))] == [(3, 0), (3, 0)]
    assert box.put(message(1, (9, 0))) and len(box) == 3
    with pytest.raises(ValueError, match="newest = 0"):
        Mail(newest=0)


def test_nothing_is_kept_of_a_mailbox_that_is_cleared():
    box = filled(message(1), message(2), mail=Mail(newest=1))
    box.clear()
    assert len(box) == 0 and box.waiting() == [] and box.take(Receive(ANY, ANY)) == []
    assert box.put(message(1)) and box.number((0, 0)) == 1


def test_effects_are_plain_values():
    assert Train(3) == Train(3) and Receive(ANY, ANY) == Receive(ANY, ANY) != Receive([], ANY)
    with pytest.raises(AttributeError):
        Train(3).iteration = 4
