"""Words between processes: every one survives the way, and nothing else is taken for one."""

import json
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.codec import WordError, decode, encode, read, value_of
from decentralizepy.node.membership import Epoch
from decentralizepy.words import (
    ANNOUNCEMENTS,
    FROM_MACHINES,
    FROM_WORKERS,
    ORDERS,
    Abort,
    Complete,
    End,
    Ended,
    Finished,
    Go,
    Hello,
    Leave,
    Leaving,
    NodeEnded,
    NodeSaved,
    NodesLost,
    Pause,
    Record,
    Rollback,
    Start,
    WorkerPaused,
)  # fmt: skip

VOCABULARIES = (FROM_WORKERS, ORDERS, FROM_MACHINES, ANNOUNCEMENTS)
PLACES = [(vocabulary, kind) for vocabulary in VOCABULARIES for kind in vocabulary]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
PLAIN = {
    int: st.integers(-(2**63), 2**63), float: st.floats(allow_nan=False), str: st.text(max_size=8),
    bool: st.booleans(), Any: JSON,
}  # fmt: skip


def of(kind):
    """Values of an annotated type."""
    inner = get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if get_origin(kind) is types.UnionType:
        return st.none() | of(inner[0])
    if get_origin(kind) is tuple and inner[-1] is Ellipsis:
        return st.lists(of(inner[0]), max_size=3).map(tuple)
    if get_origin(kind) is tuple:
        return st.tuples(*map(of, inner))
    if get_origin(kind) is Mapping:
        keys = st.integers(0, 10**18) if inner[0] is int else of(inner[0])
        return st.dictionaries(keys, of(inner[1]), max_size=3)
    hints = get_type_hints(kind)
    return st.builds(kind, **{one.name: of(hints[one.name]) for one in fields(kind)})


def test_all_kinds_are_dataclasses_and_no_two_of_a_vocabulary_look_alike():
    for vocabulary in VOCABULARIES:
        tags = [kind.tag for kind in vocabulary]
        assert all(map(is_dataclass, vocabulary)) and len(set(tags)) == len(tags) > 4


@pytest.mark.parametrize(("vocabulary", "kind"), PLACES, ids=lambda item: getattr(item, "tag", ""))
@given(data=st.data())
def test_a_word_arrives_as_it_was_said(vocabulary, kind, data):
    word = data.draw(of(kind))
    assert decode(encode(word), vocabulary) == word
    assert decode(encode(word, machine=3), vocabulary) == word


FORMS = [
    (FROM_WORKERS, Record({"uid": 1}), {"record": {"uid": 1}}),
    (FROM_WORKERS, NodeSaved(5, 3, 7), {"saved": 5, "uid": 3, "crc32": 7}),
    (FROM_WORKERS, NodeEnded(5, 3, 7), {"ended": 5, "uid": 3, "crc32": 7}),
    (FROM_MACHINES, Ended(5), {"ended": 5}),
    (FROM_WORKERS, WorkerPaused(2, 9), {"paused": 2, "round": 9}),
    (FROM_WORKERS, NodesLost((4,), 2), {"lost": [4], "round": 2}),
    (FROM_WORKERS, Finished(1.5), {"finished": 1.5}),
    (FROM_MACHINES, Hello(2, {"a": "b"}, {4: (Epoch(1, (2,), "x"),)}),
     {"hello": True, "workers": 2, "digests": {"a": "b"},
      "sets": {"4": [{"before": 1, "left": [2], "why": "x"}]}}),
    (ANNOUNCEMENTS, Start((1, 2), 0, (), 0),
     {"workers": [1, 2], "from": 0, "left": [], "attempt": 0}),
    (ORDERS, Go(), {"go": True}),
    (ORDERS, Pause(1), {"pause": 1}),
    (ORDERS, Leave(Leaving(3, (1,), "", ((0, 1),))),
     {"epoch": {"before": 3, "left": [1], "why": "", "workers": [[0, 1]]}}),
    (ANNOUNCEMENTS, Complete(5), {"complete": 5}),
    (ANNOUNCEMENTS, Rollback(1, "x"), {"rollback": 1, "why": "x"}),
    (ANNOUNCEMENTS, End(), {"end": True}),
    (ANNOUNCEMENTS, Abort("x"), {"abort": "x", "config": False}),
]  # fmt: skip


@pytest.mark.parametrize(("vocabulary", "word", "value"), FORMS, ids=lambda item: str(item)[:12])
def test_the_form_of_a_word(vocabulary, word, value):
    assert value_of(word) == value and read(value, vocabulary) == word


@pytest.mark.parametrize(("vocabulary", "word", "value"), FORMS, ids=lambda item: str(item)[:12])
@given(data=st.data())
def test_only_whole_words_are_understood(vocabulary, word, value, data):
    key = data.draw(st.sampled_from(sorted(value.keys() - {"config"})))
    kinds = (int, float) if type(value[key]) is float else (type(value[key]),)
    wrong = data.draw(JSON.filter(lambda other: type(other) not in kinds))
    second = next(kind.tag for kind in vocabulary if kind.tag not in value)
    without = {other: value[other] for other in value.keys() - {key}}
    damaged = [value | {key: wrong}, value | {second: True}, without]
    for said in damaged:
        with pytest.raises(WordError):
            read(said, vocabulary)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@given(said=JSON | st.dictionaries(st.sampled_from(["saved", "lost", "epoch", "hello"]), JSON))
def test_whatever_is_said_is_a_word_or_an_error(vocabulary, said):
    with suppress(WordError):
        assert type(decode(json.dumps(said), vocabulary)) in set(vocabulary)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('{"saved": 5, "uid": 3}', "'saved' without 'crc32'"),
        ('{"saved": 5, "uid": "3", "crc32": 1}', "'uid' of 'saved' is '3'"),
        ('{"saved": true, "uid": 3, "crc32": 1}', "'saved' of 'saved' is True"),
        ('{"svaed": 5}', "none of the words known here: 'svaed'"),
        ('{"done": 1, "saved": 5}', "saved and done of the words known here"),
        ("[]", "none of the words"),
        ('{"finished": 1' + "0" * 400 + "}", "'finished' of 'finished' is too large"),
    ],
)
def test_an_error_tells_what_is_wrong(said, words):
    with pytest.raises(WordError, match=words):
        decode(said, FROM_WORKERS)


def test_what_another_version_adds_is_ignored():
    """So that its hello is understood, and rejected because its code is another."""
    said = value_of(Hello(1, {"code": "2"}, {})) | {"colour": "blue"}
    assert read(said, FROM_MACHINES) == Hello(1, {"code": "2"}, {})


@pytest.mark.parametrize("sets", [{"x": []}, {"-1": []}, {"9" * 20: []}, {"4": [[]]}, {"²": []}])
def test_checkpoint_sets_are_by_iteration(sets):
    with pytest.raises(WordError):
        read(value_of(Hello(1, {}, {})) | {"sets": sets}, FROM_MACHINES)


@pytest.mark.parametrize(("workers", "fit"), [((1, 2), True), ((1,), False), ((1, 5), False),
                                              ((0, 1), False)])  # fmt: skip
def test_workers_fit_the_nodes(workers, fit):
    assert Start(workers, 0, (), 0).fits((4, 4)) == fit
    assert Hello(workers[-1], {}, {}).fits(4) == (0 < workers[-1] <= 4)
