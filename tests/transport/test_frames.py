"""Tensors to frames and back: every dtype, layout and size, the same limits on both sides."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.mappings.placement import WorkerId
from decentralizepy.messages.header import (
    DTYPES,
    FRAME_BYTES,
    MAX_PAYLOAD,
    MAX_TENSORS,
    Header,
    MessageError,
    TensorInfo,
)
from decentralizepy.messages.message import TORCH_DTYPES, Message, check_size
from decentralizepy.transport import batches, frames
from decentralizepy.transport.batches import ArrivingBatch, Part
from decentralizepy.transport.frames import Builder, MessageReader, to_frames
from decentralizepy.transport.secure import Opener, Sealer

PEER = WorkerId(1, 0)
KEY = bytes(range(32))


def journey(message: Message, how: str) -> Message:
    """A message after its way to another worker: of this machine, or of another one."""
    header, payload = to_frames(message)
    found: list[Message] = []
    reader = MessageReader(PEER, lambda peer, first, one, nbytes: found.append(one))
    sent = [b"M", header, *payload]
    if how == "local":
        for frame in sent:
            reader.frame(Part(bytes(frame)))
    else:
        key = KEY if how == "sealed" else None
        sealer, opener = Sealer(key, b"i"), Opener(key, b"i")
        chunks = batches.chunks(sent)
        batch = ArrivingBatch(*opener.head(sealer.head(batches.head(1, sent), len(chunks))))
        for chunk in chunks:
            for part in batch.chunk(memoryview(bytearray(sealer.chunk(chunk))), opener):
                reader.frame(part)
    reader.deliver()
    (one,) = found
    return one


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(a: Message, b: Message) -> bool:
    """Same names in the same order, dtypes, shapes and bits; NaN included."""
    return (
        (a.sender, a.round, a.meta) == (b.sender, b.round, b.meta)
        and list(a.tensors) == list(b.tensors)
        and all(
            (x.dtype, x.shape, bits(x)) == (y.dtype, y.shape, bits(y))
            for x, y in zip(a.tensors.values(), b.tensors.values(), strict=True)
        )
    )


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of any dtype and of 0 to 4 dimensions, perhaps empty, with arbitrary bits."""
    name = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    count = torch.Size(shape).numel()
    raw = torch.frombuffer(
        bytearray(draw(st.binary(min_size=16 * count, max_size=16 * count)) + bytes(16)),
        dtype=torch.uint8,
    )[: count * DTYPES[name]].clone()
    if name == "bool":
        raw &= 1
    return raw.view(TORCH_DTYPES[name]).view(shape)


messages = st.builds(
    Message,
    st.dictionaries(st.text(max_size=6), tensors(), max_size=6),
    st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2),
    st.integers(-(1 << 31), 1 << 40),
    st.tuples(st.integers(0, 1 << 40), st.integers(0, 99)),
)


@given(messages, st.sampled_from(["local", "clear", "sealed"]))
def test_a_message_arrives_as_it_was(message: Message, how: str) -> None:
    check_size(message.tensors)
    assert same(journey(message, how), message)


def test_the_tables_of_dtypes_are_in_step() -> None:
    assert list(TORCH_DTYPES) == list(DTYPES)
    for name, dtype in TORCH_DTYPES.items():
        assert (str(dtype), torch.empty(0, dtype=dtype).element_size()) == (
            f"torch.{name}",
            DTYPES[name],
        )


@pytest.mark.parametrize("how", ["local", "clear", "sealed"])
@pytest.mark.parametrize("size", [1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3_000_001])
def test_frames_are_cut_and_joined_at_any_size(how: str, size: int) -> None:
    noise = torch.randint(0, 256, (size,), dtype=torch.uint8)
    message = Message({"a": noise, "b": noise.flip(0)}, {}, 2, (3, 0))
    assert same(journey(message, how), message)


@pytest.mark.parametrize("how", ["local", "clear", "sealed"])
def test_tensors_of_any_layout(how: str) -> None:
    """Views, transposed, with gaps, lazily conjugated or negated, wanting gradients, scalars."""
    square = torch.arange(12.0).view(3, 4)
    z = torch.tensor([1 + 2j, 3 - 1j])
    sent = {
        "transposed": square.t(),
        "gaps": torch.arange(9)[::2],
        "same": torch.ones(1).expand(5),
        "conjugate": z.conj(),
        "negative": z.conj().imag,
        "gradient": torch.nn.Parameter(square.clone()),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3, dtype=torch.int16),
    }
    got = journey(Message(sent), how).tensors
    assert got.keys() == sent.keys()
    for name, tensor in sent.items():
        assert got[name].shape == tensor.shape and torch.equal(got[name], tensor)


