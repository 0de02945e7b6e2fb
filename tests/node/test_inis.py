"""The shipped INI of every node program runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentralizepy import run_here
from decentralizepy.config import read_experiment

FOLDER = Path(__file__).resolve().parents[2] / "run_configuration"
INIS = sorted(
    path.name
    for path in FOLDER.glob("digits_*.ini")
    if read_experiment(path).node_program is not None
)


@pytest.mark.parametrize("name", INIS)
def test_a_shipped_ini_trains(name: str, cache: Path) -> None:
    out = run_here(FOLDER / name, 6, 2, test_after=2, train_evaluate_after=0, cache_dir=cache)
    tested = [row["test_acc"] for row in out.records if "test_acc" in row]
    assert tested and not out.notes


def test_there_is_one_for_every_program() -> None:
    programs = {path.stem for path in (FOLDER.parent / "decentralizepy" / "node").glob("*.py")} - {
        "__init__",
        "node",
        "effects",
        "mail",
        "checks",
        "membership",
        "federated",
        "bounded",
        "dpsgd",
    }
    named = {read_experiment(FOLDER / name).node_program.target.module for name in INIS}
    assert {f"decentralizepy.node.{program}" for program in programs} == named
