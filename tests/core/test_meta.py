"""Meta that JSON would change is refused where it is sent, and named."""

import json
import timeit
from collections import OrderedDict
from enum import IntEnum, StrEnum
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from decentralizepy.messages.header import Header, MessageError, decode
from decentralizepy.messages.meta import MAX_DEPTH, MAX_INT_BITS, check_meta

plain = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5)
)  # fmt: skip
strange = st.one_of(
    st.tuples(st.integers()), st.binary(max_size=3), st.frozensets(st.integers(), max_size=2),
    st.complex_numbers(), st.just(np.float64(1)), st.just(np.int64(1)), st.just(np.zeros(2)),
)  # fmt: skip


def trees(leaves, keys):
    return st.dictionaries(
        keys,
        st.recursive(
            leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner)
        ),
        max_size=4,
    )


class Color(IntEnum):
    RED = 1


class Name(StrEnum):
    A = "a"


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return {"deep": value}


def same(a, b):
    """Equal, of equal types, NaN included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


@given(trees(plain, st.text(st.characters(), max_size=3)))
@example({"nan": float("nan"), "most": float("inf"), "least": -float("inf"), "zero": -0.0})
@example({"big": (1 << MAX_INT_BITS) - 1, "surrogate": "\ud800"})
@example(nested(MAX_DEPTH))
def test_what_passes_arrives_as_it_was(meta):
    check_meta(meta)
    assert same(decode(Header(0, (0, 0), (), meta).encode()).meta, meta)


@given(trees(plain | strange, st.text(max_size=3) | st.integers(0, 2) | st.booleans() | st.none()))
def test_whatever_json_would_change_is_refused(meta):
    try:
        same_again = same(json.loads(json.dumps(meta)), meta)
    except (TypeError, ValueError):
        same_again = False
    if same_again:
        check_meta(meta)
        return
    with pytest.raises(MessageError) as caught:
        check_meta(meta)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({3: 1.5}, r"meta has the key 3, of type int; keys are str in JSON"),
        ({"a": {None: 1}}, r"meta\['a'\] has the key None, of type NoneType"),
        ({Name.A: 1}, r"of type .*Name"),
        ({"pair": (1, 2)}, r"meta\['pair'\] = \(1, 2\) is of type tuple; .*send a list"),
        ({"a": [0, {"b": {1, 2}}]}, r"meta\['a'\]\[1\]\['b'\] = \{1, 2\} is of type set"),
        ({"w": np.float64(0.5)}, r"\['w'\] = np.float64\(0.5\) is of type numpy.float64; .*\.item"),
        ({"i": np.int64(3)}, r"of type numpy.int64"),
        ({"x": np.zeros(1000)}, r"of type numpy.ndarray; send it as one of the message's tensors"),
        ({"raw": b"abc"}, r"of type bytes; JSON has no bytes: send a uint8 tensor"),
        ({"c": Color.RED}, r"of type .*Color"),
        ({"o": OrderedDict(a=1)}, r"of type collections.OrderedDict"),
        ({"big": 1 << MAX_INT_BITS}, r"meta\['big'\] is an int of more than 8192 bits"),
        (nested(MAX_DEPTH + 1), r"nested deeper than 64 levels"),
    ],
)  # fmt: skip
def test_the_error_names_key_value_and_remedy(meta, said):
    with pytest.raises(MessageError, match=said):
        check_meta(meta)


def test_tensors_are_refused_with_the_remedy():
    torch = pytest.importorskip("torch")
    for value in (torch.tensor(1.0), torch.zeros(2, 2)):
        with pytest.raises(MessageError, match=r"of type torch.Tensor; send it as one of"):
            check_meta({"loss": value})


def test_a_list_that_holds_itself_is_refused():
    endless: list = []
    endless.append(endless)
    with pytest.raises(MessageError, match="nested deeper"):
        check_meta({"endless": endless})


def test_values_that_cannot_be_shown_are_refused_all_the_same():
    class Mute:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(MessageError, match=r"meta\['x'\] = \(no repr\)"):
        check_meta({"x": Mute()})


def test_any_mapping_will_do_as_the_whole():
    check_meta(MappingProxyType({"a": 1}))


def test_it_costs_next_to_nothing():
    """It is called for every message: microseconds, with room for a busy machine."""
    for meta in ({}, {"weight": 1.5}):
        seconds = min(timeit.repeat(lambda meta=meta: check_meta(meta), number=1000, repeat=5))
        assert seconds / 1000 < 20e-6
