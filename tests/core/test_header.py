"""Headers of messages: exact sizes, and nothing malformed passes or takes memory."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

import decentralizepy.messages.header as header_module
from decentralizepy.messages.header import (
    ALIGNMENT,
    DTYPES,
    MAX_HEADER,
    MAX_SERVERS,
    MAX_TENSORS,
    Header,
    MessageError,
    TensorInfo,
    decode,
    row_message_bytes,
)

LIMIT = 1 << 20
ROW = TensorInfo("params", "float32", (4810,))

tensors = st.builds(
    TensorInfo,
    st.text(max_size=8),
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
)
numbers = st.integers(0, (1 << 62) - 1)
nodes = st.integers(-MAX_SERVERS, (1 << 62) - 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def wrong(limit=LIMIT, **changes):
    """A proper header with some parts replaced, as bytes."""
    value = json.loads(Header(1, (2, 0), (ROW,)).encode()) | changes
    return json.dumps(value).encode()


@given(
    sender=nodes,
    round_=st.tuples(numbers, numbers),
    infos=st.lists(tensors, max_size=5, unique_by=lambda info: info.name).map(tuple),
    meta=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
)
def test_round_trip(sender, round_, infos, meta):
    header = Header(sender, round_, infos, meta)
    data = header.encode()
    assert len(data) % ALIGNMENT == 0
    assert decode(data, LIMIT) == header == decode(memoryview(data), LIMIT)
    assert len(data) < len(data.rstrip()) + ALIGNMENT


def test_payload_is_counted():
    header = Header(
        0, (0, 0), (ROW, TensorInfo("i", "int64", (2, 3)), TensorInfo("s", "uint8", ()))
    )
    assert header.payload_bytes == 4 * 4810 + 48 + 1
    sizes = {name: TensorInfo("", name, (3,)).nbytes for name in DTYPES}
    assert sizes == {
        "float64": 24, "float32": 12, "float16": 6, "bfloat16": 6, "complex128": 48,
        "complex64": 24, "int64": 24, "int32": 12, "int16": 6, "int8": 3, "uint8": 3, "bool": 3,
    }  # fmt: skip


def test_padding_starts_where_it_must():
    sizes = set()
    for length in range(1, 300):
        data = Header(0, (0, 0), (), {"x": "y" * length}).encode()
        text = data.rstrip(b" ")
        assert len(data) == -(-len(text) // ALIGNMENT) * ALIGNMENT
        sizes.add(len(text) % ALIGNMENT)
    assert sizes == set(range(ALIGNMENT))  # also texts that need no padding at all


@pytest.mark.parametrize("length", [3_818, 4_810, 48_670, 89_834, 2_816_478, 4_937_720, 11_198_912])
def test_all_headers_of_a_run_are_of_one_size(length):
    """Digits only ever add to the text, so the shortest and the longest say it for all between."""
    info = TensorInfo("params", "float32", (length,))
    shortest = len(Header(0, (0, 0), (info,)).encode())
    longest = len(Header(9_999, (999_999, 99), (info,)).encode())
    assert shortest == longest == ALIGNMENT
    for nodes, rounds, steps in ((1, 0, 1), (1, 1, 1), (16, 100, 1), (10_000, 1_000_000, 100)):
        assert row_message_bytes(length, nodes, rounds, steps) == (4 * length, longest)


@given(st.integers(0, 9_999), st.integers(0, 999_999), st.integers(0, 99), st.integers(1, 10**9))
def test_the_plans_bytes_are_those_of_real_messages(uid, t, k, length):
    header = Header(uid, (t, k), (TensorInfo("params", "float32", (length,)),))
    planned = row_message_bytes(length, 10_000, 1_000_000, 100)
    assert planned == (header.payload_bytes, len(header.encode()))


def test_the_plans_bytes_are_those_of_torchs_messages():
    torch = pytest.importorskip("torch")
    from decentralizepy.messages.message import Message
    from decentralizepy.transport.frames import to_frames

    message = Message({"params": torch.zeros(300_000)}, sender=7, round=(41, 2))
    header, frames = to_frames(message)
    assert row_message_bytes(300_000, 16, 100, 3) == (sum(map(len, frames)), len(header))
    assert [len(frame) for frame in frames] == [1 << 20, 1_200_000 - (1 << 20)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"   ",
        b"nothing",
        b"\xff" * 128,
        b"\x00" * 128,
        b"[]",
        b"null",
        b"{}",
        b'{"from":1,"round":[0,0],"tensors":[]}',
        b'{"from":1,"round":[0,0],"tensors":[],"meta":{},"more":1}',
        b'{"from":1,"round":[0,0],"tensors":[],"meta":{}} trailing',
        wrong(meta=[]),
        wrong(meta=None),
        wrong(**{"from": -MAX_SERVERS - 1}),
        wrong(**{"from": True}),
        wrong(**{"from": 1.0}),
        wrong(**{"from": "1"}),
        wrong(**{"from": None}),
        wrong(**{"from": 1 << 62}),
        b'{"from":' + b"9" * 5000 + b',"round":[0,0],"tensors":[],"meta":{}}',
        b'{"from":NaN,"round":[0,0],"tensors":[],"meta":{}}',
        wrong(round=[0]),
        wrong(round=[0, 0, 0]),
        wrong(round={"0": 0, "1": 1}),
        wrong(round=[0, -1]),
        wrong(round=[False, 0]),
        wrong(round="00"),
        wrong(tensors={}),
        wrong(tensors=[[]]),
        wrong(tensors=["abc"]),
        wrong(tensors=[["a", "float32"]]),
        wrong(tensors=[["a", "float32", [1], 1]]),
        wrong(tensors=[[1, "float32", [1]]]),
        wrong(tensors=[["a", "complex32", [1]]]),
        wrong(tensors=[["a", ["float32"], [1]]]),
        wrong(tensors=[["a", {}, [1]]]),
        wrong(tensors=[["a", None, [1]]]),
        wrong(tensors=[["a", "float32", 1]]),
        wrong(tensors=[["a", "float32", [-1]]]),
        wrong(tensors=[["a", "float32", [-1, -1]]]),
        wrong(tensors=[["a", "float32", [True]]]),
        wrong(tensors=[["a", "float32", [1.5]]]),
        wrong(tensors=[["a", "float32", ["1"]]]),
        wrong(tensors=[["a", "float32", [[1]]]]),
        wrong(tensors=[["a", "float32", [1] * 9]]),
        wrong(tensors=[["a", "float32", [1 << 61] * 8]]),
        wrong(tensors=[["a", "float32", [1 << 18, 2]]]),
        wrong(tensors=[["a", "uint8", [LIMIT + 1]]]),
        wrong(tensors=[[str(i), "uint8", [LIMIT // 60]] for i in range(64)]),
        wrong(tensors=[["a", "device", [1]]]),
        wrong(tensors=[[str(i), "uint8", [1]] for i in range(MAX_TENSORS + 1)]),
        wrong(tensors=[["a", "uint8", [1]], ["a", "uint8", [1]]]),
        b"[" * 100_000,
        b'{"from":' * 10_000,
        b'{"from":' + b"[" * 900 + b"]" * 900 + b',"round":[0,0],"tensors":[],"meta":{}}',
        b" " * (MAX_HEADER + 1),
    ],
)  # fmt: skip
def test_malformed_headers_are_refused_before_memory_is_taken(data):
    tracemalloc.start()
    with pytest.raises(MessageError):
        decode(data, LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * len(data) + (1 << 16)


def test_no_depth_of_nesting_gets_through():
    for depth in [*range(1, 100, 7), *range(880, 1020), 5000, 100_000]:
        data = b'{"from":' + b"[" * depth + b"]" * depth + b',"round":[0,0],"tensors":[],"meta":{}}'
        with pytest.raises(MessageError):
            decode(data, LIMIT)


def test_the_limit_is_exact():
    info = TensorInfo("a", "uint8", (1000,))
    data = Header(0, (0, 0), (info,)).encode()
    assert decode(data, 1000).payload_bytes == 1000
    with pytest.raises(MessageError, match="payload of 1000 bytes, more than 999"):
        decode(data, 999)


def test_servers_have_negative_ids_and_rounds_are_natural():
    for sender in (-1, -2, -MAX_SERVERS):
        header = Header(sender, (0, 0), (ROW,))
        assert decode(header.encode(), LIMIT).sender == sender
    with pytest.raises(MessageError, match="natural"):
        decode(wrong(round=[-1, 0]))


def test_a_header_that_nobody_would_read_is_not_written():
    with pytest.raises(MessageError, match="more than 1048576"):
        Header(0, (0, 0), (), {"x": "y" * MAX_HEADER}).encode()


def test_errors_stay_short():
    with pytest.raises(MessageError) as caught:
        decode(wrong(**{"from": "x" * 10_000}), LIMIT)
    assert len(str(caught.value)) < 100


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_or_refused(data):
    _decode_or_refuse(data)


@given(st.sampled_from(["from", "round", "tensors", "meta"]), json_values)
def test_any_json_is_a_header_or_refused(key, value):
    _decode_or_refuse(wrong(**{key: value}))


@given(st.data())
def test_any_changed_byte_gives_a_header_or_a_refusal(data):
    whole = bytearray(Header(3, (4, 0), (ROW,)).encode())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    _decode_or_refuse(bytes(whole))


def _decode_or_refuse(data):
    try:
        header = decode(data, LIMIT)
    except MessageError:
        return
    assert 0 <= header.payload_bytes <= LIMIT and len(header.tensors) <= MAX_TENSORS
    assert decode(header.encode(), LIMIT) == header or "NaN" in data.decode()


@given(
    sender=nodes,
    round_=st.tuples(numbers, numbers),
    infos=st.lists(tensors, max_size=3, unique_by=lambda info: info.name).map(tuple),
    change=st.tuples(st.integers(0, 200), st.integers(0, 255)) | st.none(),
)
def test_what_is_read_quickly_is_read_alike(sender, round_, infos, change):
    """Headers without meta are read by a pattern, and tensors that came before not again."""
    data = bytearray(Header(sender, round_, infos).encode())
    if change is not None:
        data[change[0] % len(data)] = change[1]

    def outcome(read):
        try:
            return read(bytes(data))
        except MessageError as error:
            return str(error)

    assert outcome(decode) == outcome(header_module._decoded)
    if change is None and max(sender, *round_) < 10**9:
        assert header_module._decoded_plain(bytes(data)) is not None
