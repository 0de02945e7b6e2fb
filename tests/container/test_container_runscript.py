"""The runscript's logic, without an image: places in a temporary folder."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
EIGHT = ["ring.edges", "1", "4", "20", "testing.py", "5", "INFO", "2"]


def load(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


run = load("container_run")


@pytest.fixture
def places(tmp_path: Path) -> object:
    """A container where nothing is bound but /logs, with an INI and the image's own graph."""
    found = run.Places(*(tmp_path / name for name in ("logs", "ip.json", "bound", "image", "bare")))
    for folder in (found.logs, found.bound, found.image / "run_configuration"):
        folder.mkdir(parents=True)
    found.ini.write_text("[DATASET]\n")
    found.addresses.write_text("of the image: nothing is bound here\n")
    (found.bound / ".of_the_image").touch()
    (found.image / "run_configuration/ring.edges").write_text("4\n0 1\n")
    return found


def bind_tree(places: object) -> None:
    (places.bound / ".of_the_image").unlink()
    (places.bound / "decentralizepy").mkdir()
    (places.bound / "decentralizepy/__init__.py").touch()


def command(places: object, *arguments: str) -> list[str]:
    return run.run_command(arguments, run.find_code(places), places, dict(os.environ))


def value(command: list[str], flag: str) -> str:
    """The last value of a flag, which is the one that counts."""
    return command[len(command) - command[::-1].index(flag)]


def test_the_eight_arguments_become_flags_in_this_order(places: object) -> None:
    made = command(places, *EIGHT)
    flags = ["-gf", "-ms", "-ps", "-is", "--eval_file", "-ta", "-ll", "-as"]
    given = [str(places.image / "run_configuration/ring.edges"), *EIGHT[1:]]
    assert [value(made, flag) for flag in flags] == given
    assert made[1:4] == ["-m", "decentralizepy", "run"]
    assert value(made, "-ro") == "0" and value(made, "-tea") == "5"
    assert value(made, "-cf") == str(places.ini)
    assert value(made, "-ld") == value(made, "-wsd") == str(places.logs / "machine0")
    assert "--set" not in made


def test_nodes_per_machine_may_be_a_list(places: object) -> None:
    made = command(places, *EIGHT[:1], "2", "1,3", *EIGHT[3:], "-mid", "1")
    assert value(made, "-ps") == "1,3" and value(made, "-ld").endswith("machine1")


def test_further_arguments_come_last_and_so_win(places: object) -> None:
    made = command(places, *EIGHT, "-ro", "1", "--set", "A.b=", "--cache-dir", "/datasets/c")
    assert value(made, "-ro") == "1" and value(made, "--cache-dir") == "/datasets/c"
    assert made.count("--cache-dir") == 1 and made[-4:-2] == ["--set", "A.b="]


@pytest.mark.parametrize("flag", (["-mid", "3"], ["--machine_id=3"], ["-mid=3"]))
def test_the_machine_may_be_given(places: object, flag: list[str]) -> None:
    made = command(places, *EIGHT, *flag)
    assert value(made, "-ld") == str(places.logs / "machine3")


@pytest.mark.parametrize("count", range(8))
def test_too_few_arguments_are_rejected_with_their_names(places: object, count: int) -> None:
    with pytest.raises(run.UsageError, match=r"8 arguments are needed: graph nb_machines .*"):
        command(places, *EIGHT[:count])


@pytest.mark.parametrize("position", range(8))
@pytest.mark.parametrize("wrong", ("", "--workers"))
def test_a_gap_among_the_eight_is_rejected(places: object, position: int, wrong: str) -> None:
    arguments = [*EIGHT[:position], wrong, *EIGHT[position + 1 :]]
    with pytest.raises(run.UsageError, match=run.ARGUMENTS[position]):
        command(places, *arguments)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=6))
def test_any_further_arguments_pass_unchanged(further: list[str]) -> None:
    values, rest = run.positional([*EIGHT, *further])
    assert rest == further and list(values.values()) == EIGHT


def test_a_graph_is_looked_for_in_order(places: object) -> None:
    bind_tree(places)
    folders = [
        places.logs, places.bound / "run_configuration", places.bound / "eval",
        places.image / "run_configuration",
    ]  # fmt: skip
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "own.edges").touch()
    for folder in folders:
        assert run.find_graph("own.edges", places) == folder / "own.edges"
        (folder / "own.edges").unlink()
    with pytest.raises(run.UsageError) as error:
        run.find_graph("own.edges", places)
    listed = str(error.value).splitlines()[1:]
    assert [line.strip() for line in listed] == [str(folder / "own.edges") for folder in folders]


def test_an_absolute_graph_is_looked_for_nowhere_else(places: object, tmp_path: Path) -> None:
    (places.logs / "own.edges").touch()
    with pytest.raises(run.UsageError) as error:
        run.find_graph(str(tmp_path / "own.edges"), places)
    assert str(error.value).splitlines()[1:] == [f"  {tmp_path / 'own.edges'}"]
    assert run.find_graph(str(places.logs / "own.edges"), places) == places.logs / "own.edges"


def test_a_dash_means_no_graph(places: object) -> None:
    assert "-gf" not in command(places, "-", *EIGHT[1:])


def test_which_code_runs(places: object) -> None:
    assert run.find_code(places).search == (places.image,)
    bind_tree(places)
    tree = run.find_code(places)
    assert tree.search == (places.bound, places.bound / "run_configuration")
    assert tree.folder == places.bound


def test_a_package_without_its_tree_is_code(places: object) -> None:
    (places.bound / ".of_the_image").unlink()
    (places.bound / "engine").mkdir()
    (places.bound / "__main__.py").touch()
    assert run.find_code(places).search == (places.bare,)


def test_something_else_bound_as_code_is_rejected(places: object) -> None:
    (places.bound / ".of_the_image").unlink()  # an empty folder, as of a missing submodule
    with pytest.raises(run.UsageError, match="neither a tree with decentralizepy/ in it"):
        run.find_code(places)


def test_addresses_come_from_the_bind_then_from_the_logs(places: object) -> None:
    assert run.address_arguments(places) == []
    (places.logs / "ip.json").write_text("{}")
    setting = "COMMUNICATION.addresses_filepath="
    assert run.address_arguments(places) == ["--set", f"{setting}{places.logs / 'ip.json'}"]
    places.addresses.write_text("{}")
    assert run.address_arguments(places) == ["--set", f"{setting}{places.addresses}"]


def test_a_missing_ini_is_named(places: object) -> None:
    places.ini.unlink()
    with pytest.raises(run.UsageError, match=r"config\.ini is not there: bind a folder"):
        command(places, *EIGHT)


def test_a_cache_folder_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.tempfile, "gettempdir", lambda: str(tmp_path))
    cache = run.cache_folder()
    assert cache.parent.stat().st_mode & 0o777 == 0o700 and run.cache_folder() == cache
    cache.parent.rename(tmp_path / "other")
    cache.parent.symlink_to(tmp_path / "other")
    with pytest.raises(run.UsageError, match="not a folder of ours"):
        run.cache_folder()
