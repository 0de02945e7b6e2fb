"""JSON: users' own with one clear message, ours without a fuss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.errors import ConfigError
from decentralizepy.jsonfile import parse_json, parse_object, read_json_file, read_object

BROKEN = (
    ("{", "line 1, column 2"),
    ('{\n "a": }', "line 2, column 7"),
    ('{"a": 1, "a": 2}', "'a' appears twice"),
    ("[NaN]", "NaN is no number"),
    ("[-Infinity]", "-Infinity is no number"),
    ("[" * 100_000, "nested too deeply"),
    ('{"\\ud800": 1}', "surrogate"),
)


@pytest.mark.parametrize(("text", "words"), BROKEN)
def test_what_is_wrong_is_said_in_a_line(tmp_path, text, words):
    with pytest.raises(ValueError, match=words) as error:
        parse_json(text)
    assert "\n" not in str(error.value)
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"f\.json is not valid JSON: .*{words}.* \(--faults\)"):
        read_json_file(tmp_path / "f.json", "--faults")


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null", "[" * 100_000, "\xff"])
def test_what_holds_no_object_counts_as_an_empty_one(tmp_path, text):
    (tmp_path / "f.json").write_bytes(text.encode("latin-1"))
    assert read_object(tmp_path / "f.json") == {} == parse_object(text.encode("latin-1"))


def test_what_cannot_be_read_counts_as_an_empty_object(tmp_path):
    assert read_object(tmp_path / "absent") == {} == read_object(tmp_path)
    (tmp_path / "f.json").write_text('{"a": 1}')
    assert read_object(tmp_path / "f.json") == {"a": 1}


@given(st.binary(max_size=40))
def test_nothing_makes_reading_an_object_raise(data):
    assert isinstance(parse_object(data), dict)
