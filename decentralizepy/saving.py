"""Which models are kept for attacks, by the reference's keys of [SHARING] and one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from decentralizepy.errors import ConfigError
from decentralizepy.registry import Option, coerce

#: what is kept of a model: all its numbers, or its loss on every sample
MODELS, LOSSES = "models", "losses"
OPTIONS: Final = {
    option.name: option
    for option in (
        Option("save_models_for_attacks", "int", "-1"),
        Option("save_all_models", "bool", "True"),
        Option("nb_models_to_save", "int", "1"),
        Option("nb_targets_to_save", "int", "1"),
        Option("save_for_attacks_as", "str", repr(MODELS)),
    )
}


@dataclass(frozen=True)
class Saving:
    """Keep what nodes send in iteration 1 and in every ``every``-th (0: never).

    ``nodes`` says of how many, from node 0 on (None: all); ``targets`` to how many receivers of
    each; ``form`` is `MODELS` or `LOSSES`.
    """

    every: int = 0
    nodes: int | None = None
    targets: int = 1
    form: str = MODELS

    def due(self, uid: int, t: int) -> bool:
        """Whether what a node sends in iteration ``t`` (0-based) is kept."""
        if not self.every or uid < 0 or (self.nodes is not None and uid >= self.nodes):
            return False
        return t == 0 or (t + 1) % self.every == 0


def read_saving(given: Mapping[str, str], where: str) -> Saving:
    """From the keys of `OPTIONS` that an INI has, as text; raises `ConfigError`."""
    values: dict[str, Any] = {"save_models_for_attacks": -1, "save_all_models": True}
    values |= {"nb_models_to_save": 1, "nb_targets_to_save": 1, "save_for_attacks_as": MODELS}
    for key, text in given.items():
        values[key] = coerce(text, OPTIONS[key], f"{where} {key}")
    form = values["save_for_attacks_as"]
    if form not in (MODELS, LOSSES):
        raise ConfigError(f"{where} save_for_attacks_as = {form:.40}: {MODELS} or {LOSSES}")
    for key in ("nb_models_to_save", "nb_targets_to_save"):
        if values[key] < 1:
            raise ConfigError(f"{where} {key} = {values[key]}: at least 1")
    nodes = None if values["save_all_models"] else values["nb_models_to_save"]
    every = max(0, values["save_models_for_attacks"])
    return Saving(every, nodes, values["nb_targets_to_save"], form)
