"""What former runs measured refines the next plan, and a broken cache harms nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.planning.costs import Cost, cache_path, read_costs, remember, table_cost

MLP = "decentralizepy.models.digits.MLP"


def test_the_table_knows_our_models_and_guesses_others() -> None:
    assert table_cost("decentralizepy.models.cifar10.CNN", 1).train_s == 2.1e-4
    assert table_cost("my_model.Net", 1_000_000).train_s == pytest.approx(8e-3)
    assert table_cost("my_model.Net", None).train_s > 0


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
