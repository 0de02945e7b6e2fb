"""The page about the house is true: its paths exist, its layers hold, and its code is the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CORE = REPOSITORY / "decentralizepy"
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
#: a path in the text or in the picture, of a file of ours or of a folder
PATH = re.compile(r"(?<![\w<>/.-])(?:\w+/)*\w+\.(?:py|json|md|j2)(?![\w.])|`((?:\w+/)+)`")
#: files that runs write, and what is planned and not there
ELSEWHERE = {
    "args.json", "run.json", "status.json", "ip.json",
    "distributed/", "transport/parcel.py",
}  # fmt: skip


def paths(line: str) -> Iterator[str]:
    """What a line names as a file or folder of the repository."""
    for match in PATH.finditer(line):
        name = match[1] or match[0]
        if name not in ELSEWHERE:
            yield name


def found(name: str, folder: Path) -> Path | None:
    """Where a path is: in the folder of the one before it, in the core, or in the repository."""
    for base in (folder, CORE, REPOSITORY, REPOSITORY / "docs"):
        if (base / name).exists():
            return base / name
    return None


def missing(text: str) -> list[str]:
    """Paths of a page that are nowhere."""
    absent = []
    for line in text.splitlines():
        folder = CORE
        for name in paths(line):
            path = found(name, folder)
            if path is None:
                absent.append(name)
            else:
                folder = path if path.is_dir() else path.parent
    return absent


def test_every_path_on_the_page_exists() -> None:
    assert len([name for line in PAGE.splitlines() for name in paths(line)]) > 200
    assert missing(PAGE) == []


@pytest.mark.parametrize(
    "text",
    ["look at `node/nod.py`", "| x | `graphs/graph.py`, `grahp.py` |", " no/where.py   does"],
)
def test_a_path_that_is_nowhere_would_be_found(text: str) -> None:
    assert len(missing(text)) == 1


def test_the_code_on_the_page_is_the_code() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert block in (CORE / "node" / "dpsgd.py").read_text(encoding="utf-8")


# ---------------------------------------------------------------------- layers


def layers() -> list[list[str]]:
    """The lines of the table of layers: names of modules, and of folders with a slash."""
    table = PAGE.split("| layer | what it is |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [re.findall(r"`(\w+/?)`", cell) for cell in cells]


def part(path: Path) -> str:
    """Which entry of the table a source file belongs to."""
    first = path.relative_to(CORE).parts[0]
    return first.removesuffix(".py") if first.endswith(".py") else f"{first}/"


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Entries of the table that a file imports from, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        for alias in node.names:
            words = f"{node.module}.{alias.name}".split(".")
            if words[0] == "decentralizepy" and (CORE / words[1]).is_dir():
                yield f"{words[1]}/", node.lineno
            elif words[0] == "decentralizepy" and (CORE / f"{words[1]}.py").is_file():
                yield words[1], node.lineno


def test_all_of_the_core_is_in_the_table_of_layers_once() -> None:
    named = [name for line in layers() for name in line]
    sources = {part(path) for path in CORE.rglob("*.py")}
    assert set(named) == sources, "each module and folder has a line in docs/architecture.md"
    assert len(named) == len(set(named))


def test_imports_point_up_the_table() -> None:
    level = {name: number for number, line in enumerate(layers()) for name in line}
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line} imports {other}"
        for path in sorted(CORE.rglob("*.py"))
        for other, line in imported(path)
        if other != part(path) and level[other] >= level[part(path)]
    ]
    assert not wrong
    assert {"errors"} == {name for name, _ in imported(CORE / "files.py")}, "imports are seen"
