"""Attributes of experiments by the names that the reference system gives them, as it writes them.

Each says what it changes: ``lr`` is a key of the INI, ``avgsteps`` one of the JSON, ``variant`` a
class of `[SHARING]` with its options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError, nearest
from orchestrator.config import Config
from orchestrator.planning.change import Change

#: Mean norm of a gradient, measured by the reference system: noise levels are parts of it.
GRADIENT_NORM: Final = 0.225
#: What each driver of graphs is called.
TOPOLOGIES: Final = {
    "static": "testingPeerSampler.py",
    "dynamic": "testingPeerSamplerDynamic.py",
}
#: variant -> class of [SHARING] and the options that make it what it is
VARIANTS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "nonoise": ("Sharing", {}),
    "muffliato": ("Muffliato", {}),
    "zerosum_selfnoise": ("ZeroSumSharing", {"self_noise": "True"}),
    "zerosum_noselfnoise": ("ZeroSumSharing", {"self_noise": "False"}),
}
#: options of each class of `VARIANTS` that the others may lack
_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "Sharing": frozenset(),
    "Muffliato": frozenset({"noise_std", "sharing_seed", "accelerated"}),
    "ZeroSumSharing": frozenset({"noise_std", "sharing_seed", "self_noise"}),
}
_NUMBER: Final = r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"


@dataclass(frozen=True)
class Attribute:
    """``change`` of a value, for an experiment; ``token`` names the value in a folder's name."""

    change: Callable[[Any, Config], Change]
    token: Callable[[Any], str]


def number(text: Any, form: str) -> int | float | None:
    """The number in ``3rounds`` (form ``{}rounds``), or by itself; None where there is none."""
    if type(text) in (int, float):
        return text if text >= 0 else None
    for each in (form, "{}"):
        before, _, after = each.partition("{}")
        wanted = rf"{re.escape(before)}({_NUMBER}){re.escape(after)}"
        if isinstance(text, str) and (found := re.fullmatch(wanted, text)):
            return float(found[1]) if re.search("[.eE]", found[1]) else int(found[1])
    return None


def _need(value: Any, form: str, whole: bool) -> int | float:
    """The same; raises ValueError."""
    found = number(value, form)
    if found is None or (whole and not isinstance(found, int)):
        what = "a whole number" if whole else "a number"
        example = form.format(16 if whole else 0.05)
        raise ValueError(f"{what} is expected, by itself or as {example!r}")
    return found


def _numeric(form: str, target: str, whole: bool = True) -> Attribute:
    """A number that is a key of the INI (``SECTION.key``) or of the JSON."""

    def change(value: Any, base: Config) -> Change:
        found = _need(value, form, whole)
        return Change(ini={target: found}) if "." in target else Change(values={target: found})

    return Attribute(change, lambda value: form.format(_need(value, form, whole)))


def noise_std(level: Any) -> float:
    """``16th`` is a sixteenth of `GRADIENT_NORM`; ``0p25th`` is four times it. Else ValueError."""
    text = level.replace("p", ".") if isinstance(level, str) else level
    part = number(text, "{}th") if isinstance(text, str) and text.endswith("th") else None
    if not part:
        raise ValueError("a part of 0.225 is expected, as '16th', '2p5th' or '0p25th'")
    return GRADIENT_NORM / part


def _noise(value: Any, base: Config) -> Change:
    return Change(ini={"SHARING.noise_std": noise_std(value)})


def _one_of(known: Mapping[str, Any], value: Any) -> Any:
    if value not in known:
        near = nearest(str(value), known)
        raise ValueError(f"there is none of this name{near}; known: {', '.join(known)}")
    return known[value]


def _variant(value: Any, base: Config) -> Change:
    """A sharing class; options of the others, which it would refuse, are left out."""
    name, options = _one_of(VARIANTS, value)
    ini = {"sharing_package": f"decentralizepy.sharing.{name}", "sharing_class": name, **options}
    others = frozenset().union(*_OPTIONS.values()) - _OPTIONS[name]
    return Change(
        ini={f"SHARING.{key}": text for key, text in ini.items()},
        without=frozenset(f"SHARING.{key}" for key in others),
    )


def _topology(value: Any, base: Config) -> Change:
    return Change(values={"EVAL_FILE": _one_of(TOPOLOGIES, value)})


def _nodes(value: Any, base: Config) -> Change:
    """So many nodes, and the graph of as many: its name begins with their number."""
    nodes = _need(value, "{}nodes", whole=True)
    graph = base.GRAPH_FILE
    if graph is None or nodes == base.NB_AGENTS:
        return Change(values={"NB_AGENTS": nodes})
    name = Path(graph).name
    if not re.match(rf"{base.NB_AGENTS}(?!\d)", name):
        raise ValueError(
            f"GRAPH_FILE = {graph!r} does not begin with its {base.NB_AGENTS} nodes, so the graph "
            'of another number is not known: write {"NB_AGENTS": ..., "GRAPH_FILE": ...} in a list'
        )
    other = Path(graph).with_name(f"{nodes}{name.removeprefix(str(base.NB_AGENTS))}")
    return Change(values={"NB_AGENTS": nodes, "GRAPH_FILE": str(other)})


def _model(value: Any, base: Config) -> Change:
    if not isinstance(value, str):
        raise ValueError("the name of a class is expected")
    return Change(ini={"DATASET.model_class": value})


ATTRIBUTES: Final[Mapping[str, Attribute]] = {
    "variant": Attribute(_variant, str),
    "noise_level": Attribute(_noise, str),
    "avgsteps": _numeric("{}avgsteps", "AVERAGING_STEPS"),
    "topology": Attribute(_topology, str),
    "random_seed": _numeric("seed{}", "DATASET.random_seed"),
    "graph_degree": _numeric("degree{}", "NODE.graph_degree"),
    "model_class": Attribute(_model, str),
    "lr": _numeric("lr{}", "OPTIMIZER_PARAMS.lr", whole=False),
    "rounds": _numeric("{}rounds", "TRAIN_PARAMS.rounds"),
    "batchsize": _numeric("batchsize{}", "TRAIN_PARAMS.batch_size"),
    "nbnodes": Attribute(_nodes, lambda value: f"{number(value, '{}nodes')}nodes"),
}


def change_by(name: str, value: Any, base: Config) -> Change:
    """What an attribute changes; raises `ConfigError`."""
    try:
        return ATTRIBUTES[name].change(value, base)
    except ValueError as error:
        raise ConfigError(f"{name} = {value!r}: {error}") from None
