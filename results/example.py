"""A small sweep made on the spot, for notebooks: two methods at two noise levels."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from decentralizepy.files import write_json
from decentralizepy.runfolder import RunFolder

METHODS: Final = ("ZeroSumSharing", "Muffliato")
NOISE: Final = (0.05, 0.4)
NODES: Final = 6
_INI: Final = """\
[DATASET]
dataset_package = decentralizepy.datasets.Digits
dataset_class = Digits
model_class = MLP
random_seed = 90
partition_niid = iid
[OPTIMIZER_PARAMS]
optimizer_package = torch.optim
optimizer_class = SGD
lr = 0.3
[TRAIN_PARAMS]
training_package = decentralizepy.training.Training
training_class = Training
rounds = 10
batch_size = 8
full_epochs = False
loss_package = torch.nn
loss_class = CrossEntropyLoss
[COMMUNICATION]
comm_package = decentralizepy.communication.TCP
comm_class = TCP
[SHARING]
sharing_package = decentralizepy.sharing.{method}
sharing_class = {method}
noise_std = {noise}
save_models_for_attacks = 2
"""


def example_runs(folder: str | Path) -> list[Path]:
    """The run folders of the example in ``folder``; those that are not there yet are made.

    Each takes some seconds: six nodes learn digits for six iterations and keep what they send.
    """
    return [
        _example(Path(folder) / f"{method}_{noise:g}", method, noise)
        for method in METHODS
        for noise in NOISE
    ]


def runs_or_example(folders: Sequence[str | Path], example: str | Path) -> list[Path]:
    """``folders``; without any, the example's, made in the folder ``example``."""
    return [Path(folder) for folder in folders] or example_runs(example)


def _example(root: Path, method: str, noise: float) -> Path:
    from decentralizepy import run_here

    logs = RunFolder(root.resolve()).machine(0)
    if not logs.all_records():
        ini = _INI.format(method=method, noise=noise)
        run_here(ini, NODES, 6, test_after=2, train_evaluate_after=2, log_dir=logs.root)
        write_json(logs.args, {"machines": 1, "procs_per_machine": [NODES], "iterations": 6})
        RunFolder(root).ini.write_text(ini, encoding="utf-8")  # which run_here keeps no copy of
    return root


def attack(folders: Sequence[str | Path], *words: str) -> None:
    """``python -m results attack`` for some folders, quietly; ``words`` are its further flags."""
    from results.attacks.command import parser, run

    with contextlib.redirect_stdout(io.StringIO()):
        run(parser().parse_args([*map(str, folders), *words]))
