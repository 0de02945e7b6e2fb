"""What a checkpoint keeps of a node comes back as it was, or an error says why it would not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from launching import Experiment
from teams import Scripted, scripted

from decentralizepy.errors import RunError
from decentralizepy.graphs.generators import ring
from decentralizepy.kept import flatten, unflatten
from decentralizepy.node.effects import Checkpoint
from decentralizepy.node.node import Node, Program

json_values = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats(0, 1))
names = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1)
leaves = st.one_of(
    json_values, st.lists(json_values, max_size=3), st.builds(torch.rand, st.integers(1, 4))
)
nested = st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8)
states = st.dictionaries(names, nested, max_size=3)


class Same:
    """Compares nested states with tensors in them, and the order of their entries."""

    kinds: ClassVar = (dict, torch.Tensor)

    @classmethod
    def of(cls, a: object, b: object) -> bool:
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict) and isinstance(b, dict):
            return list(a) == list(b) and all(cls.of(a[key], b[key]) for key in a)
        return a == b


@given(states)
def test_states_survive_flattening(state: dict) -> None:
    assert Same.of(unflatten(*flatten(state)), state)


class Remembering(Scripted):
    kept: ClassVar = ("memory",)
    memory: Any = None


def saves(value: Any) -> Callable[[Node], Program]:
    def program(node: Node) -> Program:
        if node.round == 0:
            node.memory = value
            yield Checkpoint(0)

    return program


def run(folder: Path, cache: Path, value: Any, **more: Any) -> Node:
    """Node 2 of a run that is saved while node 2 has ``value``."""
    one = Experiment(folder / "e", ring(3), cache)
    flags, kind = ("--checkpoint_after", "1"), more.pop("kind", Remembering)
    team = scripted(
        one, {0: saves(0), 1: saves(0), 2: saves(value)}, *flags, kind=kind, iterations=3, **more
    )
    return team.workers[0].seats[2].node


def test_a_dictionary_comes_back_in_its_own_order(tmp_path: Path, cache: Path) -> None:
    """Also one with tensors of several sizes beside JSON: a program may add them up in turn."""
    value = {"9": torch.ones(3), "1": 1, "5": torch.zeros(2, dtype=torch.float64)}
    value["2"] = {"z": torch.ones(1), "a": None, "m": torch.ones(2)}
    value["0"] = torch.ones(3)
    run(tmp_path, cache, value)
    node = run(tmp_path, cache, value, restore=("team", 1), name="again")
    assert Same.of(node.memory, value)


def test_a_tensor_comes_back_as_it_reads_whatever_lies_behind_it(
    tmp_path: Path, cache: Path
) -> None:
    spectrum, square = torch.fft.rfft(torch.arange(9.0)), torch.arange(9.0).view(3, 3)
    value = {
        "conjugate": spectrum.conj(), "imaginary": spectrum.conj().imag, "turned": square.t(),
        "expanded": torch.ones(1).expand(4), "part": square[1:], "whole": square,
        "one": square[2, 2],
    }  # fmt: skip
    run(tmp_path, cache, value)
    node = run(tmp_path, cache, value, restore=("team", 1), name="again")
    assert Same.of(node.memory, value)


BAD = {
    "a key": ({"a": {1: 2}}, "['a'] has the key 1, of type int; take text, as str(key)"),
    "a slash": ({"a/b": 1}, " has the key 'a/b'; keys hold no /"),
    "a key in a list": ([{"b": [{1: 2}]}], "[0]['b'][0] has the key 1, of type int"),
    "a set": ({"a": {1}}, "['a'] is of type set; keep a sorted list"),
    "an array": (np.zeros(3), " is of type numpy.ndarray; keep torch.as_tensor of it, or its"),
    "a number": ([np.int64(3)], "[0] is of type numpy.int64; keep torch.as_tensor of it, or its"),
    "bytes": (b"a", " is of type bytes; keep a uint8 tensor"),
    "tensors": ([torch.ones(1)], "[0] is of type torch.Tensor; lists hold no tensors: keep a"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, "['a'] is torch.sparse_coo; keep its indices and"),
    "complex": ({"a": torch.ones(1, dtype=torch.complex128)}, "['a'] is a tensor that a file does"),
    "anything": (object(), " is of type object; keep tensors, JSON values and dictionaries of"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "why"), BAD.values(), ids=BAD)
def test_what_cannot_be_kept_is_named_with_its_node(
    value: Any, why: str, tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(RunError) as told:
        run(tmp_path, cache, value)
    text = f"node 2 cannot be saved after iteration 1: Remembering.memory{why}"
    assert str(told.value).startswith(text)


def test_a_state_of_ones_own_is_named_too(tmp_path: Path, cache: Path) -> None:
    class Own(Remembering):
        kept: ClassVar = ()

        def state(self) -> dict[str, Any]:
            return {"mine": {"a": self.memory}}

    with pytest.raises(RunError, match=r"after iteration 1: Own.state\(\)\['mine'\]\['a'\] is of"):
        run(tmp_path, cache, {1, 2}, kind=Own)


def test_a_state_that_raises_names_its_node(tmp_path: Path, cache: Path) -> None:
    class Fails(Remembering):
        def state(self) -> dict[str, Any]:
            return {"share": 1 / len(self.rows.keys() - {"x"})}

    with pytest.raises(RunError, match="node 0 failed in iteration 1: ZeroDivisionError: "):
        run(tmp_path, cache, 1, kind=Fails)


def test_a_name_that_is_no_attribute_is_told(tmp_path: Path, cache: Path) -> None:
    class Absent(Remembering):
        kept: ClassVar = ("nothing",)

    told = "node 0 cannot be saved after iteration 1: Absent.kept names 'nothing', and the Absent"
    with pytest.raises(RunError, match=told):
        run(tmp_path, cache, 1, kind=Absent)
