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


def test_cells_run(make_run: Callable[..., Any], tmp_path: Path) -> None:
    notebook = next(path for path in NOTEBOOKS if path.stem == "explore_run")
    parameters, *cells = _code(notebook)
    space: dict[str, Any] = {}
    exec(parameters, space)
    assert {"RUN_FOLDERS", "OUTPUT", "WIDTH"} <= space.keys()
    output = tmp_path / "explored"
    runs = [make_run("a", lr=1).root, make_run("b", lr=2).root]
    space |= {"RUN_FOLDERS": runs, "OUTPUT": str(output)}
    for number, source in enumerate(cells):
        exec(compile(source, f"cell {number}", "exec"), space)
    assert len(list((output / "figures").glob("*.pdf"))) == 8
    assert (output / "tables" / "explored_tidy.parquet").is_file()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_as_it_is(
    notebook: Path, make_run: Callable[..., Any], tmp_path: Path
) -> None:
    """In Jupyter's own kernel, from its own folder, on the newest of the runs that lie there."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    make_run("results/my_results/20260101-000000_old", counts=(2,))
    newest = make_run("results/my_results/20260102-000000_new").root
    here = tmp_path / "results" / "notebooks"
    here.mkdir()
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    where = {"metadata": {"path": str(here)}}
    done = nbclient.NotebookClient(content, timeout=120, resources=where).execute()
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert "20260102-000000_new" in code[1].outputs[0]["text"]
    assert sum("image/png" in out.get("data", {}) for cell in code for out in cell.outputs) == 6
    runs = {path.name for path in newest.parent.iterdir()}
    assert runs == {"20260101-000000_old", "20260102-000000_new"}  # and nothing else
    assert (tmp_path / "results" / "explored" / "figures" / "README.md").is_file()


def test_what_a_notebook_writes_is_kept_out_of_git() -> None:
    ignored = (Path(results.__file__).parents[1] / ".gitignore").read_text().splitlines()
    assert "results/explored/" in ignored
