"""Batches, sequence numbers, acknowledgements and credits, against plain models of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.messages.header import Header, MessageError, TensorInfo
from decentralizepy.transport import batches
from decentralizepy.transport.batches import (
    MAX_FRAME,
    SMALL,
    Acknowledgement,
    ArrivingBatch,
    Part,
    Received,
    Unacknowledged,
)
from decentralizepy.transport.credits import Consumption, SendWindow
from decentralizepy.transport.frames import Builder
from decentralizepy.transport.secure import Opener, RefusedError, Sealer

SIZES = st.lists(st.sampled_from([0, 1, 9, 128, SMALL - 1, SMALL, SMALL + 1, 200_000]), max_size=30)


def transfer(frames, key):
    """The frames of one batch after a journey."""
    sealer, opener = Sealer(key, b"i"), Opener(key, b"i")
    chunks = batches.chunks(frames)
    body, count = opener.head(sealer.head(batches.head(3, frames), len(chunks)))
    batch = ArrivingBatch(body, count)
    assert batch.number == 3 and batch.complete == (not frames)
    found = []
    for chunk in chunks:
        found += [bytes(p.content()) for p in batch.chunk(bytes(sealer.chunk(chunk)), opener)]
    assert batch.complete
    return found


@given(SIZES, st.sampled_from([None, bytes(32)]))
def test_frames_arrive_as_they_were(sizes, key):
    frames = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
    assert transfer(frames, key) == frames


@given(SIZES)
def test_every_frame_is_in_one_chunk_and_large_ones_are_alone(sizes):
    plan = batches.plan(sizes)
    assert [i for members in plan for i in members] == list(range(len(sizes)))
    for members in plan:
        large = [i for i in members if sizes[i] >= SMALL]
        assert len(members) == 1 or not large
        assert sum(sizes[i] for i in members) <= MAX_FRAME


@given(st.binary(max_size=64), st.integers(0, 5))
def test_a_head_of_any_bytes_is_taken_or_refused(body, chunks):
    try:
        ArrivingBatch(body, chunks)
    except RefusedError as error:
        assert error.kind == "malformed"


def test_a_head_that_promises_too_much_is_refused_before_anything_is_allocated():
    for sizes, chunks in (([MAX_FRAME + 1], 1), ([1 << 31], 1), ([10], 2), ([SMALL, SMALL], 1)):
        body = bytes(8) + b"".join(size.to_bytes(4, "little") for size in sizes)
        with pytest.raises(RefusedError):
            ArrivingBatch(body, chunks)


@pytest.mark.parametrize("wrong", [0, 9, 11, 999])
def test_a_chunk_of_another_size_is_refused(wrong):
    frames = [bytes(10)]
    batch = ArrivingBatch(batches.head(1, frames), 1)
    with pytest.raises(RefusedError):
        list(batch.chunk(bytes(wrong), Opener(None, b"i")))


def test_a_payload_in_the_clear_stays_where_it_is_and_others_are_copied():
    header = Header(0, (0, 0), (TensorInfo("params", "float32", (25_000,)),))
    memory = bytearray(100_000)
    memory[:4] = b"\0\0\x80\x3f"
    tensors = []
    clear = Opener(None, b"i")
    for part in (Part(memoryview(memory), clear, 1), Part(memoryview(bytes(memory)))):
        builder = Builder(header)
        builder.take(part)
        assert builder.complete
        tensors.append(builder.message()["params"])
    memory[:4] = bytes(4)
    assert [tensor[0].item() for tensor in tensors] == [0.0, 1.0]
    with pytest.raises(MessageError):
        Builder(header).take(Part(memoryview(memory)[:-1]))


# ---------------------------------------------------------------- numbers


@given(st.lists(st.sampled_from(["send", "cut", "lose acknowledgements"]), max_size=60))
def test_every_batch_is_delivered_once_and_in_order_whatever_is_cut(events):
    """A connection that loses what is on its way, both ways, at any time."""
    out, received = Unacknowledged(), Received()
    received.born(b"life")
    line, delivered, sent, freed = [], [], 0, []

    def arrive(count):
        for number in line[:count]:
            if received.is_new(number):
                delivered.append(number)
                received.took(number)
        del line[:count]

    for event in events:
        if event == "send":
            sent += 1
            line.append(out.keep([b"x"], [lambda n=sent: freed.append(n)]).number)
        elif event == "cut":
            arrive(len(line) // 2)
            line.clear()
            out.acknowledged(received.last)
            line += [batch.number for batch in out.waiting()]
        else:
            arrive(1)
    arrive(len(line))
    out.acknowledged(received.last)
    assert delivered == list(range(1, sent + 1)) == freed and not out


def test_duplicates_are_dropped_and_counted_and_gaps_are_refused():
    received = Received()
    received.took(1)
    assert not received.is_new(1) and received.duplicates == 1
    assert received.is_new(2)
    with pytest.raises(RefusedError):
        received.is_new(3)
    received.born(b"another")
    assert received.is_new(1), "a restarted sender counts from 1"


def test_an_acknowledgement_of_what_was_never_sent_is_refused():
    out = Unacknowledged()
    out.keep([b"x"])
    with pytest.raises(RefusedError):
        out.acknowledged(2)
    assert out.acknowledged(1) and not out.acknowledged(1)


@given(st.integers(0, 1 << 60), st.booleans(), st.binary(max_size=60))
def test_acknowledgements_travel(received, reset, report):
    news = Acknowledgement(received, reset, report)
    assert Acknowledgement.decode(news.encode()) == news


# ---------------------------------------------------------------- credits


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 99), st.booleans()), max_size=60))
def test_the_window_knows_what_is_unread(events):
    """Reports may be lost: the next full one tells all."""
    window, there, waiting = SendWindow(150), Consumption(), []
    for uid, nbytes, lost in events:
        if window.open(uid):
            window.sent(uid, nbytes)
            waiting.append((uid, nbytes))
        elif waiting:
            there.consumed(*waiting.pop(0))
            report = there.report()
            if not lost:
                window.take(report)
        assert window.outstanding >= sum(nbytes for _, nbytes in waiting)
    window.take(there.report(everything=True))
    assert window.outstanding == sum(nbytes for _, nbytes in waiting)


def test_a_full_window_holds_those_that_have_something_waiting_and_no_others():
    window, there = SendWindow(100), Consumption()
    window.sent(1, 101)
    assert not window.open(1) and window.open(2), "who is heard by all never waits"
    there.consumed(1, 101)
    window.take(there.report())
    assert window.open(1)


def test_reports_of_what_was_never_sent_are_refused():
    for count, total in ((2, 10), (1, 11)):
        window, there = SendWindow(1), Consumption()
        window.sent(0, 10)
        for _ in range(count):
            there.consumed(0, total // count)
        with pytest.raises(RefusedError):
            window.take(there.report())
    with pytest.raises(RefusedError):
        SendWindow(1).take(b"odd")
