"""Keys of the INI set from the JSON and by ``--set``: one pair of files, many experiments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from orchestrator_fakes import INI, Make

from decentralizepy.config import parse_experiment
from decentralizepy.errors import ConfigError
from decentralizepy.runfolder import RunFolder
from orchestrator.cli import main
from orchestrator.running.experiment import Setting, make_plan, make_resumed_plan

Build = Callable[..., Setting]
PLAIN = {
    "SHARING.sharing_package": "decentralizepy.sharing.PlainAverageSharing",
    "SHARING.sharing_class": "PlainAverageSharing",
}


@pytest.fixture(autouse=True)
def signals_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decentralizepy.interrupts.Interrupts.install", lambda self: None)


def runs(folder: Path) -> list[RunFolder]:
    return [RunFolder(path) for path in sorted((folder / "results").iterdir())]


def test_three_seeds_of_two_methods_need_one_pair_of_files(
    make: Make, setting: Build, tmp_path: Path
) -> None:
    path = make()
    methods: list[list[str]] = [[], [f"--set={key}={value}" for key, value in PLAIN.items()]]
    for method in methods:
        for seed in (1, 2, 3):
            assert (
                main([str(path), *method, "--set", f"DATASET.random_seed={seed}"], setting()) == 0
            )
    found = [parse_experiment(run.ini.read_text(), run.ini) for run in runs(tmp_path)]
    assert len(found) == 6
    assert {(one.sharing.target.name, one.seed) for one in found} == {
        (name, seed) for name in ("Sharing", "PlainAverageSharing") for seed in (1, 2, 3)
    }


def test_a_flag_goes_before_the_json_and_both_before_the_ini(make: Make, setting: Build) -> None:
    path = make(INI={"OPTIMIZER_PARAMS.lr": 0.5, "TRAIN_PARAMS.Batch_Size": 16})
    inputs, planned = make_plan(path, setting(), given=["OPTIMIZER_PARAMS.LR=0.25"])
    experiment = planned.task.experiment
    assert experiment.optimizer.options["lr"] == 0.25
    assert experiment.training.options["batch_size"] == 16
    assert inputs.ini_text == INI, "the user's file stays"
    assert planned.config.INI == {"OPTIMIZER_PARAMS.lr": "0.25", "TRAIN_PARAMS.batch_size": 16}


def test_the_dry_run_shows_them(
    make: Make, setting: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(INI={"TRAIN_PARAMS.rounds": 5})
    given = ["--set", "OPTIMIZER_PARAMS.lr=0.25", "--dry-run"]
    assert main([str(path), *given], setting()) == 0
    shown = capsys.readouterr().out
    assert f"Set       [TRAIN_PARAMS] rounds = 5    ({path}: INI TRAIN_PARAMS.rounds)" in shown
    assert "Set       [OPTIMIZER_PARAMS] lr = 0.25    (--set OPTIMIZER_PARAMS.lr=0.25)" in shown
    assert "  lr = 0.25\n" in shown and "  rounds = 5\n" in shown, "and the rendered file"
    assert main([str(path), *given, "--json"], setting()) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["config"]["INI"] == {"TRAIN_PARAMS.rounds": 5, "OPTIMIZER_PARAMS.lr": "0.25"}


def test_the_run_folder_repeats_the_run_and_is_resumed_as_it_was(
    make: Make, setting: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(INI={"TRAIN_PARAMS.rounds": 5})
    assert main([str(path), "--set", "OPTIMIZER_PARAMS.lr=0.25"], setting("fail")) != 0
    (folder,) = runs(tmp_path)
    text = folder.ini.read_text()
    assert "lr = 0.25" in text and "rounds = 5" in text
    _, _, resumed = make_resumed_plan(folder.root, setting())
    _, again = make_plan(folder.config, setting())
    for planned in (resumed, again):
        found = planned.task.experiment
        assert found.optimizer.options["lr"] == 0.25 and found.training.options["rounds"] == 5
    capsys.readouterr()
    other = ["--resume", str(folder.root), "--set", "OPTIMIZER_PARAMS.lr=1"]
    assert main(other, setting()) == 2
    assert "leave it out with --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "given_", "expected"),
    [
        ({"OPTIMIZER_PARAMS.lrr": 1}, [], "{path}: INI OPTIMIZER_PARAMS.lrr: {ini}: [OPTIMIZER"),
        ({}, ["OPTIMIZER_PARAMS.lr=x"], "--set OPTIMIZER_PARAMS.lr=x: {ini}: [OPTIMIZER_PARAMS]"),
        ({}, ["OPTIMIZER.lr=1"], "--set OPTIMIZER.lr=1: no section [OPTIMIZER] (did you mean"),
        ({}, ["COMMUNICATION.addresses_filepath=a"], "this file is written for every run"),
        (PLAIN | {"SHARING.sharing_class": "Plain"}, [], "{path}: INI SHARING.sharing_class: "),
    ],
)
def test_what_is_wrong_names_where_it_was_set(
    make: Make, setting: Build, keys: dict[str, str], given_: list[str], expected: str
) -> None:
    path = make(INI=keys)
    with pytest.raises(ConfigError) as caught:
        make_plan(path, setting(), given=given_)
    said = str(caught.value)
    assert expected.format(path=path, ini=path.with_name("small.ini")) in said


def test_a_template_knows_the_workers_though_the_json_names_none(
    make: Make, setting: Build
) -> None:
    ini = INI.replace("rounds = 3", "rounds = {{ WORKERS }}")
    _, planned = make_plan(make(ini=ini, WORKERS=None), setting())
    assert planned.task.experiment.training.options["rounds"] == planned.site.workers
