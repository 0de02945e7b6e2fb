"""What files of the reference system may name that is not here: to say so, instead of guessing.

A name that has arrived needs no change here: `registry` looks among its own names first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: module of the reference system -> its class
MODULES: Final[dict[str, str]] = {
    "decentralizepy.communication.TCP_ACK": "TCP",
}

#: what to take until then, where something comes close
INSTEAD: Final[dict[str, str]] = {
    "decentralizepy.communication.TCP_ACK": "decentralizepy.communication.TCP / TCP",
}

_NO: Final = frozenset({"", "false", "no", "0"})
#: options that classes of ours lack, and that may stand in an INI while their feature is off:
#: (section, key) -> values that mean off (None: any, the key alone does nothing), and the feature
OFF: Final[dict[tuple[str, str], tuple[frozenset[str] | None, str]]] = {
    ("DATASET", "only_local"): (frozenset({"", "false"}), "a partition for each machine"),
    ("SHARING", "dict_ordered"): (frozenset({"", "true", "yes", "1"}), "models in any order"),
    ("SHARING", "pickle"): (None, "pickle"),
    ("SHARING", "save_shared"): (_NO, "files of what was shared"),
    ("SHARING", "save_accumulated"): (_NO, "files of accumulated changes"),
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
