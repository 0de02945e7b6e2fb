"""Figures for papers: what they show is in the CSV beside them, and that is recomputed here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from decentralizepy.graphs.files import write_graph
from decentralizepy.graphs.generators import ring
from results.cli import main
from results.figures.command import KINDS
from results.load import load_run
from results.privacy import attack_tables, by_iteration, noise
from results.spread import RunWarning
from results.tables import wide


def _sharing(root: Path, name: str, noise_std: float) -> None:
    ini = root / "config.ini"
    text = ini.read_text().replace("sharing_class = Sharing", f"sharing_class = {name}")
    ini.write_text(f"{text}noise_std = {noise_std}\n")


def _attacked(root: Path, by: float) -> None:
    """Tables of attacks as the commands leave them."""
    folder = root / "attacks"
    folder.mkdir()
    rows = [
        {"agent": uid, "target": (uid + 1) % 5, "iteration": t, "roc_auc": 0.5 + by + uid / 1000,
         "roc_auc_balanced": 0.5 - by}
        for t in (1, 15, 30) for uid in range(5)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "threshold_experiment.csv", index=False)
    links = [
        {"agent": uid, "target": 0, "iteration": 30, "linkability_top1": 0,
         "linkability_real_rank": uid} for uid in range(5)
    ]  # fmt: skip
    pd.DataFrame(links).to_csv(folder / "linkability_experiment.csv", index=False)


@pytest.fixture
def runs(make_run: Callable[..., object]) -> list[Path]:
    """Two methods at two noise levels and two seeds, attacked; noise helps and costs."""
    found = []
    for method in ("ZeroSumSharing", "Muffliato"):
        for level in (0.1, 0.225):
            for seed in (1, 2):

                def change(row: dict[str, float], level: float = level) -> dict[str, float]:
                    more = {"train_s": 2.0, "share_s": 1.0, "wait_s": 0.5, "evaluate_s": 0.25,
                            "stale": row["uid"] % 3}  # fmt: skip
                    return {**row, **more, "test_acc": row["test_acc"] - 100 * level}

                name = f"{method}_{level}_{seed}"
                root = make_run(name, seed=seed, name=name, change=change).root
                _sharing(root, method, level)
                _attacked(root, 0.3 - level)
                write_graph(ring(5), root / "machine0/graph.edges")
                (root / "machine0/args.json").write_text('{"graph_file": "/far/graph.edges"}')
                nodes = {str(uid): {"samples": 5, "labels": [5 - uid, uid]} for uid in range(5)}
                (root / "machine0/data.json").write_text(json.dumps({"nodes": nodes}))
                found.append(root)
    return found


def _drawn(kind: str, runs: list[Path], output: Path, *flags: str) -> pd.DataFrame:
    words = ["figure", kind, *map(str, runs), "--output", str(output), *flags]
    assert main(words) == 0
    assert (output / f"{kind}.pdf").read_bytes().startswith(b"%PDF")
    return pd.read_csv(output / f"{kind}.csv")


def test_privacy_against_utility(runs: list[Path], tmp_path: Path) -> None:
    data = _drawn("privacy", runs, tmp_path / "out")
    assert len(data) == 4  # seeds are joined
    assert set(data["variant"]) == {"ZeroSumSharing", "Muffliato"}
    row = data[(data["variant"] == "Muffliato") & (data["noise"] == 0.1)].iloc[0]
    assert row["risk"] == pytest.approx(0.7 + 0.002)
    best = [
        load_run(r).over_nodes["test_acc", "mean"].max() for r in runs if "Muffliato_0.1" in r.name
    ]
    assert row["utility"] == pytest.approx(np.mean(best))


def test_success_over_time_has_a_band_over_seeds(runs: list[Path], tmp_path: Path) -> None:
    data = _drawn("attack", runs, tmp_path / "out")
    assert sorted(data["iteration"].unique()) == [1, 15, 30]
    assert data["curve"].nunique() == 4
    assert (data["low"] <= data["mean"]).all() and (data["mean"] <= data["high"]).all()
    alone = _drawn("attack", runs[:1], tmp_path / "one", "--metric", "roc_auc_balanced")
    assert alone["mean"].tolist() == pytest.approx([0.3] * 3)


def test_small_multiples(runs: list[Path], tmp_path: Path) -> None:
    data = _drawn("multiples", runs, tmp_path / "out", "--by", "noise_std", "--against", "bytes")
    assert set(data["noise_std"]) == {0.1, 0.225}
    assert set(data["curve"]) == {"ZeroSumSharing", "Muffliato"}


def test_cost_of_a_target(runs: list[Path], tmp_path: Path) -> None:
    data = _drawn("target", runs, tmp_path / "out", "--target", "40", "--target", "99.5")
    one = data[data["target"] == 40]
    assert one["mean"].notna().all()
    assert data[data["target"] == 99.5]["mean"].isna().all()
    run = load_run(runs[0])
    first = run.over_nodes[run.over_nodes["test_acc", "mean"] >= 40].iloc[0]
    assert one["mean"].iloc[0] == pytest.approx(first["total_bytes", "mean"], rel=0.01)


def test_topology_with_a_metric(runs: list[Path], tmp_path: Path) -> None:
    data = _drawn("topology", runs, tmp_path / "out", "--metric", "consensus_distance")
    assert data["degree"].tolist() == [2] * 5
    assert data["consensus_distance"].notna().all()


def test_labels_of_nodes(runs: list[Path], tmp_path: Path) -> None:
    data = _drawn("labels", runs, tmp_path / "out")
    assert data["samples"].sum() == 25
    assert data[(data["uid"] == 3) & (data["label"] == 1)]["samples"].item() == 3


def test_time_by_phase(runs: list[Path], tmp_path: Path) -> None:
    data = _drawn("phases", runs, tmp_path / "out")
    assert len(data) == 4
    assert data["share_s"].tolist() == [1.0] * 4


def test_staleness(runs: list[Path], tmp_path: Path) -> None:
    data = _drawn("staleness", runs[:1], tmp_path / "out")
    assert data["share"].tolist() == pytest.approx([0.4, 0.8, 1.0])


def test_heat_map(runs: list[Path], tmp_path: Path) -> None:
    flags = ["--x", "noise_std", "--y", "sharing_class"]
    data = _drawn("heatmap", runs, tmp_path / "out", *flags)
    assert data["count"].tolist() == [2] * 4


@pytest.mark.parametrize(
    ("kind", "flags", "said"),
    [
        ("privacy", [], "attack"),
        ("attack", [], "no run has roc_auc"),
        ("multiples", ["--by", "colour"], "no run has the attribute colour"),
        ("target", ["--target", "99.9"], "no run reached 99.9 %"),
        ("topology", [], "no copy of its graph"),
        ("labels", [], "says nothing of its nodes' labels"),
        ("phases", [], "where its time went"),
        ("staleness", [], "no run recorded stale"),
        ("heatmap", ["--x", "a", "--y", "b"], "no run has the attributes"),
        ("roc", [], "save_models_for_attacks"),
        ("losses", [], "save_models_for_attacks"),
    ],
)
def test_what_cannot_be_drawn_is_told(
    make_run: Callable[..., object],
    kind: str,
    flags: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["figure", kind, str(make_run().root), *flags]) == 2
    assert said in capsys.readouterr().err


def test_every_kind_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["figure", "--help"])
    assert all(kind in capsys.readouterr().out for kind in ["privacy"]) and len(KINDS) == 11


def test_the_same_data_give_the_same_bytes(runs: list[Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        _drawn("privacy", runs, tmp_path / name)
    files = [(tmp_path / name / "privacy.pdf").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_wide_tables_have_the_attacks(runs: list[Path]) -> None:
    table = wide(load_run(runs[0]))
    assert table["iteration"].tolist() == [1, 10, 15, 20, 30]
    at = table.set_index("iteration")
    assert at.loc[15, "roc_auc mean"] == pytest.approx(0.702)
    assert at.loc[15, "50auc-distance max"] == pytest.approx(0.204)
    assert at.loc[30, "linkability_top1 mean"] == 0  # and not NaN
    assert at.loc[30, "linkability_real_rank percentile_50"] == 2
    assert np.isnan(at.loc[10, "roc_auc mean"]) and at.loc[10, "total_bytes sum"] > 0
    assert np.isnan(at.loc[15, "total_bytes sum"])
    assert set(table["noise_level_value"]) == {0.1}


def test_tables_of_the_reference_system_are_found_too(runs: list[Path]) -> None:
    root = runs[0]
    path = root / "attacks/threshold_experiment.csv"
    path.rename(root / "threshold_experiment.csv")
    assert "roc_auc mean" in by_iteration(load_run(root))


def test_damaged_tables_of_attacks_are_reported(runs: list[Path]) -> None:
    folder = runs[0] / "attacks"
    path = folder / "threshold_experiment.csv"
    whole = path.read_text()
    path.write_text(whole.rsplit("\n", 2)[0] + "\n4,x")  # its last row is cut
    with pytest.warns(RunWarning, match=r"threshold_experiment.csv: 1 cut or damaged row"):
        found = attack_tables(runs[0])
    assert len(found["threshold"]) == whole.count("\n") - 2
    assert found["threshold"]["agent"].dtype == int
    for text, said in (("", "No columns"), ("a,b\n1,2\n", "no columns agent and roc_auc")):
        path.write_text(text)
        with pytest.warns(RunWarning, match=said):
            assert "threshold" not in attack_tables(runs[0])


def test_noise_in_the_references_measure() -> None:
    assert noise({"noise_std": 0.225})["log_noise"] == 7
    assert noise({"noise_std": 0.225 / 128})["log_noise"] == pytest.approx(0)
    assert noise({"noise_std": 0.0}) == noise({}) == noise({"noise_std": "loud"}) == {}
