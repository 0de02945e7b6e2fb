"""The one dialect of INI files."""

from pathlib import Path

import pytest

from decentralizepy.errors import ConfigError
from decentralizepy.ini import parse_ini

INI = Path("a.ini")
TEXT = """
[DATASET]
Random_Seed = 90 ; as in the paper
dir = %(home)s/data # not interpolated
[DEFAULT]
a = 1
"""


def test_comments_case_and_defaults():
    found = parse_ini(TEXT, INI)
    assert found == {
        "DATASET": {"random_seed": "90", "dir": "%(home)s/data"}, "DEFAULT": {"a": "1"}
    }  # fmt: skip
    assert list(found) == ["DATASET", "DEFAULT"]


def test_values_as_they_stand():
    assert parse_ini(TEXT, INI, ())["DATASET"]["random_seed"] == "90 ; as in the paper"


@pytest.mark.parametrize(
    "text", ["a = 1", "[A]\nb = 1\nB = 2", "[A]\n[A]", "[A]\nwhat is this", "[A]\n" + "x\n" * 1000]
)
def test_what_is_no_ini_is_one_line_with_the_file(text):
    with pytest.raises(ConfigError, match=r"a\.ini is not a valid INI file: ") as error:
        parse_ini(text, INI)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
