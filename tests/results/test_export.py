"""What old notebooks read: the steps of the reference's own notebooks work on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from results.cli import main
from results.export import legacy_name
from results.load import load_run
from results.privacy import attack_tables
from results.tables import wide

#: what the notebooks parse from a folder's name stands in it
NAME = "run_5nodes_static_nonoise_1avgsteps_seed1"


@pytest.fixture
def run(make_run: Callable[..., Any]) -> Any:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"test_niid_acc": row["test_acc"] + row["uid"]}

    written = make_run(change=change)
    (written.root / "attacks").mkdir()
    rows = [
        {"agent": uid, "target": 0, "iteration": t, "roc_auc": 0.6, "attacker_advantage": 0.2 + t,
         "attacker_advantage_niid": uid / 10}
        for t in (1, 30) for uid in range(5)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(written.root / "attacks/threshold_experiment.csv", index=False)
    return written


def test_the_wide_table_of_both_notebooks(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export-legacy", str(run.root), "--output", str(out)]) == 0
    table = pd.read_csv(out / f"formatted_results/{NAME}.csv")
    names = ["test_acc", "total_bytes", "test_niid_acc"]
    columns = {f"{n} {s}" for n in names for s in ("mean", "std", "sum", "min", "max")}
    columns |= {f"{n} {end} confidence" for n in names[::2] for end in ("lower", "upper")}
    columns |= {f"Attacker advantage mean PRE-STEP{end}" for end in ("", "-niid")}
    assert columns <= set(table) and table["number_agents"].tolist() == [5] * 4
    row, values = table[table["iteration"] == 30].iloc[0], run.values("test_niid_acc", 30)
    assert row["test_niid_acc sum"] == pytest.approx(values.sum())
    half = 1.96 * values.std(ddof=1) / np.sqrt(5)
    assert row["test_niid_acc upper confidence"] == pytest.approx(values.mean() + half)
    assert row["Attacker advantage mean PRE-STEP"] == pytest.approx(30.2)
    assert row["Attacker advantage mean PRE-STEP-niid"] == pytest.approx(0.2)
    assert table["Attacker advantage mean PRE-STEP"].isna().tolist() == [False, True, True, False]


def test_the_notebooks_own_steps_give_the_same(run: Any, tmp_path: Path) -> None:
    """Read file by file as they do, and aggregate anew."""
    out = tmp_path / "out"
    assert main(["export-legacy", str(run.root), "--output", str(out)]) == 0
    folder, parts, privacy, uid = out / f"my_results/{NAME}", [], [], 0
    for machine, count in enumerate((3, 2)):
        for rank in range(count):
            frame = pd.read_json(folder / f"machine{machine}/{rank}_results.json")
            parts.append(frame.assign(uid=uid, iteration=frame.index))
            name = f"machine{machine}/privacy/summary/{uid}/privacy-summary-PRE-STEP-niid.json"
            privacy.append(pd.read_json(folder / name))
            uid += 1
    used = pd.concat(parts)[["iteration", "test_acc", "total_bytes", "test_niid_acc"]].dropna()
    mean = used.groupby("iteration")["test_niid_acc"].mean()
    table = pd.read_csv(out / f"formatted_results/{NAME}.csv").set_index("iteration")
    np.testing.assert_allclose(table["test_niid_acc mean"], mean)
    every = pd.concat(privacy)
    every = every[every["slice feature"] == "Entire dataset"]
    advantage = every.groupby("iteration")["Attacker advantage"].mean()
    assert advantage.to_dict() == pytest.approx({1: 0.2, 30: 0.2})


def test_the_newer_notebooks_load_it_too(run: Any, tmp_path: Path) -> None:
    """They take nodes and machines from the JSON, and expect an index column in attack tables."""
    assert main(["export-legacy", str(run.root), "--output", str(tmp_path)]) == 0
    folder = tmp_path / "my_results" / NAME
    config = json.loads((folder / "g5k_config.json").read_text())
    assert (config["NB_AGENTS"], config["NB_MACHINE"]) == (5, 2)
    attacks = pd.read_csv(folder / f"threshold_{NAME}.csv").drop(columns="Unnamed: 0")
    node = pd.read_json(folder / "machine1/1_results.json").assign(uid=4)
    node["iteration"] = node.index
    merged = node.merge(attacks.rename(columns={"agent": "uid"}), on=["uid", "iteration"])
    assert merged["roc_auc"].tolist() == [0.6, 0.6]
    # and our own reader takes the folder for one of the reference system's
    again = load_run(folder)
    assert again.nodes == 5 and set(attack_tables(folder)) == {"threshold"}


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"sharing_class": "ZeroSumSharing", "noise_std": 0.225 / 16}, "_zerosum_1avgsteps_16th"),
        ({"sharing_class": "Muffliato", "noise_std": 0.09, "averaging_steps": 10,
          "eval_file": "testingPeerSamplerDynamic.py"}, "_dynamic_muffliato_10avgsteps_2p5th"),
    ],
)  # fmt: skip
def test_names_say_what_the_notebooks_parse(
    run: Any, attributes: dict[str, Any], words: str
) -> None:
    assert words in legacy_name(replace(load_run(run.root), attributes=attributes))


def test_what_is_missing_is_said(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_run().root
    assert main(["export-legacy", str(root), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "no test_niid_acc" in said and "no privacy summaries" in said
    table = pd.read_csv(tmp_path / f"out/formatted_results/{NAME}.csv")
    assert "test_acc mean" in table and not [name for name in table if "niid" in name]


def test_the_reference_systems_plots_find_their_columns(run: Any) -> None:
    """Selected, grouped and averaged as its plots do: by columns, in its words."""
    folder = run.root / "attacks"
    found = pd.read_csv(folder / "threshold_experiment.csv")
    found["roc_auc"] = np.where(found["iteration"] == 1, 0.6, 0.8)
    found.to_csv(folder / "threshold_experiment.csv", index=False)
    ranks = {"linkability_top1": found["agent"] < 2, "linkability_real_rank": found["agent"]}
    found[["agent", "iteration"]].assign(**ranks).astype(int).to_csv(
        folder / "linkability_experiment.csv", index=False
    )
    attributes = {"sharing_class": "ZeroSumSharing", "noise_std": 0.225 / 16, "self_noise": True,
                  "averaging_steps": 10, "rounds": 3, "random_seed": 90}  # fmt: skip
    loaded = load_run(run.root)
    table = wide(replace(loaded, attributes=loaded.attributes | attributes))
    words = {"variant": "zerosum", "noise_level": "16th", "avgsteps": "10avgsteps",
             "topology_type": "static", "additional_attribute": "selfnoise", "seed": 90,
             "network_size": "5nodes", "local_rounds": 3, "model": "MLP", "log_noise": 3.0,
             "lr": 0.05}  # fmt: skip
    for name, value in words.items():
        assert set(table[name]) == {value}
    at = table.set_index("iteration")
    assert at["linkability_top1 count_percentage_success"].dropna().tolist() == [0.4, 0.4]
    assert at["linkability_real_rank median"].dropna().tolist() == [2, 2]
    assert at["roc_auc mean_start_avg"].dropna().tolist() == pytest.approx([0.6, 0.7])
    assert at["roc_auc mean_cum_sum"].dropna().tolist() == pytest.approx([0.6, 1.4])
    drawn = table.groupby(["noise_level", "variant"])["roc_auc mean"].mean()
    assert drawn.to_dict() == pytest.approx({("16th", "zerosum"): 0.7})
