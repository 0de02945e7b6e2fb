"""Messages that wait: what a node hears and when, against a plain list of what was sent."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.engine.mailbox import Mailbox, Parcel
from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.effects import ANY, Receive, Train

rounds = st.tuples(st.integers(0, 2), st.integers(0, 1))
senders = st.integers(0, 4)
wishes = st.builds(
    Receive,
    st.lists(senders, unique=True, max_size=5) | st.just(ANY),
    rounds | st.just(ANY),
)
counted = st.builds(Receive, st.just(ANY), rounds | st.just(ANY), st.integers(1, 4))


def parcel(sender, round_=(0, 0), text=""):
    return Parcel(Message({}, {"text": text}, sender, round_))


def filled(*parcels):
    box = Mailbox()
    for one in parcels:
        box.put(one)
    return box


def expected(waiting, wanted):
    """Parcels that a `Receive` takes of those that wait, which are in the order of sending."""
    fitting = [p for p in waiting if wanted.round is ANY or p.message.round == wanted.round]
    fitting.sort(key=lambda p: (p.message.sender, p.message.round))  # stable: then as sent
    if wanted.sources is ANY:
        return fitting[: wanted.count]
    firsts = {p.message.sender: p for p in reversed(fitting) if p.message.sender in wanted.sources}
    return [firsts[sender] for sender in sorted(firsts)]


@given(st.lists(st.tuples(senders, rounds)), st.lists(wishes | counted, max_size=8))
def test_like_a_list_of_what_was_sent(sent, wanteds):
    waiting = [parcel(sender, round_) for sender, round_ in sent]
    box = filled(*waiting)
    for wanted in wanteds:
        found = expected(waiting, wanted)
        least = (wanted.count or 1) if wanted.sources is ANY else len(wanted.sources)
        assert box.complete(wanted) == (len(found) >= least)
        heard, parcels = box.take(wanted, "late")
        assert parcels == found
        assert [item for item in heard if isinstance(item, Message)] == [p.message for p in found]
        gone = [item for item in heard if isinstance(item, Missing)]
        named = [] if wanted.sources is ANY else wanted.sources
        came = {p.message.sender for p in found}
        assert gone == [Missing(uid, "late") for uid in sorted(set(named) - came)]
        assert [item.sender for item in heard] == sorted(item.sender for item in heard)
        waiting = [p for p in waiting if p not in found]
        assert len(box) == len(waiting)


def test_an_empty_mailbox():
    box = Mailbox()
    assert len(box) == 0 and box.take(Receive(ANY, ANY)) == ([], [])
    assert box.complete(Receive([], (0, 0))) and box.complete(Receive([], ANY))
    assert not box.complete(Receive([1], (0, 0))) and not box.complete(Receive(ANY, ANY))
    assert box.take(Receive([2, 1], (0, 0)), "gone")[0] == [Missing(1, "gone"), Missing(2, "gone")]


def test_neighbours_are_heard_in_ascending_order_whenever_they_came():
    box = filled(parcel(3), parcel(1), parcel(2))
    heard, parcels = box.take(Receive([3, 2, 1], (0, 0)))
    assert [message.sender for message in heard] == [1, 2, 3] and len(parcels) == 3


def test_later_rounds_wait():
    early, late = parcel(1, (0, 0)), parcel(1, (1, 0))
    box = filled(late, early)
    assert not box.complete(Receive([1], (0, 1)))
    assert box.take(Receive([1], (0, 0)))[1] == [early]
    assert not box.complete(Receive([1], (0, 0))) and box.complete(Receive([1], (1, 0)))
    assert box.take(Receive([1], ANY))[1] == [late] and len(box) == 0


def test_of_a_named_source_only_the_oldest_is_taken():
    first, second = parcel(1, text="first"), parcel(1, text="second")
    box = filled(first, second)
    assert box.take(Receive([1], (0, 0)))[1] == [first]
    assert box.take(Receive([1], (0, 0)))[1] == [second]


def test_equal_messages_are_told_apart():
    message = Message({}, sender=1)
    one, two = Parcel(message), Parcel(message)
    box = filled(one, two)
    assert box.take(Receive([1], (0, 0)))[1][0] is one
    assert box.take(Receive([1], (0, 0)))[1][0] is two


def test_any_takes_all_or_as_many_as_asked():
    parcels = [parcel(uid, (t, 0)) for t in (1, 0) for uid in (2, 0)]
    assert [p.message.sender for p in filled(*parcels).take(Receive(ANY, ANY))[1]] == [0, 0, 2, 2]
    box = filled(*parcels)
    assert box.complete(Receive(ANY, ANY, 4)) and not box.complete(Receive(ANY, ANY, 5))
    taken = box.take(Receive(ANY, ANY, count=3))[1]
    assert [(p.message.sender, p.message.round[0]) for p in taken] == [(0, 0), (0, 1), (2, 0)]
    assert len(box) == 1


def test_releases_travel_with_the_parcel():
    released = []
    box = filled(Parcel(Message({}, sender=4), lambda: released.append(4)))
    (taken,) = box.take(Receive([4], (0, 0)))[1]
    assert not released
    taken.release()
    assert released == [4]


def test_effects_are_plain_and_frozen():
    assert Train(3) == Train(3) and Receive(ANY, ANY) == Receive(ANY, ANY) != Receive([], ANY)
    with pytest.raises(FrozenInstanceError):
        Train(3).t = 4
