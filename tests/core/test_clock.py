"""Clocks and timers: order by time, node and setting; virtual time only goes forward."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.engine import clock
from decentralizepy.engine.clock import RealClock, Timers, VirtualClock

times = st.floats(0, 100)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.5]) | times, st.integers(-1, 2))),
    st.lists(times),
    st.sets(st.integers(0, 20)),
)
def test_what_is_due_comes_in_the_order_of_time_node_and_setting(whens, nows, cancelled):
    timers = Timers()
    left = []
    for number, (when, uid) in enumerate(whens):
        timer = timers.set(when, (when, uid, number), uid)
        if number in cancelled:
            timer.cancel()
        else:
            left.append((when, uid, number))
    left.sort()
    for now in [*sorted(nows), 101.0]:
        assert timers.next == (left[0][0] if left else None)
        due = [item for item in left if item[0] <= now]
        assert list(timers.due(now)) == due
        left = left[len(due) :]
    assert not left and timers.next is None and list(timers.due(1e9)) == []


def test_timers_never_compare_what_they_carry():
    timers = Timers()
    things = [object(), object()]
    for thing in things:
        timers.set(1.0, thing)
    assert list(timers.due(0.999)) == [] and list(timers.due(1.0)) == things


def test_timers_may_be_set_while_others_are_due():
    timers = Timers()
    timers.set(1.0, "first")
    timers.set(1.0, "second")
    found = []
    for thing in timers.due(1.0):
        found.append(thing)
        if thing == "first":
            timers.set(0.5, "in the past")
    assert found == ["first", "in the past", "second"] and timers.next is None


def test_what_happens_may_cancel_what_would_come_next():
    timers = Timers()
    timers.set(1.0, "answer")
    deadline = timers.set(1.0, "deadline")
    for thing in timers.due(2.0):
        assert thing == "answer"
        deadline.cancel()
    deadline.cancel()  # twice does no harm
    assert timers.next is None


def test_cancelled_timers_take_no_memory_though_one_before_them_is_due_later():
    """Deadlines of an hour that are met at once, while one node waits."""
    timers, live = Timers(), list(range(0, 50_000, 100))
    timers.set(1.0, -1)
    for number in range(50_000):
        timer = timers.set(2.0 + number, number, uid=number % 7)
        if number % 100:
            timer.cancel()
    assert timers.next == 1.0 and len(timers._heap) < 5000
    assert list(timers.due(1e6)) == [-1, *live]


@given(st.lists(times))
def test_virtual_time_never_goes_back(untils):
    virtual = VirtualClock()
    assert virtual.now() == 0.0
    for number, until in enumerate(untils):
        assert virtual.advance(until) is True
        assert virtual.now() == max(untils[: number + 1])
        assert virtual.now() == virtual.now()  # it stands still while nodes work


def test_real_time_passes_by_itself(monkeypatch):
    ticking = iter([50.0, 50.0, 51.5, 51.5, 52.0])
    monkeypatch.setattr(clock.time, "monotonic", lambda: next(ticking))
    real = RealClock()
    assert real.now() == 0.0 and real.now() == 1.5
    assert real.advance(100.0) is False
    assert real.now() == pytest.approx(1.5) and real.now() == 2.0
