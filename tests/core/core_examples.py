"""A small experiment as text, to be changed key by key, and the errors that it gives."""

from pathlib import Path

import pytest

from decentralizepy.config import Experiment, parse_experiment
from decentralizepy.errors import ConfigError

SECTIONS = {
    "DATASET": {
        "dataset_package": "decentralizepy.datasets.Digits",
        "dataset_class": "Digits",
        "model_class": "MLP",
        "random_seed": "90",
        "partition_niid": "kshard",
        "shards": "2",
    },
    "OPTIMIZER_PARAMS": {
        "optimizer_package": "torch.optim",
        "optimizer_class": "SGD",
        "lr": "0.05",
    },
    "TRAIN_PARAMS": {
        "training_package": "decentralizepy.training.Training",
        "training_class": "Training",
        "rounds": "3",
        "batch_size": "8",
        "loss_package": "torch.nn",
        "loss_class": "CrossEntropyLoss",
    },
    "COMMUNICATION": {
        "comm_package": "decentralizepy.communication.TCP",
        "comm_class": "TCP",
        "addresses_filepath": "ip.json",
    },
    "SHARING": {
        "sharing_package": "decentralizepy.sharing.Sharing",
        "sharing_class": "Sharing",
    },
    "NODE": {"graph_degree": "4"},
    "LR_SCHEDULE": {
        "schedule_package": "decentralizepy.training.schedules",
        "schedule_class": "Step",
        "step_size": "10",
    },
}


def ini(**changes: str | None) -> str:
    """The INI with some values changed, written ``SECTION__key``; None takes a key out."""
    sections = {name: dict(keys) for name, keys in SECTIONS.items()}
    for name, value in changes.items():
        section, key = name.split("__")
        if value is None:
            sections[section].pop(key)
        else:
            sections.setdefault(section, {})[key] = value
    parts = []
    for name, keys in sections.items():
        parts += [f"[{name}]", *(f"{key} = {value}" for key, value in keys.items()), ""]
    return "\n".join(parts)


def read(path: Path = Path("small.ini"), **changes: str | None) -> Experiment:
    """The changed INI, checked."""
    return parse_experiment(ini(**changes), path)


def refusal(path: Path = Path("small.ini"), **changes: str | None) -> str:
    """Why the changed INI is refused."""
    with pytest.raises(ConfigError) as caught:
        read(path, **changes)
    return str(caught.value)


def ring(n: int) -> str:
    """The text of a graph file: each node has its two neighbours."""
    return "\n".join([str(n), *(f"{i} {(i + 1) % n}" for i in range(n)), ""])
