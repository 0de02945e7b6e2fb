"""A small experiment in a folder of its own, and a setting with a fake core."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orchestrator_fakes as fakes
import pytest

from orchestrator.backends.local import LocalBackend
from orchestrator.running.experiment import Setting


@pytest.fixture
def make(tmp_path: Path) -> fakes.Make:
    """Write an experiment's files and return its JSON."""

    def write(folder: Path = tmp_path, ini: str = fakes.INI, **changes: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        changes = {"LOCAL_SAVE_DIR": str(folder / "results")} | changes
        wanted = fakes.values(**changes)
        (folder / "small.ini").write_text(ini)
        (folder / "ring.edges").write_text(fakes.ring(wanted["NB_AGENTS"]))
        path = folder / "small.json"
        path.write_text(json.dumps(wanted))
        return path

    return write


@pytest.fixture
def setting(tmp_path: Path) -> Callable[..., Setting]:
    """A setting whose core and results room are fakes of the given behaviour."""

    def build(mode: str = "ok", results: str = fakes.RESULTS, **environment: str) -> Setting:
        tmp_path.mkdir(exist_ok=True)
        core = (*fakes.script(tmp_path, "core.py", fakes.CORE), mode)
        ours = dict(os.environ) | environment
        return Setting(
            backend=LocalBackend(core=core, grace_s=0.3, ours=ours),
            results=fakes.script(tmp_path, "results_room.py", results),
            costs=tmp_path / "cache" / "costs.json",
            environment=ours,
        )

    return build
