"""What is sent arrives alike on the sender's worker, on another one, and on another machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import Experiment
from teams import ALONE, FAR, LAYOUTS, NEAR, Team, scripted

from decentralizepy.engine.failures import NodeFailedError
from decentralizepy.graphs.generators import ring
from decentralizepy.memory.arena import Arena
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import ANY, Receive, Send, Sleep, Train
from decentralizepy.node.node import Node, Program

layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=["one worker", "two", "two machines"])
#: neighbours of node 0: on its own worker, and elsewhere if there is an elsewhere
HEARERS = (1, 3)


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(4), cache)


def exchange(
    experiment: Experiment, layout: Sequence[int], messages: Callable[[Node], Sequence[Message]]
) -> tuple[list[Message], dict[int, list[Message]], Team]:
    """Node 0 says some things to both hearers; what it said, what they heard, and the workers."""
    said: list[Message] = []
    heard: dict[int, list[Message]] = {}

    def speaker(node: Node) -> Program:
        said.extend(messages(node))
        for t, message in enumerate(said):
            yield Send([(HEARERS, message)], (t, 0))

    def hearer(node: Node) -> Program:
        heard[node.uid] = yield Receive([0], (0, 0))
        for t in range(1, len(said)):
            heard[node.uid] += yield Receive([0], (t, 0))

    team = scripted(experiment, {0: speaker, 1: hearer, 3: hearer}, layout=layout)
    return said, heard, team


def everything(node: Node) -> list[Message]:
    """Messages of all kinds: rows, parts of them, and what is no row."""
    x, drawn = node.x, torch.Generator().manual_seed(1)
    floats = torch.randn(5, 7, generator=drawn)
    other = [
        {dtype: (9 * floats).to(getattr(torch, dtype))}
        for dtype in ("float16", "bfloat16", "float64", "int8", "uint8", "int16", "int64", "bool")
    ]
    tensors: list[dict[str, torch.Tensor]] = [
        {"params": x},
        {"params": x[100:900]},
        {"params": x.view(torch.int32)},
        {"params": x[:4800].view(40, 120)},
        {"params": x.view(1, -1)},
        {"params": x[::3], "turned": x[:100].view(10, 10).t()},
        {"first": x[:10], "again": x[:10], "last": x[-3:]},
        {"row": x},
        {"values": x[7:70], "index": torch.arange(63)},
        {"params": torch.full_like(x, 2.5)},
        {"one": torch.tensor(3.25), "none": torch.empty(0, 3), "no part": x[:0]},
        {f"part {i}": torch.arange(i) for i in range(200)},
        {"larger than a row": torch.arange(3 << 20)},  # 24 MB; a row has 19 kB
        {"strided": floats.t(), "expanded": torch.ones(1).expand(4, 4)},
        {"first of a column": floats[:1, 3], "first": x[:1].expand(1), "of a row": x[::5000]},
        {
            "conjugate": torch.fft.rfft(floats[0]).conj(),
            "row": x[:100].view(torch.complex64).conj(),
        },
        {
            "negative": x[:100].view(torch.complex64).conj().imag,
            "one": x[6:8].view(torch.complex64).conj().imag,
        },
        {"graded": x.detach().requires_grad_(), "part": x[3:9].detach().requires_grad_()},
        {"computed": x.detach().requires_grad_() * 2, "leaf": floats.clone().requires_grad_()},
        {},
        *other,
    ]
    return [Message(one, {"said": i} if i % 3 == 2 else None) for i, one in enumerate(tensors)]


@layouts
def test_whatever_is_sent_arrives_as_it_is_and_is_counted_alike(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    said, heard, team = exchange(experiment, layout, everything)
    assert len(said) > 20 and heard.keys() == set(HEARERS)
    for found in heard.values():
        assert [message.round for message in found] == [(t, 0) for t in range(len(said))]
        for message, one in zip(said, found, strict=True):
            assert one.sender == 0 and one.meta == message.meta
            assert one.tensors.keys() == message.tensors.keys()
            for name, tensor in message.tensors.items():
                assert one[name].dtype == tensor.dtype and one[name].shape == tensor.shape, name
                assert torch.equal(one[name], tensor), name
                assert not one[name].requires_grad
    traffic = team.workers[0].seats[0].traffic
    payload = sum(tensor.nbytes for message in said for tensor in message.tensors.values())
    assert traffic.data == 2 * payload
    stamped = [message.stamped(0, (t, 0)) for t, message in enumerate(said)]
    assert traffic.meta == 2 * sum(len(message.header().encode()) for message in stamped)
    assert (traffic.wire > payload) == (layout == FAR)


@pytest.mark.parametrize(
    ("layout", "flag"),
    [*((layout, "") for layout in LAYOUTS), (ALONE, "--simulate"), (ALONE, "--faults")],
)
def test_a_message_says_what_it_held_when_it_was_sent(
    experiment: Experiment, layout: Sequence[int], flag: str
) -> None:
    """Whatever its sender does to its dictionaries then, and another receiver to the meta."""
    heard: dict[int, list[Any]] = {1: [], 2: [], 3: []}

    def speaker(node: Node) -> Program:
        seen, tensors, empty = {"a": [1]}, {"x": torch.ones(2)}, dict[str, Any]()
        message = Message(tensors, {"seen": seen})
        yield Send([(list(heard), message)], (0, 0))
        seen["a"].append(2)
        tensors["y"] = torch.zeros(1)
        yield Send([(list(heard), message)], (1, 0))  # as it is now
        yield Send([(list(heard), Message({}, empty))], (2, 0))
        seen["a"].append(3)
        empty["b"] = 1
        del tensors["x"]
        yield Send([(list(heard), Message({}))], (3, 0))

    def hearer(node: Node) -> Program:
        yield Receive([0], (3, 0))  # by now all has been changed
        for t in range(3):
            (message,) = yield Receive([0], (t, 0))
            heard[node.uid].append((sorted(message.tensors), deepcopy(message.meta)))
            if message.meta:
                message.meta["seen"]["a"].append(node.uid)
                message.meta["mine"] = node.uid
            heard[node.uid].append(message.meta)

    link = {"from": 0, "factor": 1, "delay_s": 0.01}
    slow = [{"slow_link": {**link, "to": uid}, "rounds": [1, 1]} for uid in HEARERS]
    values = {"--simulate": {"links": {"latency_s": 0.01}}, "--faults": slow}
    path = experiment.folder / "given.json"
    path.write_text(json.dumps(values.get(flag)))
    more = (flag, str(path)) if flag else ()
    scripted(experiment, {0: speaker, **dict.fromkeys(heard, hearer)}, *more, layout=layout)
    for uid, found in heard.items():
        assert found == [
            (["x"], {"seen": {"a": [1]}}), {"seen": {"a": [1, uid]}, "mine": uid},
            (["x", "y"], {"seen": {"a": [1, 2]}}), {"seen": {"a": [1, 2, uid]}, "mine": uid},
            ([], {}), {},
        ]  # fmt: skip


@layouts
def test_sizes_are_those_of_each_message(experiment: Experiment, layout: Sequence[int]) -> None:
    """Also of messages that differ in nothing but the size, the sender or the round."""
    lengths = [1, 4810, 17, 17, 2000]

    def speaker(node: Node) -> Program:
        for t, length in enumerate(lengths):
            said = Message({"params": node.x[:length] if length > 17 else torch.zeros(length)})
            yield Send([([(node.uid + 1) % 4], said)], (10**t, 0))

    def hears_and_speaks(node: Node) -> Program:
        yield from speaker(node)
        yield Receive(ANY, count=len(lengths))

    team = scripted(experiment, dict.fromkeys(range(4), hears_and_speaks), layout=layout)
    for worker in team.workers:
        for uid, seat in worker.seats.items():
            headers = [
                Message({"params": torch.zeros(length)}, None, uid, (10**t, 0)).header()
                for t, length in enumerate(lengths)
            ]
            assert seat.traffic.data == 4 * sum(lengths)
            assert seat.traffic.meta == sum(len(header.encode()) for header in headers)


@layouts
def test_what_was_heard_stays_as_it_was_though_its_sender_trains_on(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    """Rows, parts of them, arrays on them, and messages that are made of them much later."""
    kept: dict[int, list[Any]] = {}
    then: list[torch.Tensor] = []

    def speaker(node: Node) -> Program:
        x = node.x
        then.append(x.clone())
        for uid in HEARERS:
            like = {"twice": torch.empty(len(x))}
            later = Message.deferred(lambda x=x, uid=uid: {"twice": (2 + uid) * x}, like)
            yield Send([([uid], Message({"params": x}))], (0, 0))
            yield Send([([uid], Message({"part": x[5:50], "copy": x.clone()}))], (0, 1))
            yield Send([([uid], later)], (0, 2))
        del x, later
        for t in range(4):
            yield Train(t)
        then.append(node.x.clone())
        yield Send([(HEARERS, Message({"params": node.x}, {"trained": True}))], (1, 0))
        for t in range(4, 40):  # more than all rows of a node
            yield Train(t)
            yield Send([(HEARERS, Message({"params": node.x}))], (t, 0))

    def hearer(node: Node) -> Program:
        (trained,) = yield Receive([0], (1, 0))
        (row,) = yield Receive([0], (0, 0))
        (part,) = yield Receive([0], (0, 1))
        (later,) = yield Receive([0], (0, 2))
        mine = kept[node.uid] = [
            row["params"].numpy()[5:50], part["part"].detach()[3:], later["twice"], part["copy"],
            trained["params"].view(2, -1),
        ]  # fmt: skip
        del row, part, later, trained
        for t in range(4, 40):
            (last,) = yield Receive([0], (t, 0))
            mine[5:] = [last["params"]]

    scripted(experiment, {0: speaker, 1: hearer, 3: hearer}, layout=layout, iterations=40)
    before, after = then
    assert not torch.equal(before, after)
    for uid, (array, part, later, copy, trained, last) in kept.items():
        assert np.array_equal(array, before[5:50].numpy())
        assert torch.equal(part, before[8:50]) and torch.equal(copy, before)
        assert torch.equal(later, (2 + uid) * before)
        assert torch.equal(trained.flatten(), after) and not torch.equal(last, after)


@layouts
def test_what_was_heard_can_be_said_again(experiment: Experiment, layout: Sequence[int]) -> None:
    """And is then somebody else's word, for those who hear it from there only."""
    seen: dict[Any, Any] = {}

    def speaker(node: Node) -> Program:
        both = {"params": node.x}, {"no row": torch.ones(3)}
        for t, tensors in enumerate(both):
            yield Send([([2, 3], Message(tensors))], (t, 0))

    def forwarder(node: Node) -> Program:
        for t in range(2):
            (heard,) = yield Receive([0], (t, 0))
            yield Send([([1, 3], heard)], (t + 5, 0))
            seen["said again", t] = heard.sender, heard.round

    def hearer(node: Node) -> Program:
        yield Receive([2], (6, 0))
        if node.uid == 3:
            seen[3] = [(one.sender, one.round) for one in (yield Receive(ANY, count=3))]

    scripted(experiment, {0: speaker, 1: hearer, 2: forwarder, 3: hearer}, layout=layout)
    assert seen["said again", 0] == (0, (0, 0)) and seen["said again", 1] == (0, (1, 0))
    assert seen[3] == [(0, (0, 0)), (0, (1, 0)), (2, (5, 0))]


