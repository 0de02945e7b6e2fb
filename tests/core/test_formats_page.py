"""docs/formats.md names the columns, keys and kinds that there are, and none that there are not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from decentralizepy.communication import ports
from decentralizepy.engine import rest
from decentralizepy.graphs.files import KINDS
from decentralizepy.messages.header import (
    ALIGNMENT,
    DTYPES,
    MAX_DIMS,
    MAX_HEADER,
    MAX_PAYLOAD,
    MAX_TENSORS,
)
from decentralizepy.messages.meta import MAX_DEPTH, MAX_INT_BITS
from decentralizepy.runfolder import LEGACY_RESULTS, RECORD_COLUMNS
from decentralizepy.transport import frames
from decentralizepy.usage import USAGE_COLUMNS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")


def chapter(title: str) -> str:
    """The text below a heading, without that of other ones."""
    (found,) = re.findall(
        rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE
    )
    return str(found)


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of a table whose head begins so."""
    table = text.split(f"| {heading}")[1].split("\n\n")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]
    ]


def words(cells: list[str]) -> list[str]:
    """What stands between backquotes in the first cell."""
    return re.findall(r"`([^`]+)`", cells[0])


def test_the_columns_of_records_are_those_that_are_written() -> None:
    named = [
        word for cells in rows(chapter("Records"), "column | meaning") for word in words(cells)
    ]
    assert named == list(RECORD_COLUMNS)


def test_the_references_results_are_those_that_are_derived() -> None:
    table = rows(chapter("`<rank>_results.json`"), "key | column of the records")
    assert {word for cells in table for word in words(cells)} == set(LEGACY_RESULTS.values())


def test_the_columns_of_usage_are_those_that_are_sampled() -> None:
    table = rows(chapter("`usage.jsonl` and `power.jsonl`"), "column | meaning")
    assert [word for cells in table for word in words(cells)] == list(USAGE_COLUMNS)


def test_the_kinds_of_messages_are_those_that_are_taken() -> None:
    table = rows(chapter("Messages between workers"), "kind | what it is")
    assert {word.encode() for cells in table for word in words(cells)} == set(frames._KINDS)
    (rests,) = [cells[-1] for cells in table if words(cells) == ["Q"]]
    assert set(re.findall(r"`(\w+)`", rests)) == rest._KEYS


def test_the_types_and_limits_of_headers_are_those_that_are_checked() -> None:
    text = chapter("Messages between workers")
    (tensors,) = [
        cells[2] for cells in rows(text, "key | meaning | limits") if words(cells) == ["tensors"]
    ]
    assert set(re.findall(r"\b(?:b?float|complex|u?int)\d+\b|\bbool\b", tensors)) == set(DTYPES)
    for told in (
        f"at most {MAX_TENSORS}, ", f"at most {MAX_DIMS} dimensions",
        f"multiple of {ALIGNMENT} bytes", f"at most {MAX_INT_BITS} bits",
        f"at most {MAX_DEPTH} levels", f"header at most {MAX_HEADER >> 20} MiB",
        f"at most {MAX_PAYLOAD >> 30} GiB",
    ):  # fmt: skip
        assert told in text, told


@pytest.mark.parametrize(("place", "port"), [((0, 0), "offset + 1"), ((0, 3), "offset + 7")])
def test_the_ports_are_as_the_table_says(place: tuple[int, int], port: str) -> None:
    assert "`offset + 2w + 1`" in chapter("Ports")
    assert ports.worker_port(["a", "b"], 9000, *place) == 9000 + int(port.split()[-1])
    assert f"`offset + 2({ports.BLOCK}j + w) + 1`" in chapter("Ports")


def test_graph_files_have_the_suffixes_of_the_table() -> None:
    assert all(f"`{suffix}`" in chapter("Graph files") for suffix in KINDS)
