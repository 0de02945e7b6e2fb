"""The files that an experiment names: its JSON, its INI and its graph, found and read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from decentralizepy.errors import ConfigError, nearest
from decentralizepy.files import expanded, read_text_file
from decentralizepy.jsonfile import parse_json
from decentralizepy.overrides import Override, from_flags, from_json, without_key
from orchestrator.config import Config, keys
from orchestrator.planning.change import NO_CHANGE, Change
from orchestrator.planning.data import DataFolder, find_data
from orchestrator.planning.modules import Modules, find_modules

if TYPE_CHECKING:
    from decentralizepy.graphs.graph import Graph

REPOSITORY: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = "run_configuration"
#: Key of the INI that is not the user's, as the file that it names is made from the machines.
WRITTEN: Final = "COMMUNICATION.addresses_filepath"
#: A configuration is a page of text; what is bigger is another file.
MAX_BYTES: Final = 1 << 20


def in_repository() -> bool:
    """Whether this is a checkout; else it was installed, and lies among other people's packages."""
    return (REPOSITORY / "g5k_execution.py").is_file()


def save_folder(config: Config) -> Path:
    """LOCAL_SAVE_DIR; a relative one is in the repository, wherever the command is given.

    Where there is none, as the package was installed, it is in the working directory.
    """
    root = REPOSITORY if in_repository() else Path.cwd()
    return root / expanded(Path(config.LOCAL_SAVE_DIR))


@dataclass(frozen=True)
class Inputs:
    """A checked configuration with the text of its INI and its graph."""

    path: Path
    config: Config
    ini_path: Path
    ini_text: str
    graph_path: Path | None
    graph: Graph  # without edges where no file is named
    simulate_path: Path | None = None
    faults_path: Path | None = None
    overrides: tuple[Override, ...] = ()
    data: DataFolder | None = None
    modules: Modules = field(default_factory=Modules)


