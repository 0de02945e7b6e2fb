"""The wheel holds all three rooms and what they read, and nothing of people's runs."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("decentralizepy", "orchestrator", "results")


def _can_build():
    try:
        return int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not _can_build(), reason="no setuptools of this year to build with")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's content, as pip would lay it out, built from a copy with a run folder in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "g5k_execution.py"):
        shutil.copy(REPOSITORY / name, source)
    waste = shutil.ignore_patterns("__pycache__", "my_results", "explored")
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, source / room, ignore=waste)
    run = source / "results" / "my_results" / "20260101-000000_mine"
    run.mkdir(parents=True)
    (run / "my_method.py").write_text("secret = 1\n")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=150)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _run(installed, folder, *command):
    """Run a module of the wheel in another folder; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(installed)}, check=False,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_in_it_and_no_run(installed):
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    sources = {
        str(path.relative_to(REPOSITORY))
        for room in ROOMS
        for path in (REPOSITORY / room).rglob("*.py")
        if not {"__pycache__", "my_results", "explored"} & set(path.parts)
    }
    assert {name for name in files if name.endswith(".py")} == sources
    assert {"orchestrator/templates/ip.json.j2", "results/notebooks/explore_run.ipynb"} <= files


def test_results_work_from_anywhere(installed, tmp_path):
    machine = tmp_path / "run" / "machine0"
    machine.mkdir(parents=True)
    lines = [{"iteration": t, "uid": u, "test_acc": 50 + t + u} for t in (1, 2) for u in (0, 1)]
    (machine / "records_0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    assert "mean 52.50 %" in _run(installed, tmp_path, "results", "run")
    assert (tmp_path / "run" / "figures" / "test_accuracy_iteration.pdf").is_file()


def test_the_orchestrator_plans_from_anywhere(installed, tmp_path):
    for name in ("digits_kshard2_mlp.ini", "16_4regular.edges"):
        shutil.copy(REPOSITORY / "run_configuration" / name, tmp_path)
    config = json.loads((REPOSITORY / "g5k_config" / "quickstart.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps(config))
    shown = _run(installed, tmp_path, "orchestrator", "mine.json", "--dry-run")
    assert f"{tmp_path}/results/my_results/" in shown
    assert '"1": "127.0.0.2"' in shown
