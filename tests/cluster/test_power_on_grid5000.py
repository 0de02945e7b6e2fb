"""Energy of a run on the stand-in for Grid'5000, whose power is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from experiment import Run


def test_energy_of_two_machines(grid5000: Any, tmp_path: Path) -> None:
    """240 W in all, for as long as it trained."""
    grid5000.api.power_w = lambda node, when: 90.0 if node.endswith("1") else 150.0
    run = Run(tmp_path, grid5000.environment, BACKEND="grid5000", cluster="paradoxe", NB_MACHINE=2,
              walltime="0:10:00", WAIT=60, USAGE_AFTER=0.2, NB_ITERATION=200, TEST_AFTER=50,
              SERVERS=[], CHECKPOINT_AFTER=0)  # fmt: skip
    done = run.finish()
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(run.folder / "tables" / "small.csv")
    seconds = table["elapsed_s max"]
    assert {90.0, 150.0} == {
        float(line.rpartition(":")[2].strip(" }\n"))
        for path in run.folder.glob("machine*/power.jsonl")
        for line in path.open()
    }
    assert table["energy_j"].tolist() == pytest.approx((240 * seconds).tolist(), rel=0.1, abs=24)
    assert (table["cpu_s"].diff().dropna() >= 0).all() and table["memory_bytes"].min() > 1e7
    assert grid5000.left() == []
