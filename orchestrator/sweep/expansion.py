"""From the ``sweep`` section to cells: one experiment each. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from decentralizepy.errors import ConfigError, nearest
from decentralizepy.overrides import from_json
from orchestrator.config import Config, keys
from orchestrator.planning.change import Change
from orchestrator.sweep.attributes import ATTRIBUTES, change_by
from orchestrator.sweep.section import Sweep

#: Keys of the JSON that belong to all cells together: to where they run, and to their one
#: reservation.
OF_ALL: Final = frozenset({
    "$schema", "BACKEND", "CLUSTERS", "COLLECT_AFTER", "ENV_NAME", "HOSTS", "HOST_DIR", "INI",
    "LOCAL_SAVE_DIR", "MARGIN", "MONITOR", "PROJECT", "SBATCH", "SERVERS", "SETUP", "SSH_OPTIONS",
    "STORAGE", "WAIT", "cluster", "description", "job_name", "job_type", "queue", "reservation",
    "sweep", "walltime",
})  # fmt: skip
MOST_CELLS: Final = 10_000


@dataclass(frozen=True)
class Cell:
    """One experiment of a sweep: what was chosen, what that changes, and its short name."""

    name: str
    chosen: Mapping[str, Any]
    change: Change


def expand(config: Config) -> list[Cell]:
    """All cells in order, the seeds of one setting together; raises `ConfigError`.

    Cells that come out the same (a noise level of a variant without noise) are one.
    """
    sweep = config.sweep
    assert sweep is not None, "only a configuration with a sweep has cells"
    _check_size(sweep)
    found: dict[str, Cell] = {}
    for chosen in _points(sweep):
        cell = _cell(chosen, config)
        found.setdefault(repr(_identity(cell.change)), cell)
    return list(found.values())


def _check_size(sweep: Sweep) -> None:
    count = max(len(sweep.listed), 1) * max(len(sweep.seeds), 1)
    for values in sweep.grid.values():
        count *= len(values)
    if count > MOST_CELLS:
        raise ConfigError(f"sweep: {count:,} experiments are too many: at most {MOST_CELLS:,}")


def _points(sweep: Sweep) -> Iterator[dict[str, Any]]:
    seeds = [{"random_seed": seed} for seed in sweep.seeds] or [{}]
    grid = [[{name: value} for value in values] for name, values in sweep.grid.items()]
    for parts in itertools.product(sweep.listed or [{}], *grid, seeds):
        point: dict[str, Any] = {}
        for part in parts:
            if twice := sorted(point.keys() & part.keys()):
                raise ConfigError(f"sweep: {twice[0]} is set twice; keep one of grid, list, seeds")
            point |= part
        yield point


def _cell(chosen: dict[str, Any], base: Config) -> Cell:
    values: dict[str, Any] = {}
    ini: dict[str, Any] = {}
    without: frozenset[str] = frozenset()
    kept = dict(chosen)
    for name, value in chosen.items():
        change = _change(name, value, base)
        if twice := sorted(
            (values.keys() & change.values.keys()) | (ini.keys() & change.ini.keys())
        ):
            raise ConfigError(f"sweep: {name} sets {twice[0]}, which another key of it sets too")
        values |= change.values
        ini |= change.ini
        without |= change.without
    if dropped := without & ini.keys():
        ini = {key: value for key, value in ini.items() if key not in dropped}
        kept = {n: v for n, v in kept.items() if not set(_change(n, v, base).ini) & dropped}
    return Cell(_name(kept), kept, Change(values, ini, without))


def _change(name: str, value: Any, base: Config) -> Change:
    """What one key changes: an attribute, a key of the INI, or one of the JSON."""
    try:
        if name in ATTRIBUTES:
            return change_by(name, value, base)
        if "." in name:
            one = from_json(name, value, f"{name}")
            return Change(ini={one.name: value})
    except ConfigError as error:
        raise ConfigError(f"sweep: {error}") from None
    if name in OF_ALL:
        raise ConfigError(f"sweep: {name} is the same for all experiments of a sweep")
    if name not in keys():
        known = [*ATTRIBUTES, *(key for key in keys() if key not in OF_ALL)]
        near = nearest(name[:60], known)
        raise ConfigError(
            f"sweep: unknown key {name[:60]!r}{near}; known: {', '.join(known)}, and keys of the "
            "INI as OPTIMIZER_PARAMS.lr"
        )
    return Change(values={name: value})


def _identity(change: Change) -> Any:
    return sorted(change.values.items()), sorted(change.ini.items()), sorted(change.without)


def _name(chosen: Mapping[str, Any]) -> str:
    """As the reference system names its runs: the variant first."""
    ordered = sorted(chosen.items(), key=lambda item: item[0] != "variant")
    return "_".join(_token(name, value) for name, value in ordered)


def _token(name: str, value: Any) -> str:
    if name in ATTRIBUTES:
        return ATTRIBUTES[name].token(value)
    text = value if isinstance(value, str) else repr(value)
    return re.sub(r"[^\w.+=@-]+", "-", f"{name.rpartition('.')[2]}={text}")[:60]
