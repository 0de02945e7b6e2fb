"""MODULES: further files of the user's, beside the INI on every machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from orchestrator_fakes import Make

from decentralizepy.cli import main as core
from decentralizepy.errors import ConfigError
from orchestrator.planning.describe import describe
from orchestrator.running.experiment import (
    Setting,
    create_run_folder,
    example_folder,
    make_plan,
    preview,
    write_inputs,
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of the user's with a package and a table."""
    folder = tmp_path / "own"
    (folder / "pack" / "__pycache__").mkdir(parents=True)
    (folder / "pack" / "inner.py").write_text("x = 1\n")
    (folder / "pack" / "__pycache__" / "inner.pyc").touch()
    (folder / "table.csv").write_text("1,2\n")
    return folder


def test_files_are_beside_the_ini(make: Make, own: Path, tmp_path: Path) -> None:
    """In the run folder too, from which the run can be repeated."""
    inputs, planned = make_plan(make(MODULES=["own/pack", str(own / "table.csv")]), Setting())
    shown = preview(inputs, planned, Setting(), example_folder(planned))
    names = ["pack/inner.py", "table.csv"]
    assert list(shown.task.modules.files) == names
    assert shown.task.search == (own.parent, own)
    command = shown.command(0)
    place = command.index("--modules")
    assert command[place + 1 : place + 3] == names
    assert "pack/inner.py, table.csv: 10 B, beside the INI" in describe(
        shown, example_folder(planned)
    )


def test_a_run_folder_has_them_and_names_them(make: Make, own: Path) -> None:
    setting = Setting()
    inputs, planned = make_plan(make(MODULES=["own/pack", str(own / "table.csv")]), setting)
    folder = create_run_folder(planned, setting.now())
    write_inputs(folder, inputs, preview(inputs, planned, setting, folder))
    assert (folder.root / "table.csv").read_text() == "1,2\n"
    assert json.loads(folder.config.read_text())["MODULES"] == ["pack", "table.csv"]
    again, _ = make_plan(folder.config, setting)
    assert again.modules.files["pack/inner.py"] == folder.root / "pack" / "inner.py"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.py", "no such file or folder; looked in"),
        ("own/../small.ini", "is taken in a run folder"),
        (".", "no such file or folder"),
        ("small.ini", "is taken in a run folder"),
        ("ring.edges", "is taken in a run folder"),
        ("machine0", "is taken in a run folder"),
        ("empty", "there is no file in"),
        ("big", "bytes are more than 64 MiB: for data there is DATASETS_DIR"),
    ],
)
def test_what_cannot_be_copied_is_refused(make: Make, tmp_path: Path, name: str, said: str) -> None:
    for folder in ("machine0", "empty"):
        (tmp_path / folder).mkdir()
    with (tmp_path / "big").open("wb") as big:
        big.truncate((64 << 20) + 1)
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_plan(make(MODULES=[name]), Setting())


@pytest.mark.parametrize("name", ["nowhere.py", "../ring.edges", "/etc/passwd"])
def test_the_core_refuses_what_is_not_beside_the_ini(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = make().parent
    (folder / "inner").mkdir()
    ini = folder / "inner" / "small.ini"
    ini.write_bytes((folder / "small.ini").read_bytes())
    arguments = ["-cf", str(ini), "-gf", str(folder / "ring.edges"), "-ld", str(tmp_path / "logs")]
    with pytest.raises(SystemExit, match="2"):
        core(["run", *arguments, "--modules", name])
    assert f"--modules {name}: there is no such file" in capsys.readouterr().err
