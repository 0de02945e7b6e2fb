"""The main job, as a stranger runs it: one command on the shipped quickstart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
QUICKSTART = json.loads((ROOT / "g5k_config/quickstart.json").read_text())


def run(tmp_path: Path, name: str, **changes: object) -> tuple[float, Path, str]:
    """Run the quickstart with changes; returns final mean accuracy, run folder and output."""
    config = tmp_path / f"{name}.json"
    value = QUICKSTART | {"job_name": name, "LOCAL_SAVE_DIR": str(tmp_path / name)} | changes
    value.pop("$schema")
    config.write_text(json.dumps(value))
    done = subprocess.run(
        [sys.executable, str(ROOT / "g5k_execution.py"), str(config)],
        capture_output=True, text=True, timeout=170, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    accuracy = re.search(r"accuracy\s+(0\.\d+) mean test accuracy of 16 nodes", done.stdout)
    assert accuracy, done.stdout
    (folder,) = (tmp_path / name).iterdir()
    return float(accuracy.group(1)), folder, done.stdout


@pytest.mark.timeout(400)
def test_nodes_that_talk_learn_what_nodes_alone_cannot(tmp_path: Path) -> None:
    """On label-skewed data the sparse graph makes the difference."""
    together, folder, output = run(tmp_path, "together", NB_ITERATION=900)
    assert together >= 0.93
    alone, _, _ = run(tmp_path, "alone", NB_ITERATION=300, GRAPH_FILE="16_isolated.edges")
    assert alone <= together - 0.05
    assert str(folder) in output
    names = {path.name for path in folder.iterdir()}
    assert names >= {"machine0", "machine1", "tables", "figures", "config.ini", "ip.json"}
    table = pd.read_csv(folder / "tables" / "together.csv")
    assert table["test_acc mean"].iloc[-1] == pytest.approx(100 * together, abs=0.06)
    for name in ("train_loss", "test_loss", "test_accuracy"):
        for axis in ("iteration", "bytes"):
            assert (folder / "figures" / f"{name}_{axis}.pdf").read_bytes().startswith(b"%PDF")
    plan = json.loads((folder / "plan.json").read_text())
    assert "reality" in plan


def test_the_dry_runs_bytes_are_those_of_the_run(tmp_path: Path) -> None:
    config = ROOT / "g5k_config/quickstart.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "g5k_execution.py"), str(config), "--dry-run"],
        capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path,
    )  # fmt: skip
    planned = int(
        re.search(r"Bytes\s+([\d,]+) per iteration", done.stdout).group(1).replace(",", "")
    )
    _, folder, _ = run(tmp_path, "bytes", NB_ITERATION=20)
    table = pd.read_csv(folder / "tables" / "bytes.csv")
    assert table["total_bytes sum"].iloc[-1] == 20 * planned
