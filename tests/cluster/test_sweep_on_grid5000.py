"""A sweep on the stand-in for Grid'5000: one job for all runs, also where its process is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiment import Run
from waiting import until


def begun(folder: Path) -> bool:
    """Whether any cell's machines were started."""
    return any('"started"' in ledger.read_text() for ledger in folder.glob("*/ledger.jsonl"))


def test_a_killed_sweep_goes_on_in_the_same_job(grid5000: Any, tmp_path: Path) -> None:
    run = Run(tmp_path, grid5000.environment, BACKEND="grid5000", cluster="paradoxe", NB_MACHINE=2,
              walltime="0:20:00", WAIT=60, sweep={"seeds": [90, 91]})  # fmt: skip
    folder = run.results / "sweep_small"
    command = run.start()
    until(lambda: begun(folder) or command.poll() is not None)
    assert begun(folder), command.communicate()
    command.kill()
    command.wait()
    assert len(grid5000.api.live_jobs()) == 1
    done = run.finish(seconds=300)
    assert done.returncode == 0, done.stderr + done.stdout
    assert sum(r.startswith("POST") and r.endswith("/jobs") for r in grid5000.api.requests) == 1
    ledgers = [path.read_text() for path in folder.glob("small_seed9*/ledger.jsonl")]
    assert [text.count('"submitted"') for text in ledgers] == [1, 1]
    listed = json.loads((folder / "sweep.json").read_text())["cells"]
    assert [cell["state"] for cell in listed] == ["done", "done"]
    assert list(folder.glob("figures/*.pdf")) and grid5000.left() == []
