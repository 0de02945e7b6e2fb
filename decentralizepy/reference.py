"""What files of the reference system may name that is not here: to say so, instead of guessing.

A name that has arrived needs no change here: `registry` looks among its own names first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: module of the reference system -> its class
MODULES: Final[dict[str, str]] = {
    "decentralizepy.communication.TCP_ACK": "TCP",
    "decentralizepy.datasets.Celeba": "Celeba",
    "decentralizepy.datasets.MovieLens": "MovieLens",
    "decentralizepy.datasets.Reddit": "Reddit",
    "decentralizepy.datasets.Shakespeare": "Shakespeare",
    "decentralizepy.datasets.text.AmazonReview": "AmazonReview",
    "decentralizepy.training.text.LLMTraining": "LLMTraining",
}

#: what to take until then, where something comes close
INSTEAD: Final[dict[str, str]] = {
    "decentralizepy.communication.TCP_ACK": "decentralizepy.communication.TCP / TCP",
}

#: driver of the reference system -> what it needs that is not here
DRIVERS: Final[dict[str, str]] = {
    "testingFederated.py": "federated learning with a server",
    "testingSTC.py": "federated learning with sparse ternary compression",
    "testingKNN.py": "an overlay of nearest neighbours",
    "testingEL_Local.py": "epidemic learning with local sampling",
    "testingPeerSamplerMultipleAvgRoundsDropout.py": "nodes that drop out",
}
#: it imports a module that the reference system does not have, so it never ran
NEVER_RAN: Final = "testingKFN.py"

_NO: Final = frozenset({"", "false", "no", "0"})
#: options that classes of ours lack, and that may stand in an INI while their feature is off:
#: (section, key) -> values that mean off (None: any, the key alone does nothing), and the feature;
#: those of [NODE] are read by drivers that are not here
OFF: Final[dict[tuple[str, str], tuple[frozenset[str] | None, str]]] = {
    ("DATASET", "only_local"): (frozenset({"", "false"}), "a partition for each machine"),
    ("SHARING", "dict_ordered"): (frozenset({"", "true", "yes", "1"}), "models in any order"),
    ("SHARING", "pickle"): (None, "pickle"),
    ("SHARING", "save_shared"): (_NO, "files of what was shared"),
    ("SHARING", "save_accumulated"): (_NO, "files of accumulated changes"),
    ("NODE", "timeout"): (None, "time-outs of epidemic learning"),
    ("NODE", "dropout_rate"): (None, "nodes that drop out"),
    ("NODE", "dropout_correlation"): (None, "nodes that drop out"),
}


#: flag here -> flag of the reference system, by which ``args.json`` names it
FLAGS: Final[dict[str, str]] = {"averaging_steps": "averaging_rounds"}


def flags(ours: Mapping[str, Any]) -> dict[str, Any]:
    """Flags under the names that the reference system gave them, as its scripts read them."""
    return {FLAGS.get(name, name): value for name, value in ours.items()}


def is_off(section: str, key: str, value: str) -> bool:
    """Whether a key of the reference system does nothing here and there: its feature is off."""
    values, _ = OFF.get((section, key), (frozenset[str](), ""))
    return values is None or value.strip().lower() in values


def feature(section: str, key: str) -> str | None:
    """The feature that a key of the reference system belongs to, if it is not here."""
    return OFF[section, key][1] if (section, key) in OFF else None


def not_built(module: str, name: str) -> str | None:
    """Why a class of the reference system cannot be had, or None if it never had the module."""
    if module not in MODULES:
        return None
    text = f"{name} ({module}) of the reference system is not in this version yet"
    return f"{text}; take {INSTEAD[module]}" if module in INSTEAD else text


def no_driver(base: str) -> str | None:
    """Why a driver of the reference system cannot be had, or None if it never had the driver."""
    if base == NEVER_RAN:
        return f"{base} never ran in the reference system: it imports a module that is nowhere"
    if base in DRIVERS:
        return f"{base} needs {DRIVERS[base]}, which is not in this version yet"
    return None
