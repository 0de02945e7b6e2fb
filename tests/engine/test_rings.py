"""Notices between the workers of a machine through shared memory."""

from __future__ import annotations

import mmap
import multiprocessing
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.mappings.mapping import Mapping
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory import shared
from decentralizepy.memory.arena import Arena
from decentralizepy.memory.rows import RowPool
from decentralizepy.memory.shared import ArenaPlan, Counters
from decentralizepy.messages.message import Message
from decentralizepy.transport.local import LocalSockets
from decentralizepy.transport.rings import Ring, Rings
from decentralizepy.transport.router import Router, Traffic

_WORDS = 64


def any_time(before: int) -> bool:
    return True


def pair() -> tuple[Ring, Ring]:
    """Both ends of one small ring."""
    memory = mmap.mmap(-1, 8 * _WORDS)
    return Ring(memory, 0, _WORDS), Ring(memory, 0, _WORDS)


@given(st.lists(st.one_of(st.none(), st.lists(st.integers(0, 1 << 60), min_size=1, max_size=20))))
def test_a_ring_is_a_queue_that_says_when_it_is_full(steps):
    writer, reader = pair()
    queue: list[tuple[int, ...]] = []
    for step in steps:
        if step is None:
            assert reader.take(any_time) == (queue.pop(0) if queue else None)
        elif writer.put(step):
            queue.append(tuple(step))
        else:
            assert sum(len(entry) + 1 for entry in queue) + len(step) + 1 > (_WORDS - 16) // 2
        assert reader.empty == (not queue) or len(queue) == 0
    for entry in queue:
        assert reader.take(any_time) == entry
    assert reader.take(any_time) is None and reader.empty