def read_inputs(path: Path, given: Sequence[str] = (), change: Change = NO_CHANGE) -> Inputs:
    """Read a JSON and the files that it names; raises `ConfigError`.

    ``given``: keys of the INI after ``--set``, which go before those of the JSON. ``change`` is
    made to what the files say.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - a symbolic link keeps its name
    config = read_config(path) if change is NO_CHANGE else _changed_config(path, change)
    overrides = _overrides(config, path, given)
    values = {name: value for name, (_, value) in overrides.items()}
    config = config.model_copy(update={"INI": values})
    ini_path = find(config.CONFIG_NAME, path, "CONFIG_NAME")
    graph_path = _named(config.GRAPH_FILE, path, "GRAPH_FILE")
    return Inputs(
        path=path,
        config=config,
        ini_path=ini_path,
        ini_text=_without(read_text(ini_path), change.without),
        graph_path=graph_path,
        graph=_graph(graph_path, config, path),
        simulate_path=_named(config.SIMULATE, path, "SIMULATE"),
        faults_path=_named(config.FAULTS, path, "FAULTS"),
        overrides=tuple(override for override, _ in overrides.values()),
        data=find_data(config, path),
        modules=find_modules(config, path, ini_path, folders(path)),
    )


def _overrides(config: Config, path: Path, given: Sequence[str]) -> dict[str, tuple[Override, Any]]:
    """Keys of the INI by name, each with its value as a JSON has it."""
    found = {}
    for name, value in config.INI.items():
        one = from_json(name, value, f"{path}: INI {name}")
        found[one.name] = (one, value)
    found |= {one.name: (one, one.text) for one in from_flags(given)}
    if WRITTEN in found:
        raise ConfigError(f"{found[WRITTEN][0].where}: this file is written for every run")
    return found


def _changed_config(path: Path, change: Change) -> Config:
    """The JSON with a change made, checked as if it had been written so."""
    text = read_text(path)
    parse_config(text, path)
    value = {key: each for key, each in _object(text, path).items() if key != "sweep"}
    ini = {key: each for key, each in value.get("INI", {}).items() if key not in change.without}
    changed = value | dict(change.values) | {"INI": ini | dict(change.ini)}
    return parse_config(json.dumps(changed), path)


def _without(text: str, names: Iterable[str]) -> str:
    for name in names:
        section, _, key = name.partition(".")
        text = without_key(text, section, key)
    return text


def _named(name: str | None, path: Path, key: str) -> Path | None:
    return None if name is None else find(name, path, key)


def _graph(graph_path: Path | None, config: Config, path: Path) -> Graph:
    from decentralizepy.graphs.files import read_graph
    from decentralizepy.graphs.graph import Graph

    if graph_path is None:
        return Graph(config.NB_AGENTS, ())
    try:
        graph = read_graph(graph_path, config.graph_type)
    except ValueError as error:
        raise ConfigError(f"{path}: GRAPH_FILE: {error}") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: GRAPH_FILE: cannot read {graph_path}: {error.strerror}"
        ) from None
    if graph.n != config.NB_AGENTS:
        raise ConfigError(
            f"{path}: NB_AGENTS = {config.NB_AGENTS}, but GRAPH_FILE = {config.GRAPH_FILE!r} has "
            f"{graph.n} nodes; change one of them"
        )
    return graph


def read_config(path: Path) -> Config:
    """Read and check the JSON; raises one `ConfigError` that tells everything wrong with it."""
    return parse_config(read_text(path), path)


def parse_config(text: str, path: Path) -> Config:
    """Check the text of a JSON; ``path`` is for messages."""
    from pydantic import ValidationError

    value = _object(text, path)
    problems = [_unknown(key) for key in value if key not in keys()]
    known = {key: item for key, item in value.items() if key in keys()}
    try:
        config = Config.model_validate(known)
    except ValidationError as error:
        problems += [_problem(dict(item)) for item in error.errors()]
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    return config


def read_text(path: Path) -> str:
    """The text of a small file; raises `ConfigError`."""
    return read_text_file(path, most=MAX_BYTES)


def _object(text: str, path: Path) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no JSON object: it must start with {{ and end with }}")
    if "\0" in text or "\\u0000" in text:
        raise ConfigError(f"{path} holds a NUL character")
    return value


def _unknown(key: str) -> str:
    known = ", ".join(keys())
    return f"unknown key {key[:60]!r}{nearest(key[:60], keys())}; known keys: {known}"


def _problem(error: dict[str, Any]) -> str:
    """One of pydantic's errors in our words."""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        described = _description(key)
        return f"needs the key {key!r}" + (f": {described}" if described else "")
    if error["type"] == "extra_forbidden":
        return f"{key}: there is no such key"
    if error["type"] == "string_pattern_mismatch":
        message = "H:MM:SS is expected, as 1:30:00"
    if error["type"] == "string_too_long":
        most = error["ctx"]["max_length"]
        message = f"{len(error['input'])} characters are too many: take at most {most}"
    return f"{key} = {_shown(error['input'])}: {message}"


def _description(key: str) -> str:
    found = (f for name, f in Config.model_fields.items() if key in (name, f.alias))
    return next((field.description or "" for field in found), "")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def folders(config_path: Path) -> list[Path]:
    """Where files that a JSON names are looked for, in this order."""
    beside = config_path.parent
    found = [beside, beside / FOLDER, beside.parent / FOLDER, REPOSITORY / FOLDER, Path.cwd()]
    return list(dict.fromkeys(Path(os.path.abspath(folder)) for folder in found))  # noqa: PTH100


def find(name: str, config_path: Path, key: str) -> Path:
    """The file that a key of the JSON names, by name or path; raises `ConfigError`."""
    places = folders(config_path)
    for folder in places:
        if _is_file(folder / name):
            return folder / name
    known = {entry for folder in places for entry in _alike(folder, Path(name).suffix)}
    where = ", ".join(str(folder) for folder in places)
    raise ConfigError(
        f"{config_path}: {key} = {name[:200]!r}: no such file{nearest(Path(name).name, known)}; "
        f"looked in {where}"
    )


def _alike(folder: Path, suffix: str) -> Iterator[str]:
    try:
        yield from (entry.name for entry in folder.iterdir() if entry.suffix == suffix)
    except OSError:
        return


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, not allowed
        return False