class Odd(int):
    """An int that JSON would bring back as another type."""


@layouts
@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"k": (1, 2)}, r"meta\['k'\] = \(1, 2\) is of type tuple; it comes back as a list"),
        ({"k": {1: 2}}, "keys are str in JSON"),
        ({"k": np.float64(0.5)}, "of type numpy.float64"),
        ({"k": Odd(3)}, "Odd"),
    ],
)
def test_meta_that_would_not_arrive_is_refused_where_it_is_sent(
    experiment: Experiment, layout: Sequence[int], meta: dict[str, Any], words: str
) -> None:
    text = f"node 0 failed in iteration 1: MessageError: .*{words}"
    with pytest.raises(NodeFailedError, match=text):
        exchange(experiment, layout, lambda node: [Message({"params": node.x}, meta)])


@layouts
def test_tensors_that_would_not_arrive_are_refused_where_they_are_sent(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    """Also after one that looks the same and is fine."""

    def messages(node: Node) -> list[Message]:
        dense = torch.zeros(3, 3)
        return [Message({"x": dense}), Message({"x": dense.to_sparse()})]

    with pytest.raises(NodeFailedError, match=r"'x' is torch.sparse_coo: send its indices"):
        exchange(experiment, layout, messages)


@pytest.mark.parametrize("layout", [ALONE, NEAR])
def test_a_deferred_message_is_made_once_for_all_who_hear_it(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    made: list[int] = []

    def make(number: int) -> dict[str, torch.Tensor]:
        made.append(number)
        return {"x": torch.full((3,), float(number))}

    def messages(node: Node) -> list[Message]:
        like = {"x": torch.empty(3)}
        return [Message.deferred(lambda i=i: make(i), like, {"i": i}) for i in range(2)]

    _, heard, team = exchange(experiment, layout, messages)
    if layout == ALONE:
        assert made == [], "nobody has looked"
    values = [one["x"].tolist() for _ in range(2) for uid in HEARERS for one in heard[uid]]
    assert values == [[0.0] * 3, [1.0] * 3] * 4
    assert sorted(made) == [0, 1]
    assert team.workers[0].seats[0].traffic.data == 2 * 2 * 12, "counted without being made"


def test_a_deferred_message_has_to_be_of_the_form_that_was_said() -> None:
    like = {"x": torch.empty(3)}
    for made in ({"x": torch.zeros(4)}, {"x": torch.zeros(3).int()}, {"y": torch.zeros(3)}):
        message = Message.deferred(lambda made=made: made, like)
        assert "x" in message and message.is_deferred and message.header().payload_bytes == 12
        with pytest.raises(ValueError, match=r"a deferred message of .*, not of"):
            message.tensors  # noqa: B018


@pytest.mark.parametrize("kept", [True, False])
def test_gradients_of_a_deferred_message_stay_with_its_sender(kept: bool) -> None:
    x = torch.ones(3, requires_grad=True)
    message = Message.deferred(
        lambda: {"x": 2 * x, "y": torch.ones(1)}, {"x": x, "y": x[:1]}, None, kept
    )
    for one in (message, message.stamped(0, (0, 0)).delivered(1).own()):
        assert not one["x"].requires_grad and one["x"].tolist() == [2, 2, 2]


@layouts
def test_nobody_else_is_disturbed_by_who_keeps_rows(
    experiment: Experiment, layout: Sequence[int]
) -> None:
    """A reader that keeps whatever it hears uses up all rows: then copies travel, as right."""
    kept: dict[int, list[torch.Tensor]] = {1: [], 3: []}
    said: list[torch.Tensor] = []

    def speaker(node: Node) -> Program:
        for t in range(40):
            yield Train(t)
            said.append(node.x.clone())
            yield Send([(HEARERS, Message({"params": node.x}))], (t, 0))
            yield Send([(HEARERS, Message({"other": torch.arange(t)}))], (t, 1))

    def hoarder(node: Node) -> Program:
        for t in range(40):
            heard = yield Receive([0], (t, 0))
            kept[node.uid].append(heard[0]["params"])
            heard = yield Receive([0], (t, 1))
            assert torch.equal(heard[0]["other"], torch.arange(t))
            yield Sleep(0)

    team = scripted(experiment, {0: speaker, 1: hoarder, 3: hoarder}, layout=layout, iterations=40)
    for rows in kept.values():
        assert all(torch.equal(row, x) for row, x in zip(rows, said, strict=True))
    arenas = [worker.arena for worker in team.workers]
    rows = [row for each in kept.values() for row in each]
    if layout != FAR:
        copies = [row for row in rows if not any(_lies_in(arena, row) for arena in arenas)]
        assert 0 < len(copies) < len(rows), "there were not enough rows"


def _lies_in(arena: Arena, tensor: torch.Tensor) -> bool:
    return arena.start <= tensor.data_ptr() < arena.stop
