"""What distinguishes one run from another: the settings found in its folder, under one name each.

Settings come from, weakest first: ``run.json`` (the seed, which an INI may leave to its default),
``args.json`` (flags of the core), the INI (every key of `SECTIONS`), ``g5k_config.json`` (the
keys of `G5K_KEYS`). Names are the keys in lower case; a key
that two sections of the INI share is prefixed by its section from the second one on
(``optimizer_params.alpha``). Folders, ports and Python packages are left out: they say where a
run happened, not what it was.
"""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from decentralizepy.jsonfile import read_object
from decentralizepy.runfolder import MachineFolder, RunFolder

Attributes = dict[str, str | int | float | bool]

#: flag of the core -> attribute, named as in the JSON of an experiment
ARGS_KEYS: Final[dict[str, str]] = {
    "machines": "nb_machine",
    "iterations": "nb_iteration",
    "graph_file": "graph_file",
    "eval_file": "eval_file",
    "test_after": "test_after",
    "averaging_rounds": "averaging_steps",
    "reset_optimizer": "reset_optimizer",
    "device": "device",
    "simulate": "simulation_file",
    "faults": "faults_file",
}
G5K_KEYS: Final = (
    "GRAPH_FILE",
    "NB_AGENTS",
    "NB_MACHINE",
    "NB_ITERATION",
    "EVAL_FILE",
    "TEST_AFTER",
    "AVERAGING_STEPS",
)
SECTIONS: Final = ("DATASET", "OPTIMIZER_PARAMS", "TRAIN_PARAMS", "LR_SCHEDULE", "SHARING", "NODE")
_PLACES: Final = ("_package", "_dir", "_filepath")


def read_attributes(run: RunFolder, machine: MachineFolder) -> Attributes:
    """The settings of a run; ``machine`` is its first one. Files that are absent count as empty."""
    seed = read_object(machine.run).get("seed")
    found: Attributes = {"random_seed": seed} if type(seed) is int else {}
    found.update(_from_args(read_object(machine.args)))
    found.update(_from_ini(_find_ini(run, machine)))
    found.update(_from_config(read_object(run.config)))
    return found


def _from_args(args: Mapping[str, Any]) -> Attributes:
    return {new: _short(new, args[old]) for old, new in ARGS_KEYS.items() if _plain(args.get(old))}


def _from_config(config: Mapping[str, Any]) -> Attributes:
    found = {key.lower(): config.get(key) for key in G5K_KEYS}
    return {key: _short(key, value) for key, value in found.items() if _plain(value)}


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _short(key: str, value: Any) -> Any:
    """File attributes without the folder, which differs from machine to machine."""
    return Path(value).name if key.endswith("_file") and isinstance(value, str) else value


def _find_ini(run: RunFolder, machine: MachineFolder) -> Path | None:
    candidates = [run.ini, *sorted(machine.root.glob("*.ini"))]
    return next((path for path in candidates if path.is_file()), None)


def _from_ini(path: Path | None) -> Attributes:
    found: Attributes = {}
    for section, key, text in _ini_items(path):
        name = f"{section.lower()}.{key}" if key in found else key
        found[name] = typed(text)
    return found


def _ini_items(path: Path | None) -> Iterator[tuple[str, str, str]]:
    if path is None:
        return
    parser = configparser.ConfigParser(
        interpolation=None, strict=False, inline_comment_prefixes=(";", "#")
    )
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, configparser.Error):
        return  # the core refuses such a file with a good message; tables can do without
    for section in SECTIONS:
        if parser.has_section(section):
            yield from ((section, key, text) for key, text in parser[section].items() if _says(key))


def _says(key: str) -> bool:
    return not key.endswith(_PLACES)


def typed(text: str) -> str | int | float | bool:
    """An INI value as the number or truth value it spells, else as text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, int | float) else text
