"""When nodes are evaluated, and the layout of the memory that workers share."""

import mmap
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.memory.shared import ArenaPlan, Counters, create, resize
from decentralizepy.settings import Intervals

plans = st.builds(
    ArenaPlan,
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    st.integers(0, 100),
)


@given(st.integers(0, 40), st.integers(0, 50), st.integers(0, 50))
def test_evaluations_are_at_1_t_2t_and_the_last(iterations, test_after, train_after):
    intervals = Intervals(iterations, test_after, train_after)
    all_of_them = range(1, iterations + 1)
    for due, every in ((intervals.test, test_after), (intervals.train, train_after)):
        expected = set(range(every, iterations + 1, every)) | {1, iterations} if every else set()
        assert {t for t in all_of_them if due(t)} == expected & set(all_of_them)
    assert all(intervals.due(t) == (intervals.test(t) or intervals.train(t)) for t in all_of_them)


def test_evaluations_by_hand():
    assert [t for t in range(1, 13) if Intervals(12, 5, 0).test(t)] == [1, 5, 10, 12]
    assert not any(Intervals(12, -1, 0).due(t) for t in range(1, 13))


@given(plans)
def test_rows_of_workers_do_not_meet(plan):
    blocks = [plan.own_rows(worker) for worker in range(plan.workers)]
    assert [row for block in blocks for row in block] == list(range(sum(plan.rows)))
    for nodes, block in zip(plan.nodes, blocks, strict=True):
        assert len(block) >= 2 * nodes  # the rows of this round and of the next


@given(plans)
def test_rows_start_on_cache_lines_behind_the_counters(plan):
    assert plan.stride >= max(plan.length, 1) and 4 * plan.stride % 64 == 0
    assert plan.control_bytes % mmap.PAGESIZE == 0 and plan.control_bytes >= 8 * plan.control_words
    rings = 8 * plan.ring_words * plan.workers**2
    assert plan.rows_start >= plan.control_bytes + rings and plan.rows_start % 64 == 0
    assert plan.nbytes == plan.rows_start + 4 * plan.stride * sum(plan.rows)


def sized(plan):
    """The shared file of a plan, as a supervisor makes it."""
    fd = create()
    resize(fd, plan)
    return fd


@pytest.fixture
def counters():
    """Two views of one memory, as two processes have them."""
    plan = ArenaPlan((2, 3), 10)
    fd = sized(plan)
    assert os.fstat(fd).st_size == plan.nbytes and not os.pread(fd, plan.nbytes, 0).strip(b"\0")
    yield plan, *(Counters(mmap.mmap(fd, plan.control_bytes), plan) for _ in range(2))
    os.close(fd)


def test_every_counter_has_a_place_of_its_own(counters):
    plan, mine, theirs = counters
    assert [theirs.busy_with(worker) for worker in range(2)] == [None, None]
    for i in range(5):
        mine.rounds[i] = 100 + i
    for worker in range(2):
        mine.busy(worker, worker, 7 + worker)
    for row in range(sum(plan.rows)):
        for _ in range(row):
            mine.release(0, row)
        theirs.release(1, row)
    assert list(theirs.rounds) == [100, 101, 102, 103, 104]
    assert [theirs.busy_with(worker) for worker in range(2)] == [(0, 7), (1, 8)]
    assert [mine.released(row) for row in range(sum(plan.rows))] == [
        row + 1 for row in range(sum(plan.rows))
    ]


def test_memory_has_no_name_and_costs_nothing_until_touched():
    fd = sized(ArenaPlan((16,), 1_000_000))
    try:
        status = os.fstat(fd)
        assert status.st_size > 200_000_000 and status.st_blocks == 0 and status.st_nlink == 0
    finally:
        os.close(fd)
