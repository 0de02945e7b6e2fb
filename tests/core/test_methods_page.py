"""docs/methods.md has a row for each sharing method, and says what is so."""

import re
from pathlib import Path

import pytest

from decentralizepy.registry import Target, fact, legacy, options

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "methods.md").read_text()
TABLE = re.search(r"^\| method .*\n((?:\|.*\n)+)", PAGE, re.M)
LINES = TABLE[1].splitlines()[1:] if TABLE else []
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]
METHODS = {name.split(".")[-1]: module for name, module in legacy().items() if ".sharing." in name}


def test_the_table_is_sorted_and_full():
    names = [row[0] for row in ROWS]
    assert names == sorted(names, key=str.lower) and len(set(names)) == len(names)
    assert all(len(row) == 6 and all(row) for row in ROWS)
    assert {f"`{name}`" for name in METHODS} <= set(names)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_names_files_and_options_that_are_there(row):
    for name in re.findall(r"`(\w+\.ini)`", row[5]):
        assert (REPOSITORY / "run_configuration" / name).is_file(), name
    name = row[0].strip("`")
    if name in METHODS:
        known = set(options(Target(METHODS[name], name)))
        said = set(re.findall(r"`(\w+)`", row[3])) - set(METHODS)
        assert said <= known | {"alpha"}
        assert known - said <= {"layerwise"} or "those of" in row[3]
        assert isinstance(fact(Target(METHODS[name], name), "packs", False), bool)
