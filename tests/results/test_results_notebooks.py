"""The notebooks: valid, thin, without outputs, and they run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import results

NOTEBOOKS = sorted((Path(results.__file__).parent / "notebooks").glob("*.ipynb"))


def _code(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean(notebook: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    first = next(cell for cell in content["cells"] if cell["cell_type"] == "code")
    assert first["metadata"] == {"tags": ["parameters"]}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_hold_no_logic(notebook: Path) -> None:
    for number, source in enumerate(_code(notebook)):
        compile(source, f"cell {number}", "exec")
        words = set(source.split())
        assert not words & {"if", "for", "while", "def", "class", "lambda", "with", "try:"}


def test_explore_run_runs(make_run: Callable[..., Any], tmp_path: Path) -> None:
    notebook = next(path for path in NOTEBOOKS if path.stem == "explore_run")
    parameters, *cells = _code(notebook)
    space: dict[str, Any] = {}
    exec(parameters, space)
    assert {"RUN_FOLDERS", "OUTPUT", "WIDTH"} <= space.keys()
    output = tmp_path / "explored"
    space |= {"RUN_FOLDERS": [make_run().root], "OUTPUT": str(output)}
    for number, source in enumerate(cells):
        exec(compile(source, f"cell {number}", "exec"), space)
    assert len(list((output / "figures").glob("*.pdf"))) == 8
    assert (output / "tables" / "explore_run_tidy.parquet").is_file()
