"""Sweeps: what they expand to, what they refuse, what fits, and one in a single reservation."""

from __future__ import annotations

import io
import json
import os
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orchestrator_fakes as fakes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_fakes import Make

from decentralizepy.errors import ConfigError
from decentralizepy.interrupts import Interrupted
from orchestrator.cli import main
from orchestrator.config import Config
from orchestrator.running.experiment import Setting
from orchestrator.running.ledger import read_ledger
from orchestrator.sweep.admission import Pace, walltime_s
from orchestrator.sweep.attributes import noise_std
from orchestrator.sweep.command import sweep_command
from orchestrator.sweep.expansion import expand
from orchestrator.sweep.planned import plan_sweep
from orchestrator.text import Screen

Build = Callable[..., Setting]
GRID = {"grid": {"OPTIMIZER_PARAMS.lr": [0.05, 0.1], "AVERAGING_STEPS": [1, 2]}, "seeds": [90, 91]}

RESULTS = """
import pathlib, sys

*folders, last = [a for a in sys.argv[1:] if a != "--output"]
target = pathlib.Path(last)
for name in ("tables/all.csv", "figures/accuracy.pdf"):
    (target / name).parent.mkdir(exist_ok=True)
    (target / name).write_text("\\n".join(folders))
"""


def config(**sweep: Any) -> Config:
    wanted = fakes.values(GRAPH_FILE="9_ring.edges") | {"sweep": sweep}
    return Config.model_validate(wanted)


def texts(cells: Any) -> list[str]:
    return [cell.name for cell in cells]


# ---------------------------------------------------------------------- expansion


def test_a_grid_with_seeds_in_order() -> None:
    cells = expand(config(**GRID))
    assert len(cells) == 8
    assert texts(cells)[:3] == [
        "lr=0.05_AVERAGING_STEPS=1_seed90",
        "lr=0.05_AVERAGING_STEPS=1_seed91",
        "lr=0.05_AVERAGING_STEPS=2_seed90",
    ]
    assert cells[-1].change.values == {"AVERAGING_STEPS": 2}
    assert cells[-1].change.ini == {"OPTIMIZER_PARAMS.lr": 0.1, "DATASET.random_seed": 91}


@given(
    grid=st.dictionaries(
        st.sampled_from(["lr", "TEST_AFTER", "AVERAGING_STEPS", "rounds", "batchsize"]),
        st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True),
        max_size=3,
    ),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
)
@settings(max_examples=50)
def test_a_sweep_is_the_product_each_once(grid: dict[str, list[int]], seeds: list[int]) -> None:
    cells = expand(config(grid=grid, seeds=seeds))
    expected = len(seeds)
    for values in grid.values():
        expected *= len(values)
    assert len(cells) == expected == len(set(texts(cells)))
    assert {cell.chosen["random_seed"] for cell in cells} == set(seeds)
    assert all(cell.chosen.keys() == {*grid, "random_seed"} for cell in cells)


@pytest.mark.parametrize(
    ("name", "value", "changed"),
    [
        ("noise_level", "16th", {"SHARING.noise_std": 0.0140625}),
        ("noise_level", "0p25th", {"SHARING.noise_std": 0.9}),
        ("avgsteps", "10avgsteps", {"AVERAGING_STEPS": 10}),
        ("topology", "dynamic", {"EVAL_FILE": "testingPeerSamplerDynamic.py"}),
        ("random_seed", "seed90", {"DATASET.random_seed": 90}),
        ("graph_degree", "degree6", {"NODE.graph_degree": 6}),
        ("lr", "lr0.05", {"OPTIMIZER_PARAMS.lr": 0.05}),
        ("lr", 0.05, {"OPTIMIZER_PARAMS.lr": 0.05}),
        ("rounds", "3rounds", {"TRAIN_PARAMS.rounds": 3}),
        ("batchsize", "batchsize32", {"TRAIN_PARAMS.batch_size": 32}),
        ("model_class", "LeNet", {"DATASET.model_class": "LeNet"}),
        ("nbnodes", "128nodes", {"NB_AGENTS": 128, "GRAPH_FILE": "128_ring.edges"}),
    ],
)
def test_attributes_of_the_reference(name: str, value: Any, changed: dict[str, Any]) -> None:
    (cell,) = expand(config(grid={name: [value]}))
    assert {**cell.change.values, **cell.change.ini} == changed


def test_noise_levels_are_those_of_the_reference() -> None:
    table = {"0p5": 0.45, "0p75": 0.3, "1": 0.225, "2": 0.1125, "2p5": 0.09, "3": 0.075,
             "3p5": 0.0643, "7": 0.0321, "32": 0.00703125, "128": 0.001757813}  # fmt: skip
    for part, expected in table.items():
        assert noise_std(f"{part}th") == pytest.approx(expected, abs=5e-5)


