"""Damaged messages, checkpoints and classes' options: refused, never a crash, never unbounded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from in_process import build
from launching import Experiment
from mutations import bounded, mutated

from decentralizepy.commands.check import construct
from decentralizepy.config import parse_experiment
from decentralizepy.drivers import wiring
from decentralizepy.engine import nodefile
from decentralizepy.engine.meeting import Meeting, sum_message
from decentralizepy.engine.rest import _KEYS, Position, Rest
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.graphs.generators import ring
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.messages.header import MessageError
from decentralizepy.messages.message import Message
from decentralizepy.transport.batches import Part
from decentralizepy.transport.frames import MessageReader, to_frames

words = st.sampled_from(["state", "reply", "done", "ask", "save", "saved", "end"])
json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | words,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)
#: bytes that the damaged messages can hold, as no more are sent
LIMIT = 1 << 20


def fuzz(most: int = 60) -> Callable:
    return settings(
        max_examples=most, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


ROW = Message({"params": torch.arange(6.0), "index": torch.arange(2)}, {"k": [1]}, 3, (4, 0))
HEADER, FRAMES = to_frames(ROW)


def shaped(*shape: int) -> bytes:
    value = {"from": 1, "round": [0, 0], "tensors": [["x", "uint8", list(shape)]], "meta": {}}
    return json.dumps(value).encode()


FIRST = b"M" + (3).to_bytes(8, "little")
GOOD = [FIRST, HEADER, *map(bytes, FRAMES)]


def read(frames: list[bytes]) -> list[Message]:
    """What a worker takes from frames of another one."""
    found: list[Message] = []
    reader = MessageReader(WorkerId(1, 0), lambda peer, first, one, size: found.append(one))
    for frame in frames:
        reader.frame(Part(frame))
    reader.deliver()
    return found


def test_frames_that_are_not_damaged_are_read() -> None:
    (message,) = read(GOOD)
    assert (message.sender, message.round, message.meta) == (3, (4, 0), {"k": [1]})
    assert all(torch.equal(message[name], tensor) for name, tensor in ROW.tensors.items())


@fuzz(300)
@given(mutated([HEADER.rstrip()]), st.lists(mutated([bytes(f) for f in FRAMES]), max_size=3))
@example(shaped(10**9), [])
@example(shaped(4 << 30), [bytes(1 << 20)] * 8)
@example(shaped((4 << 30) + 1), [])
@example(shaped(0, 2**61, 2**61), [])
@example(shaped(2**61, 2**61, 0), [])
@example(shaped(0, 0, 0), [])
def test_messages(header: bytes, frames: list[bytes]) -> None:
    with bounded():
        for payload in (list(map(bytes, FRAMES)), frames):
            try:
                for message in read([FIRST, header, *payload]):
                    assert sum(t.nbytes for t in message.tensors.values()) <= LIMIT
            except MessageError as error:
                assert len(str(error)) < 500


@fuzz(300)
@given(
    st.lists(st.one_of(st.sampled_from(GOOD), mutated(GOOD), st.binary(max_size=64)), max_size=9)
)
def test_batches(frames: list[bytes]) -> None:
    with bounded():
        try:
            assert len(read(frames)) <= len(frames) // 2
        except MessageError as error:
            assert len(str(error)) < 500


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Experiment:
    path = tmp_path_factory.mktemp("fuzz")
    return Experiment(path, ring(4), cache, optimizer_options="momentum = 0.9", rounds="1")


@pytest.mark.parametrize("kind", ["S", "A"])
@pytest.mark.parametrize(
    "message",
    [
        Message({}, {"nodes": 2}),
        Message({"sum": torch.zeros(3, dtype=torch.float64)}, {"nodes": 2}),
        Message({"sum": torch.zeros(4810)}, {"nodes": 2}),
        sum_message(torch.zeros(4810, dtype=torch.float64), 0, -1, 0),
        Message({"sum": torch.zeros(4810, dtype=torch.float64)}, {"nodes": "2"}),
        Message({"sum": torch.zeros(4810, dtype=torch.float64)}),
    ],
)
def test_sums_that_are_none(kind: str, message: Message) -> None:
    placement = Placement(Mapping((2,)), (1,))
    meeting = Meeting(WorkerId(0, 0), placement, 4810, lambda *message: None, lambda t, mean: None)
    with pytest.raises(MessageError):
        meeting.take(kind, message)


def test_a_sum_of_a_worker_that_there_is_not() -> None:
    placement = Placement(Mapping((2,)), (1,))
    meeting = Meeting(WorkerId(0, 0), placement, 3, lambda *message: None, lambda t, mean: None)
    for number in (1, -1):
        with pytest.raises(MessageError, match=f"a sum of worker {number}"):
            meeting.take("S", sum_message(torch.zeros(3, dtype=torch.float64), 0, 1, number))


@fuzz(300)
@given(st.dictionaries(st.sampled_from([*_KEYS, "x"]), json_like), st.integers(-1, 3))
def test_words_about_rest(meta: dict, sender: int) -> None:
    """Whatever another worker says is obeyed, or refused in a sentence."""
    placement = Placement(Mapping((2,)), (2,))
    rest = Rest(WorkerId(0, 0), placement, lambda *said: None, _busy, list, lambda saved: None)
    try:
        rest.take(Message({}, meta, sender, (0, 0)))
    except MessageError as error:
        assert len(str(error)) < 200


def _busy() -> Position:
    return Position(False, False, False, {}, {})


def test_checkpoints_of_a_node(experiment: Experiment, tmp_path: Path) -> None:
    """What is accepted has the right shapes and types, and the node can train on."""
    worker = build(experiment, 3, "--checkpoint_after", "1", "-ta", "0", "-tea", "0")
    worker.run()
    seat, optimizer = worker.seats[1], worker.trainer.optimizer
    path = tmp_path / "1.safetensors"
    nodefile.save(path, seat, optimizer, 1, 1.5, [(None, 2.25), (0, 1.75)])
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    assert nodefile.load(path, seat, optimizer) == (1.5, [(None, 2.25), (0, 1.75)])
    refused = []

    @fuzz(150)
    @given(mutated([whole[:length]]))
    def damage(head: bytes) -> None:
        path.write_bytes(head + whole[length:])
        with bounded():
            try:
                nodefile.load(path, seat, optimizer)
            except RunError as error:
                assert str(path) in str(error) and "Traceback" not in str(error)
                refused.append(str(error))
        assert seat.node.x.shape == (4810,) and seat.node.x.dtype == torch.float32
        assert type(seat.learner.steps) is int and type(seat.traffic.data) is int

    damage()
    assert len(refused) > 50


@fuzz(60)
@given(st.data())
def test_classes_and_their_options(experiment: Experiment, data: st.DataObject) -> None:
    """What the INI's values make of torch's and our classes is built or refused."""
    text = (experiment.folder / "config.ini").read_bytes()
    found = data.draw(mutated([text])).decode("utf-8", "replace")
    with bounded():
        try:
            parsed = parse_experiment(found, experiment.folder / "config.ini")
            for line in construct(parsed, wiring(parsed), ring(4)):
                assert line
        except ConfigError as error:
            assert str(error) and "Traceback" not in str(error)
