"""The notebooks: valid, thin, without outputs, and they run."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

import results

#: what belongs in functions
LOGIC = (ast.If, ast.IfExp, ast.For, ast.While, ast.FunctionDef, ast.ClassDef, ast.Lambda,
         ast.With, ast.Try, ast.comprehension)  # fmt: skip
NOTEBOOK_FOLDER = Path(results.__file__).parent / "notebooks"
NOTEBOOKS = sorted(NOTEBOOK_FOLDER.glob("*.ipynb"))


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
        nodes = [*ast.walk(ast.parse(source, f"cell {number}"))]
        assert not [node for node in nodes if isinstance(node, LOGIC)]


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


def test_explore_run_runs_as_it_is(make_run: Callable[..., Any], tmp_path: Path) -> None:
    """In Jupyter's own kernel, from its own folder, on the newest of the runs that lie there."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    make_run("results/my_results/20260101-000000_old", counts=(2,))
    newest = make_run("results/my_results/20260102-000000_new").root
    here = tmp_path / "results" / "notebooks"
    here.mkdir()
    content = nbformat.read(NOTEBOOK_FOLDER / "explore_run.ipynb", as_version=4)
    nbformat.validate(content)
    where = {"metadata": {"path": str(here)}}
    done = nbclient.NotebookClient(content, timeout=120, resources=where).execute()
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert "20260102-000000_new" in code[1].outputs[0]["text"]
    assert sum("image/png" in out.get("data", {}) for cell in code for out in cell.outputs) == 6
    runs = {path.name for path in newest.parent.iterdir()}
    assert runs == {"20260101-000000_old", "20260102-000000_new"}  # and nothing else
    assert (tmp_path / "results" / "explored" / "figures" / "README.md").is_file()


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebooks share the small sweep that the first of them makes."""
    return tmp_path_factory.mktemp("example")


def _top_to_bottom(name: str, **parameters: Any) -> dict[str, Any]:
    """Run all cells of a notebook; what the last line of each shows is in ``shown``."""
    first, *cells = _code(NOTEBOOK_FOLDER / f"{name}.ipynb")
    space: dict[str, Any] = {}
    exec(first, space)
    assert parameters.keys() <= space.keys()
    space |= parameters
    shown = []
    for number, source in enumerate(cells):
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), space)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), space))
    return space | {"shown": shown}


def test_privacy_plots_run(example: Path, tmp_path: Path) -> None:
    space = _top_to_bottom(
        "privacyplots_refactoreddata", EXAMPLE=str(example), OUTPUT=str(tmp_path)
    )
    figures = [one for one in space["shown"] if isinstance(one, Figure)]
    assert len(figures) == 5 and (tmp_path / "figures/privacy.pdf").is_file()
    points = space["shown"][0]
    assert set(points["variant"]) == {"ZeroSumSharing", "Muffliato"} and len(points) == 4
    table = space["shown"][-1]
    assert len(table) == 6 and table["p_holm"].notna().all()


def test_data_refactoring_runs(example: Path, tmp_path: Path) -> None:
    space = _top_to_bottom("data_refactoring", EXAMPLE=str(example), OUTPUT=str(tmp_path))
    old = space["shown"][1]
    assert old["iteration"].tolist() == [1, 2, 4, 6]
    assert (
        old[["test_niid_acc mean", "Attacker advantage mean PRE-STEP-niid"]].notna().all(axis=None)
    )
    niid = pd.read_json(next(tmp_path.glob("my_results/Muffliato_0.4_*/machine0/0_results.json")))
    assert niid["test_niid_acc"].between(0, 100).all()
    assert "roc_auc mean" in space["shown"][2]
    assert (tmp_path / "tables/refactored_tidy.parquet").is_file()


def test_attacks_run(example: Path) -> None:
    space = _top_to_bottom("attacks", EXAMPLE=str(example), EPOCHS=2)
    assert sum(isinstance(one, Figure) for one in space["shown"]) == 3
    classified = space["shown"][-1]
    assert set(classified["attacked_information"]) == {"all", "last"}
    assert len(classified) == 2 * 6


def test_quickstart_runs_in_jupyters_kernel(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    content = nbformat.read(NOTEBOOK_FOLDER / "quickstart.ipynb", as_version=4)
    nbformat.validate(content)
    first = next(cell for cell in content.cells if cell.cell_type == "code")
    first.source += f"\nITERATIONS, TEST_AFTER, RUN = 4, 2, {str(tmp_path / 'run')!r}"
    where = {"metadata": {"path": str(NOTEBOOK_FOLDER)}}
    done = nbclient.NotebookClient(content, timeout=120, resources=where).execute()
    outputs = [out for cell in done.cells for out in cell.get("outputs", [])]
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 2
    assert any("16 nodes" in out.get("text", "") for out in outputs)
    assert (tmp_path / "run/report.html").is_file()


def test_what_a_notebook_writes_is_kept_out_of_git() -> None:
    ignored = (Path(results.__file__).parents[1] / ".gitignore").read_text().splitlines()
    assert "results/explored/" in ignored