@pytest.mark.parametrize("words", range(1, (_WORDS - 16) // 2))
def test_the_longest_entry_fits_wherever_the_ring_ends(words):
    writer, reader = pair()
    longest = tuple(range(writer.longest))
    for _ in range(_WORDS):
        for entry in (tuple(range(words)), longest):
            assert writer.put(entry)
            assert reader.take(any_time) == entry


def test_an_entry_that_never_fits_is_told():
    writer, _ = pair()
    writer.put(range(10))
    with pytest.raises(ValueError, match="a notice of 47 words, more than 23"):
        writer.put(range(47))


def test_an_entry_waits_until_it_fits():
    writer, reader = pair()
    writer.put((3, 7))
    assert reader.take(lambda before: before <= 2) is None and not reader.empty
    assert reader.take(lambda before: before <= 3) == (3, 7)


@pytest.fixture
def memory():
    plan = ArenaPlan((2, 2), 8)
    fd = shared.create()
    shared.resize(fd, plan)
    yield fd, plan
    os.close(fd)


def rings(memory, me: int) -> Rings:
    fd, plan = memory
    return Rings(mmap.mmap(fd, plan.nbytes), plan, me)


def test_what_finds_no_room_goes_later_and_in_order(memory):
    mine, theirs = rings(memory, 0), rings(memory, 1)
    sent = [(0, i, *range(500)) for i in range(20)]  # more than a ring holds
    for entry in sent:
        mine.send(1, entry)
    assert mine.behind and not theirs.quiet and mine.quiet
    got = []
    while len(got) < len(sent):
        entry = theirs.take(0, 0)
        if entry is None:
            mine.catch_up()
        else:
            got.append((0, *entry))
    assert got == sent and theirs.quiet and not mine.behind


def test_a_held_notice_does_not_keep_its_reader_awake(memory):
    mine, theirs = rings(memory, 0), rings(memory, 1)
    mine.send(1, (1, 5))  # after one message by socket
    assert not theirs.quiet
    assert theirs.take(0, 0) is None and theirs.quiet
    assert theirs.take(0, 1) == (5,) and theirs.quiet


def test_who_watches_sees_what_comes_meanwhile(memory):
    fd, plan = memory
    theirs = rings(memory, 1)
    assert not theirs.watch(0.01), "there is nothing"
    writer = multiprocessing.get_context("fork").Process(target=_write, args=(fd, plan, 1))
    writer.start()
    assert theirs.watch(60.0)
    writer.join(10)
    assert theirs.take(0, 0) == (0, 0)
    assert not theirs.watch(0.0)


def test_who_watches_is_not_kept_by_a_held_notice(memory):
    mine, theirs = rings(memory, 0), rings(memory, 1)
    mine.send(1, (1, 5))  # after one message by socket
    assert theirs.watch(0.0)
    assert theirs.take(0, 0) is None and not theirs.watch(0.01)


def _write(fd: int, plan: ArenaPlan, count: int) -> None:
    mine = Rings(mmap.mmap(fd, plan.nbytes), plan, 0)
    for i in range(count):
        mine.send(1, (0, i, i * i))
    while mine.behind:
        mine.catch_up()


def test_nothing_is_lost_or_mixed_up_between_processes(memory):
    fd, plan = memory
    count = 20_000
    writer = multiprocessing.get_context("fork").Process(target=_write, args=(fd, plan, count))
    theirs = rings(memory, 1)
    writer.start()
    i = 0
    while i < count:
        entry = theirs.take(0, 0)
        if entry is not None:
            assert entry == (i, i * i)
            i += 1
    writer.join(10)
    assert writer.exitcode == 0


def test_the_sleep_flag_is_one_per_worker(memory):
    fd, plan = memory
    control = Counters(mmap.mmap(fd, plan.nbytes), plan)
    control.set_idle(1, True)
    assert control.idle(1) and not control.idle(0)
    control.busy(1, 3, 9)
    assert control.busy_with(1) == (3, 9) and control.idle(1)


def two_routers(memory, folder, delivered: list) -> tuple[Router, Router]:
    """The routers of two workers with two nodes each; what the second one delivers is noted."""
    fd, plan = memory
    found = []
    for me in range(2):
        arena, who = Arena(fd, plan), WorkerId(0, me)
        sockets = LocalSockets(who, str(folder), ("127.0.0.1",), 0)
        placement = Placement(Mapping((4,)), (2,))
        pool = RowPool(arena, me)
        note = lambda uid, message: delivered.append(message)  # noqa: E731
        found.append(Router(who, placement, arena, pool, note, sockets))
    return found[0], found[1]


@pytest.fixture
def delivered() -> list[Message]:
    return []


@pytest.fixture
def routers(memory, tmp_path, delivered):
    found = two_routers(memory, tmp_path, delivered)
    yield found
    delivered.clear()
    for router in found:
        assert router.sockets is not None
        router.sockets.close()


def arrive(theirs: Router, delivered: list, count: int) -> None:
    """Let a worker take in what comes until it has so many messages."""
    assert theirs.sockets is not None
    for _ in range(500):
        theirs.take_in()
        if len(delivered) == count:
            break
        theirs.sockets.sleep(10)
    assert len(delivered) == count


def test_rows_parts_and_frames_of_a_sender_stay_in_order(routers, delivered):
    mine, theirs = routers
    row = mine.pool.acquire()
    row.tensor.copy_(torch.arange(8))
    too_large = torch.zeros(1 << 12)  # for a row, so it goes by socket
    said = [
        {"params": row.tensor}, {"params": row.tensor[2:5]}, {"all": too_large},
        {"of no row": torch.arange(3)},
    ]  # fmt: skip
    for i in range(20):
        mine.send([3], Message(said[i % 4], {}, 1, (0, i)), Traffic())
    mine.sockets.flush()
    arrive(theirs, delivered, 20)
    assert [message.round for message in delivered] == [(0, i) for i in range(20)]
    for i, message in enumerate(delivered):
        (name,) = said[i % 4]
        assert torch.equal(message[name], said[i % 4][name])
    assert mine.pool.read(row)
    del message
    delivered[:] = delivered[:2]
    assert mine.pool.read(row), "two messages still hold it"
    kept = delivered[1]["params"].numpy()[:2]
    delivered.clear()
    assert mine.pool.read(row), "so does an array on a part of it"
    assert kept.tolist() == [2.0, 3.0]
    del kept
    assert not mine.pool.read(row)


@pytest.mark.parametrize("many", [100, 150, 200, 250, 300, 400, 1000])
def test_a_header_of_any_length_passes_between_workers(routers, delivered, many):
    """Whether it fits into the ring or not, and wherever that ends; in their order."""
    mine, theirs = routers
    row = mine.pool.acquire()
    said = [
        Message({f"part {i}": row.tensor[:2] for i in range(many)}, None, 1, (0, 0)),
        Message({"params": row.tensor}, None, 1, (0, 1)),
        Message({"params": row.tensor}, {"a": list(range(8 * many))}, 1, (0, 2)),
    ]
    for i in range(12):
        mine.send([3], said[i % 3], Traffic())
        mine.sockets.flush()
        arrive(theirs, delivered, i + 1)
        assert delivered[i].round == said[i % 3].round and delivered[i].meta == said[i % 3].meta
        assert list(delivered[i].tensors) == list(said[i % 3].tensors)


def test_a_message_much_larger_than_the_row_passes_between_workers(routers, delivered):
    mine, theirs = routers
    said = Message({"all": torch.arange(3 << 20)}, {}, 1, (0, 0))  # 24 MB; a row has 32 bytes
    mine.send([3], said, Traffic())
    mine.sockets.flush()
    arrive(theirs, delivered, 1)
    assert torch.equal(delivered[0]["all"], said["all"])


def test_who_sleeps_is_woken_for_what_comes_late(routers, delivered):
    mine, theirs = routers
    row, counters = mine.pool.acquire(), mine.arena.counters
    said = Message({"params": row.tensor}, {}, 1, (0, 0))
    while not mine.rings.behind:
        mine.send([3], said, Traffic())
    theirs.take_in()
    counters.set_idle(1, True)  # it has read all that was there, and goes to sleep
    mine.take_in()
    assert not mine.rings.behind and not counters.idle(1)
    assert theirs.sockets.poller.poll(0)  # the bell


def test_a_question_of_the_row_alone_stays_a_question(routers, delivered):
    mine, theirs = routers
    row = mine.pool.acquire()
    for i, asks in enumerate((False, True)):
        said = Message({"params": row.tensor}).stamped(1, (0, i), asks)
        mine.send([3], said, Traffic())
    arrive(theirs, delivered, 2)
    assert [message.asks for message in delivered] == [False, True]
