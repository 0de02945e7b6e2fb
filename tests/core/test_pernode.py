"""One number for all nodes, a list by uid, or a JSON file by uid; anything else is refused."""

import json
import pickle

import core_examples as examples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.errors import ConfigError
from decentralizepy.pernode import PerNode, read_per_node, smallest, value_of

WHERE = "small.ini: [TRAIN_PARAMS] rounds"


def rounds(text, folder):
    return read_per_node(text, 0, folder, WHERE)


def test_numbers_lists_and_files(tmp_path):
    (tmp_path / "work.json").write_text('{"0": 3, "5": 1, "default": 2}')
    assert read_per_node(7, 0, tmp_path, WHERE) == 7
    for text in ("3,1, 2", "[3, 1, 2]"):
        found = rounds(text, tmp_path)
        assert [value_of(found, uid) for uid in range(3)] == [3, 1, 2] and smallest(found) == 1
        found.check(3)
    found = rounds("work.json", tmp_path)
    found.check(6)
    assert [found.of(uid) for uid in range(6)] == [3, 2, 2, 2, 2, 1]
    assert (found.name, found.file) == ("work.json", tmp_path / "work.json")
    assert pickle.loads(pickle.dumps(found)) == found, "it travels to the workers"


def test_the_ini_finds_the_file_beside_itself(tmp_path):
    (tmp_path / "work.json").write_text('{"default": 2}')
    found = examples.read(
        tmp_path / "x.ini", TRAIN_PARAMS__rounds="work.json", TRAIN_PARAMS__batch_size="4, 8"
    )
    options = found.training.options
    assert options["rounds"].of(9) == 2 and options["batch_size"].of(1) == 8
    assert found.files == {"work.json": tmp_path / "work.json"}
    assert len(found.per_node) == 2
    with pytest.raises(ConfigError, match=r"batch_size has 2 entries for 3 nodes"):
        options["batch_size"].check(3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is expected"),
        ("1, two", "a whole number, a list"),
        ("1.5, 2", "a whole number, a list"),
        ("True", "a whole number, a list"),
        ("1, -1", "must be at least 0"),
        ("nowhere.json", "nowhere.json: cannot be read: No such file"),
        ("../work.json", "put the file beside the INI"),
        ("a" * 5000 + ".json", "cannot be read: File name too long"),
        ("nul\0.json", "is expected"),
    ],
)
def test_values_that_are_refused(text, words, tmp_path):
    with pytest.raises(ConfigError) as caught:
        rounds(text, tmp_path)
    assert words in str(caught.value) and str(caught.value).startswith(WHERE)


def test_plain_numbers_have_the_same_bounds():
    assert "[TRAIN_PARAMS] rounds = -1: must be at least 0" in examples.refusal(
        TRAIN_PARAMS__rounds="-1"
    )
    assert "batch_size = 4,0: must be at least 1" in examples.refusal(
        TRAIN_PARAMS__batch_size="4,0"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is expected"),
        ("{", "is expected"),
        ("[1, 2]", "not an object by uid"),
        ("{}", "not an object by uid"),
        ('{"0": 1, "0": 2}', "the key '0' appears twice"),
        ('{"00": 1}', "'00' is not a uid"),
        ('{"²": 1}', "is not a uid"),
        ('{"-1": 1}', "'-1' is not a uid"),
        ('{"0": 1.5}', "1.5 (of 0) is not a whole number"),
        ('{"0": true}', "True (of 0) is not a whole number"),
        ('{"0": -4}', "must be at least 0"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_files_that_are_refused(text, words, tmp_path):
    (tmp_path / "work.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        rounds("work.json", tmp_path)
    assert words in str(caught.value) and "work.json" in str(caught.value)


def test_files_and_nodes_must_fit():
    for values, default, words in (
        ({0: 1, 7: 2}, 3, "there is no node 7; nodes are 0 to 4"),
        ({0: 1, 1: 2}, None, "no value for node 2, and no default"),
    ):
        with pytest.raises(ConfigError, match=words):
            PerNode(values, default, "here").check(5)


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["0", "1", "default", "x", "٣"]), inner, max_size=3),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_file_is_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.json").write_bytes(content)
    try:
        found = rounds("any.json", folder)
    except ConfigError as error:
        assert str(error).startswith(WHERE)
    else:
        assert isinstance(found, PerNode) and smallest(found) >= 0