def test_without_noise_there_are_no_levels_of_it() -> None:
    levels = {"variant": ["nonoise", "zerosum_noselfnoise"], "noise_level": ["1th", "16th"]}
    cells = expand(config(grid=levels, seeds=[1, 2]))
    assert texts(cells) == [
        "nonoise_seed1", "nonoise_seed2",
        "zerosum_noselfnoise_1th_seed1", "zerosum_noselfnoise_1th_seed2",
        "zerosum_noselfnoise_16th_seed1", "zerosum_noselfnoise_16th_seed2",
    ]  # fmt: skip
    assert "SHARING.noise_std" in cells[0].change.without
    assert cells[2].change.ini["SHARING.self_noise"] == "False"


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"grid": {"noise_levle": ["1th"]}}, "did you mean 'noise_level'"),
        ({"grid": {"variant": ["zerosum_selfnose"]}}, "did you mean 'zerosum_selfnoise'"),
        ({"grid": {"variant": ["anticor"]}}, "known: nonoise, muffliato"),
        ({"grid": {"noise_level": ["16"]}}, "a part of 0.225 is expected"),
        ({"grid": {"rounds": ["3avgsteps"]}}, "a whole number is expected"),
        ({"grid": {"OPTIMISER_PARAMS.lr": [1]}}, "did you mean 'OPTIMIZER_PARAMS'"),
        ({"grid": {"walltime": ["1:00:00"]}}, "the same for all experiments"),
        ({"grid": {"random_seed": [1]}, "seeds": [1]}, "random_seed is set twice"),
        ({"grid": {"lr": [1], "OPTIMIZER_PARAMS.lr": [1]}}, "which another key of it sets too"),
        ({"grid": {"rounds": list(range(2000))}, "seeds": list(range(9))}, "too many"),
    ],
)  # fmt: skip
def test_what_is_refused(sweep: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        expand(config(**sweep))
    assert said in str(error.value)


def test_a_variant_leaves_out_what_its_class_lacks(make: Make, setting: Build) -> None:
    ini = fakes.INI.replace(
        "sharing.Sharing\nsharing_class = Sharing",
        "sharing.Muffliato\nsharing_class = Muffliato\nnoise_std = 0.1\naccelerated = True",
    )
    variants = ["nonoise", "muffliato", "zerosum_selfnoise"]
    path = make(ini=ini, sweep={"grid": {"variant": variants}})
    sharing = [cell.plan.task.experiment.sharing for cell in plan_sweep(path, setting()).cells]
    assert [dict(one.options) for one in sharing] == [
        {},
        {"noise_std": 0.1, "accelerated": True},
        {"noise_std": 0.1, "self_noise": True},
    ]


def test_a_method_that_is_not_there_is_refused_before_anything(make: Make, setting: Build) -> None:
    path = make(sweep={"grid": {"SHARING.sharing_class": ["Sharing", "Shering"]}})
    with pytest.raises(ConfigError, match="Shering"):
        plan_sweep(path, setting())
    path = make(sweep={"grid": {"noise_level": ["1th"]}})  # of a method that makes none
    with pytest.raises(ConfigError, match="noise_std"):
        plan_sweep(path, setting())


# ---------------------------------------------------------------------- admission


@given(estimated=st.floats(0.1, 1e5), training=st.floats(0.1, 1e5), beside=st.floats(0, 1e4))
@settings(max_examples=50)
def test_a_run_as_slow_as_the_slowest_is_admitted_only_if_it_fits(
    estimated: float, training: float, beside: float
) -> None:
    pace = Pace().after(estimated, training, training + beside)
    took = training + beside
    assert pace.needed_s(estimated) >= took
    assert not pace.fits(estimated, took * 0.99)
    assert pace.fits(estimated, pace.needed_s(estimated))
    assert pace.fits(estimated, None)
    assert pace.after(estimated, 1e-3, 1e-3).needed_s(estimated) >= took  # one quick run is luck


def test_machines_are_reserved_for_all_runs() -> None:
    one = walltime_s([600.0], 1, Pace())
    assert walltime_s([600.0] * 8, 1, Pace()) == 8 * one
    assert walltime_s([600.0] * 8, 4, Pace()) == 2 * one
    assert one % 60 == 0
    assert one >= Pace().needed_s(600.0)


# ---------------------------------------------------------------------- the whole


def runs_of(folder: Path) -> Counter[str]:
    """How often the machines of each cell were started to the end, by the ledgers."""
    ledgers = folder.glob("*/ledger.jsonl")
    return Counter(
        {path.parent.name: [entry["event"] for entry in read_ledger(path)].count("finished")
         for path in ledgers}
    )  # fmt: skip


def sweep(path: Path, setting: Setting, retry: bool = False) -> tuple[int, str, str]:
    options = Namespace(config=path, set=[], retry_failed=retry, dry_run=False, json=False)
    out = io.StringIO()
    code, told = sweep_command(options, setting, Screen(out), lambda _: True)
    return code, told, out.getvalue()


@pytest.fixture
def quick(setting: Build, tmp_path: Path) -> Build:
    def build(mode: str = "ok") -> Setting:
        return replace(setting(mode), results=fakes.script(tmp_path, "all.py", RESULTS))

    return build


class Stop:
    """Interrupts the sweep as soon as its ledger has so many cells that are done."""

    def __init__(self, ledger: Path, cells: int) -> None:
        self.ledger, self.cells = ledger, cells

    def __call__(self) -> None:
        told = [e.get("state") for e in read_ledger(self.ledger) if e["event"] == "cell"]
        if told.count("done") >= self.cells:
            raise Interrupted("SIGINT")


def test_two_by_two_by_two_seeds_interrupted_and_rerun(make: Make, quick: Build) -> None:
    path = make(sweep=GRID)
    folder = path.parent / "results" / "sweep_small"
    ledger, given = folder / "ledger.jsonl", quick()
    given.interrupts.check = Stop(ledger, 3)  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        sweep(path, given)
    assert sum(runs_of(folder).values()) == 3
    assert [e["event"] for e in read_ledger(ledger)][-1] == "released"
    code, told, said = sweep(path, quick())
    assert (code, told) == (0, "")
    assert "to run    5 runs" in said and "cell 4 of 8: lr=0.05_AVERAGING_STEPS=2_seed91" in said
    assert len(runs_of(folder)) == 8 and set(runs_of(folder).values()) == {1}
    events = Counter(entry["event"] for entry in read_ledger(ledger))
    assert events["reserved"] == events["released"] == 2  # one for each time it was started
    compared = (folder / "tables" / "all.csv").read_text().splitlines()
    assert len(compared) == 8 and all(Path(one).is_dir() for one in compared)
    listed = json.loads((folder / "sweep.json").read_text())["cells"]
    assert {cell["state"] for cell in listed} == {"done"}
    assert all(cell["accuracy"] == pytest.approx(0.92) for cell in listed)
    again = sweep(path, quick())
    assert again[0] == 0 and "to run    0 runs" in again[2]
    assert Counter(e["event"] for e in read_ledger(ledger))["reserved"] == 2


def test_one_that_fails_is_told_and_tried_again_on_demand(make: Make, quick: Build) -> None:
    path = make(sweep={"seeds": [1, 2]})
    code, told, said = sweep(path, quick("fail"))
    assert code == 5 and "2 failed; --retry-failed tries again" in told
    assert "the disk is full" in said
    assert sweep(path, quick())[0] == 5  # not by itself
    code, told, _ = sweep(path, quick(), retry=True)
    assert (code, told) == (0, "")


def test_runs_at_the_same_time(make: Make, quick: Build, tmp_path: Path, monkeypatch: Any) -> None:
    """Neither ends before the gate is opened, which the second one's start does."""
    gate = tmp_path / "gate"
    path = make(sweep={"seeds": [1, 2], "parallel": 2})
    ours = dict(os.environ) | {"DECENTRALIZEPY_GATE": str(gate)}
    given = quick("gated")
    given = replace(given, backend=replace(given.backend, ours=ours))
    folder = path.parent / "results" / "sweep_small"
    opened = []

    def watch() -> None:
        begun = list(folder.glob("*/machine1/status.json"))
        if len(begun) == 2 and not opened:
            opened.append(gate.touch())

    monkeypatch.setattr("orchestrator.sweep.relay.Relay.check", lambda self: watch())
    code, _, said = sweep(path, given)
    assert code == 0 and opened and "cell 2 of 2: done" in said


def test_runs_at_the_same_time_take_no_ports_of_their_own(make: Make, setting: Build) -> None:
    own = fakes.INI.replace("TCP\naddresses", "TCP\noffset = 9000\naddresses")
    for more in ({"ini": own}, {"INI": {"COMMUNICATION.offset": 9000}}):
        assert plan_sweep(make(sweep={"seeds": [1, 2]}, **more), setting())
        path = make(sweep={"seeds": [1, 2], "parallel": 2}, **more)
        with pytest.raises(ConfigError, match="offset: runs at the same time need ports"):
            plan_sweep(path, setting())


def test_what_does_not_fit_in_the_time_left_waits(make: Make, quick: Build) -> None:
    path = make(walltime="0:01:00", sweep={"seeds": [1]})
    code, told, said = sweep(path, quick())
    assert code == 6 and "did not fit in the time left" in told
    assert "left out, as it may take" in said
    assert not runs_of(path.parent / "results" / "sweep_small")


def test_other_inputs_are_other_runs(make: Make, setting: Build) -> None:
    """And where they run makes no difference."""
    names = [
        [cell.name for cell in plan_sweep(make(sweep={"seeds": [1]}, **more), setting()).cells]
        for more in ({}, {"WORKERS": 2, "walltime": "1:00:00"}, {"NB_ITERATION": 11})
    ]
    assert names[0] == names[1] != names[2]


def test_the_command(make: Make, capsys: Any, monkeypatch: Any) -> None:
    path = make(sweep=GRID)
    assert main([str(path), "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cells"]) == 8
    assert main([str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "sweep of 8 runs" in said and "node-hours" in said and "disk" in said
    assert not (path.parent / "results").exists()
    assert main([str(path), "--dry-run", "--set", "OPTIMIZER_PARAMS.lr=1"]) == 2
    assert "the sweep gives OPTIMIZER_PARAMS.lr its values" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main([str(path)]) == 0
    assert "nothing was started" in capsys.readouterr().out
    assert main([str(make(sweep=None)), "--retry-failed"]) == 2
