"""The command: exit codes, dry run, JSON, help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orchestrator_fakes as fakes
import pytest
from orchestrator_fakes import REPOSITORY, Make

from orchestrator.cli import main
from orchestrator.running.experiment import Setting

Build = Callable[..., Setting]
COMMAND = [sys.executable, str(REPOSITORY / "g5k_execution.py")]


@pytest.fixture(autouse=True)
def signals_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decentralizepy.interrupts.Interrupts.install", lambda self: None)


def test_a_dry_run_tells_everything_and_starts_nothing(
    make: Make, setting: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make()
    assert main([str(path), "--dry-run"], setting()) == 0
    shown = capsys.readouterr().out
    for expected in ("machine 1  127.0.0.2  4 nodes (uids 5 to 8)", "697,248 per iteration",
                     "6,972,480 in all", "-mid 1", "addresses_filepath = ip.json",
                     '"1": "127.0.0.2"', "Expected  about", "Nothing was started"):  # fmt: skip
        assert expected in shown
    assert not (path.parent / "results").exists()


def test_a_dry_run_as_json(make: Make, setting: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(make()), "--dry-run", "--json"], setting()) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["traffic"]["bytes_per_round"] == 36 * (19240 + 128)
    assert [machine["nodes"] for machine in plan["placement"]] == [5, 4]
    assert plan["files"]["ip.json"].startswith("{")


def test_a_run_as_json_keeps_stdout_for_the_result(
    make: Make, setting: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(make()), "--json", "--yes"], setting()) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["reality"]["bytes_as_planned"] is True
    assert "iteration 10/10" in captured.err


def test_exit_codes(make: Make, setting: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(make(NB_AGENTS=0))], setting()) == 2
    assert main([str(make())], setting("killed")) == 5
    assert main([str(make())], setting(results=fakes.BROKEN_RESULTS)) == 6
    captured = capsys.readouterr()
    assert "NB_AGENTS = 0" in captured.err
    assert "machine 1 (127.0.0.2) failed" in captured.err
    assert "the run is complete and kept, but: tables and figures failed" in captured.err
    assert "0.920 mean test accuracy" in captured.out
    with pytest.raises(SystemExit) as usage:
        main([], setting())
    assert usage.value.code == 2


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert "exit codes:" in shown


def test_the_example_of_the_help_is_right(
    tmp_path: Path, setting: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    example = shown[shown.index('{"job_name"') : shown.index("}") + 1]
    (tmp_path / "first.json").write_text(example)
    assert main([str(tmp_path / "first.json"), "--dry-run"], setting()) == 0


#: Modules of a dry run, Python's own included: what keeps it at half a second (`make bench`).
MOST_MODULES = 500
HEAVY = {"torch", "pandas", "matplotlib", "pyarrow", "sklearn", "rich", "enoslib", "networkx"}
#: Runs the command and then prints the modules that are loaded, on a line of their own.
LOADED = (
    "import json, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from orchestrator.cli import main; code = main(sys.argv[1:]); "
    "print(json.dumps(list(sys.modules))); sys.exit(code)"
)


def loaded(config: Path, cwd: Path) -> set[str]:
    """The modules that a dry run loads."""
    command = [sys.executable, "-c", LOADED, str(REPOSITORY), str(config), "--dry-run"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_dry_run_of_the_quickstart_is_light_from_anywhere(tmp_path: Path) -> None:
    modules = loaded(REPOSITORY / "g5k_config" / "quickstart.json", tmp_path)
    assert "orchestrator.planning.plan" in modules and not HEAVY & modules
    assert len(modules) < MOST_MODULES
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_any_experiment_is_light(make: Make, tmp_path: Path) -> None:
    assert not HEAVY & loaded(make(INI={"OPTIMIZER_PARAMS.lr": 0.1}), tmp_path)


def test_what_is_not_installed_is_told(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("raise ModuleNotFoundError('No module', name='pydantic')")
    done = subprocess.run(
        [*COMMAND, "x.json"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "pydantic is not installed" in done.stderr
    assert "pip install" in done.stderr


def test_nobody_reads_along_any_more(make: Make) -> None:
    done = subprocess.run(
        # the reader is gone before a word is said, whoever is faster
        ["bash", "-o", "pipefail", "-c", '{ sleep 0.2; "$@"; } | true', "-", *COMMAND, str(make()),
         "--dry-run"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


HOMELESS = """
import pwd


def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")


pwd.getpwuid = getpwuid
"""


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_neither_a_home_nor_an_entry_in_passwd(make: Make, tmp_path: Path, more: list[str]) -> None:
    """As in containers that are started with somebody's number."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sitecustomize.py").write_text(HOMELESS)
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    environment |= {"PYTHONPATH": str(tmp_path / "modules"), "TMPDIR": str(tmp_path)}
    path = make(NB_ITERATION=2, TEST_AFTER=1)
    done = subprocess.run(
        [*COMMAND, str(path), *more], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    kept = tmp_path / f"decentralizepy-{os.getuid()}" / "cache"
    assert kept.exists() == (not more)


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(make: Make, tmp_path: Path, closed: str) -> None:
    """The run happens, and none of its files takes the place of a stream."""
    path = make(NB_ITERATION=2, TEST_AFTER=1)
    done = subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "-", *COMMAND, str(path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = (tmp_path / "results").iterdir()
    entries = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert entries[-1]["event"] == "released" and (folder / "tables").is_dir()


def test_too_few_open_files_are_told_before_there_is_a_run_folder(make: Make) -> None:
    path = make()
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 40; exec "$@"', "-", *COMMAND, str(path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 3 and not (path.parent / "results").exists()
    assert done.stderr.startswith("open files: this run needs 62 open files per process, and only")