def test_what_is_contiguous_is_not_copied() -> None:
    row = torch.zeros(100)
    _, payload = to_frames(Message({"params": row}))
    row[0] = 1
    assert bytes(payload[0][:4]) == b"\0\0\x80\x3f"


def test_a_tensor_without_data_is_refused_by_name() -> None:
    with pytest.raises(MessageError, match="tensor 'x' is on the device meta"):
        to_frames(Message({"x": torch.empty(3, device="meta")}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_of_another_device_are_copied() -> None:
    x = torch.arange(600_000.0).view(600, 1000)
    got = journey(Message({"x": x.cuda().t()}), "clear")
    assert got["x"].device.type == "cpu" and torch.equal(got["x"], x.t())


def test_other_bytes_than_0_and_1_are_no_booleans() -> None:
    builder = Builder(Header(0, (0, 0), (TensorInfo("mask", "bool", (3,)),)))
    with pytest.raises(MessageError, match="'mask' of bool holds other bytes"):
        builder.take(Part(b"\0\1\2"))


# ------------------------------------------------------------------------- limits


def announced(nbytes: int) -> Header:
    return Header(0, (0, 0), (TensorInfo("x", "uint8", (nbytes,)),))


def huge(nbytes: int) -> torch.Tensor:
    """Takes no memory."""
    return torch.empty(1, dtype=torch.uint8).expand(nbytes)


def accepted(header: Header, kind: bytes = b"M") -> bool:
    """Whether a receiver takes this header."""
    reader = MessageReader(PEER, lambda *message: None)
    reader.frame(Part(kind))
    try:
        reader.frame(Part(header.encode()))
    except MessageError:
        return False
    return True


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"x": huge(MAX_PAYLOAD)}, ""),
        ({"x": huge(MAX_PAYLOAD + 1)}, "a message of 4294967297 bytes, more than 4294967296"),
        ({"x": huge(MAX_PAYLOAD), "y": huge(1)}, "more than 4294967296"),
        ({str(i): huge(1) for i in range(MAX_TENSORS)}, ""),
        ({str(i): huge(1) for i in range(MAX_TENSORS + 1)}, "1025 tensors, more than 1024"),
        ({"x": torch.zeros([1] * 8)}, ""),
        ({"x": torch.zeros([1] * 9)}, "'x' has 9 dimensions, more than 8"),
    ],
)
def test_sender_and_receiver_have_the_same_limits(
    tensors: dict[str, torch.Tensor], why: str
) -> None:
    """Hence the same verdict on one worker, where nobody reads a header, as on many machines."""
    message = Message(tensors)
    assert accepted(message.header()) == (not why)
    if why:
        with pytest.raises(MessageError, match=why):
            check_size(message.tensors)
    else:
        check_size(message.tensors)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({1: torch.zeros(1)}, "a tensor is named 1: names are str"),
        ({"x": torch.eye(2).to_sparse()}, "'x' is torch.sparse_coo: send its indices and values"),
        ({"x": torch.zeros(1, dtype=torch.float8_e5m2)}, "'x' is torch.float8_e5m2: one of float"),
    ],
)
def test_tensors_that_no_header_describes_are_refused(tensors: dict, why: str) -> None:
    with pytest.raises(MessageError, match=why):
        check_size(tensors)


def test_the_mean_of_the_largest_rows_is_accepted() -> None:
    assert accepted(announced(2 * MAX_PAYLOAD), b"A") and accepted(announced(2 * MAX_PAYLOAD), b"S")
    assert not accepted(announced(2 * MAX_PAYLOAD + 1), b"A")


def many(count: int) -> Message:
    return Message({f"layer.{i}": torch.full((i % 5, 3), i) for i in range(count)})


@pytest.mark.parametrize("how", ["local", "clear", "sealed"])
def test_many_tensors(how: str) -> None:
    assert same(journey(many(MAX_TENSORS), how), many(MAX_TENSORS))


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def test_a_header_takes_no_memory_and_frames_no_more_than_three_times_their_size() -> None:
    """In the clear, where anybody may have said it."""
    before, frame = address_space(), bytes(FRAME_BYTES)
    builder = Builder(announced(MAX_PAYLOAD))
    for i in range(1, 200):
        builder.take(Part(frame))
        assert address_space() - before <= max(64 << 20, 3 * i * FRAME_BYTES) + (8 << 20)


def test_memory_that_grows_holds_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "AT_ONCE", 1000)
    noise = torch.randint(0, 256, (11 * FRAME_BYTES + 77,), dtype=torch.uint8)
    message = Message({"a": noise, "b": noise.view(torch.uint8)[: 2 * FRAME_BYTES]})
    for how in ("local", "clear", "sealed"):
        assert same(journey(message, how), message)
