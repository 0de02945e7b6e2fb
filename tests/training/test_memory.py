"""What a training class remembers of each node from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from decentralizepy import run_here
from decentralizepy.engine.assemble import Assembly
from decentralizepy.engine.worker import Worker
from decentralizepy.errors import RunError
from decentralizepy.training.learner import Learner
from decentralizepy.training.template import Template

ADAPTIVE = '''\
"""Clipping to a running mean of the node's own norms, as a user would write it beside the INI."""
from decentralizepy import Training


class Adaptive(Training):
    def gradient(self, step):
        step.backward()
        norm = step.grad.norm()
        step.memory["mean"] = 0.5 * (step.memory.get("mean", norm) + norm)
        step.memory["steps"] = step.memory.get("steps", 0) + 1
        step.memory["by node"] = {"last": step.grad[:3].clone(), "uid": step.uid}
        step.clip(0.1 * float(step.memory["mean"]))


class Wrong(Training):
    def gradient(self, step):
        step.backward()
        step.memory["seen"] = {step.t}
'''
SWITCHING = '''\
"""A model with a bool and a count of its own."""
import torch

from decentralizepy.models.digits import MLP


class Switching(MLP):
    def __init__(self):
        super().__init__()
        self.register_buffer("on", torch.tensor(True))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        found = super().forward(x) * (1 + self.on)
        if self.training:
            self.steps += 1
            self.on.fill_(int(self.steps) % 7 > 3)
        return found
'''
INI = Path("run_configuration/digits_kshard2_mlp.ini")
ITERATIONS = 6


def run(
    folder: Path, iterations: int, kind: str = "Adaptive", model: Sequence[str] = (), **more: Any
) -> Any:
    (folder / "adaptive.py").write_text(ADAPTIVE)
    ini = folder / "config.ini"
    ini.write_text(INI.read_text())
    keys = ["TRAIN_PARAMS.training_package=adaptive", f"TRAIN_PARAMS.training_class={kind}"]
    return run_here(ini, 5, iterations=iterations, test_after=0, set=[*keys, *model], **more)


def test_memory_is_the_nodes_own_and_outlives_a_resume(tmp_path: Path) -> None:
    whole = run(tmp_path, ITERATIONS)
    kept = {"log_dir": tmp_path / "log", "checkpoint_after": 3}
    run(tmp_path, 4, **kept)
    again = run(tmp_path, ITERATIONS, **kept, resume=True)
    assert any("resuming after" in note for note in again.notes)
    for uid, row in whole.rows.items():
        assert torch.equal(row, again.rows[uid])


def test_memory_comes_back_where_the_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``meta`` stands in for a GPU while checkpoints are read."""
    options = {"log_dir": tmp_path / "log", "checkpoint_after": 3}
    run(tmp_path, 4, **options)
    restore, found = Assembly.restore, []

    def elsewhere(assembly: Assembly, worker: Worker, iteration: int) -> float:
        with monkeypatch.context() as there:
            there.setattr(Template, "device", torch.device("meta"))
            elapsed = restore(assembly, worker, iteration)
        for seat in worker.seats.values():
            memory = seat.learner.memory
            found.extend([memory["mean"].device.type, memory["by node"]["last"].device.type])
            memory.clear()
        return elapsed

    monkeypatch.setattr(Assembly, "restore", elsewhere)
    run(tmp_path, ITERATIONS, **options, resume=True)
    assert found == ["meta"] * 10


def test_a_single_bool_may_be_a_number_in_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they were written until there were buffers of any shape."""
    (tmp_path / "switching.py").write_text(SWITCHING)
    model = ["DATASET.model_package=switching", "DATASET.model_class=Switching"]
    options = {"log_dir": tmp_path / "log", "checkpoint_after": 3, "model": model}
    now = Learner.kept

    def before(learner: Learner) -> dict[str, Any]:
        kept = now(learner)
        first = kept.pop("buffers")
        return kept | {"counters": [int(first["0"]), *kept["counters"][1:]]}

    with monkeypatch.context() as older:
        older.setattr(Learner, "kept", before)
        run(tmp_path, 4, **options)
    again = run(tmp_path, ITERATIONS, **options, resume=True)
    assert any("resuming after" in note for note in again.notes)
    whole = run(tmp_path, ITERATIONS, model=model)
    for uid, row in whole.rows.items():
        assert torch.equal(row, again.rows[uid])


def test_what_no_checkpoint_holds_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"node 0 cannot be saved after iteration 1: step.memory"):
        run(tmp_path, 2, "Wrong", log_dir=tmp_path / "log", checkpoint_after=1)
