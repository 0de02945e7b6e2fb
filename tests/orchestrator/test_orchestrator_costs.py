"""What former runs measured refines the next plan, and a broken cache harms nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentralizepy.registry import Target
from orchestrator.planning.costs import Cost, cache_path, read_costs, remember, stated_cost

MLP = Target("decentralizepy.models.digits", "MLP")
OWN = ("Net", "Slow", "Wider", "Other")


def test_models_say_their_cost_and_others_are_guessed(tmp_path: Path) -> None:
    cost = stated_cost(Target("decentralizepy.models.cifar10", "CNN"), 1)
    assert (cost.train_s, cost.evaluate_s, cost.measured) == (2.1e-4, 4.1e-5, False)
    (tmp_path / "my_model.py").write_text(
        "from decentralizepy.models.cifar10 import CNN\n"
        "class Net:\n    pass\n"
        "class Slow:\n    train_s = 3\n"
        "class Wider(CNN):\n    def __init__(self, width=9): ...\n"
        "class Other(CNN):\n    def forward(self, x): ...\n"
    )
    mine = {name: Target("my_model", name, (str(tmp_path),)) for name in OWN}
    assert stated_cost(mine["Net"], 1_000_000).train_s == pytest.approx(8e-3)
    assert stated_cost(mine["Net"], None).train_s > 0
    assert stated_cost(mine["Slow"], 1) == Cost(3.0, 1.0)
    assert stated_cost(mine["Wider"], 1_000_000).train_s == pytest.approx(8e-3)
    assert stated_cost(mine["Other"], 1_000_000).train_s == 2.1e-4


def test_what_was_measured_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "a" / "costs.json"
    assert not read_costs(path).lookup(MLP, 4810).measured
    remember(path, MLP, Cost(2e-3, 1e-4, 3.0, measured=True))
    assert read_costs(path).lookup(MLP, 4810) == Cost(2e-3, 1e-4, 3.0, measured=True)
    remember(path, MLP, Cost(4e-3, 3e-4, 5.0, measured=True))
    mean = read_costs(path).lookup(MLP, 4810)
    assert (mean.train_s, mean.evaluate_s, mean.startup_s) == pytest.approx((3e-3, 2e-4, 4.0))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 3}', '{"a|b": {"train_s": "x"}}', "\xff"])
def test_a_broken_cache_counts_as_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text, encoding="latin-1")
    assert read_costs(path).former == {}


def test_a_cache_that_cannot_be_written_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    remember(tmp_path / "file" / "costs.json", MLP, Cost(1, 1))


def test_the_cache_is_where_caches_are() -> None:
    assert cache_path({"XDG_CACHE_HOME": "/c"}) == Path("/c/decentralizepy/costs.json")
    assert cache_path({}) == Path.home() / ".cache/decentralizepy/costs.json"
