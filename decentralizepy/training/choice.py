"""Which trainer trains: decided by configuration, model and device alone, never by timing."""

from __future__ import annotations

from typing import Any, Final

from decentralizepy.errors import ConfigError
from decentralizepy.training.data import Samples
from decentralizepy.training.mapped import MappedTrainer, can_map
from decentralizepy.training.optimizers import NodeOptimizer
from decentralizepy.training.stacked import StackedTrainer, can_stack
from decentralizepy.training.task import Task
from decentralizepy.training.template import Template
from decentralizepy.training.trainer import Trainer
from decentralizepy.training.training import Training

#: larger models gain nothing on a CPU: their kernels are long enough one by one
MAX_PARAMETERS: Final = 65_536


def make_trainer(
    template: Template,
    optimizer: NodeOptimizer,
    training: Training,
    task: Task,
    train: Samples,
    **options: Any,
) -> Trainer:
    """The trainer that [TRAIN_PARAMS] ``stacked`` asks for, with the options of `Trainer`.

    ``auto`` stacks small chains of linear layers and, on a GPU, maps whatever can be mapped. Raises
    `ConfigError` where ``yes`` or ``vmap`` can't be had.
    """
    arguments = template, optimizer, training, task, train
    plain, wanted = Trainer(*arguments, **options), training.stacked
    gpu, small = template.device.type != "cpu", template.layout.n_parameters <= MAX_PARAMETERS
    if wanted == "yes" or (wanted == "auto" and (small or gpu)):
        if not (why := can_stack(plain)):
            return StackedTrainer(*arguments, **options)
        _insist(wanted == "yes", wanted, why)
    if wanted == "vmap" or (wanted == "auto" and gpu):
        why = can_map(plain)
        mapped = None if why else MappedTrainer(*arguments, **options)
        if mapped is not None and not (why := mapped.try_out()):
            return mapped
        _insist(wanted == "vmap", wanted, why)
    return plain


def _insist(asked: bool, wanted: str, why: str) -> None:
    if asked:
        raise ConfigError(f"[TRAIN_PARAMS] stacked = {wanted}, but {why}")
