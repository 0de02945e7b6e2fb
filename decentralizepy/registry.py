"""Dotted names from an INI file -> classes and their options, without importing either.

``sharing_package = decentralizepy.sharing.Sharing`` and ``sharing_class = Sharing`` name a class
as the reference system does; its names keep working through `LEGACY`. A name that is not ours is
looked for beside the INI file, in the working directory and on Python's path, so a user's own
``my_method.py`` needs no change here.

The options of a class are the keyword parameters of its ``__init__``, read from the source text:
a configuration can be checked where torch is not installed, and before anything is reserved.
"""

from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError, nearest

#: module of the reference system -> module here
LEGACY: Final[dict[str, str]] = {
    "decentralizepy.communication.TCP": "decentralizepy.communication.tcp",
    "decentralizepy.datasets.CIFAR10": "decentralizepy.datasets.cifar10",
    "decentralizepy.datasets.Digits": "decentralizepy.datasets.digits",
    "decentralizepy.sharing.Sharing": "decentralizepy.sharing.sharing",
    "decentralizepy.sharing.PlainAverageSharing": "decentralizepy.sharing.plain_average",
    "decentralizepy.training.Training": "decentralizepy.training.training",
}

#: parameters that the runtime passes itself, by section
PASSED: Final[frozenset[str]] = frozenset({"self", "params", "named_parameters"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Target:
    """A class (or a loss function) by module and name, and where to look for the module."""

    module: str
    name: str
    search: tuple[str, ...] = ()

    @property
    def dotted(self) -> str:
        return f"{self.module}.{self.name}"

    def load(self) -> Any:
        """Import the module and return the class."""
        for folder in self.search:
            if folder not in sys.path:
                sys.path.append(folder)
        try:
            module = importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            raise ConfigError(f"cannot import {self.module}: {error}") from None
        if not hasattr(module, self.name):
            raise ConfigError(f"{self.module} has no {self.name}{nearest(self.name, dir(module))}")
        return getattr(module, self.name)


@dataclass(frozen=True)
class Option:
    """One keyword parameter: its annotation as text, and its default (None if it has none)."""

    name: str
    annotation: str
    default: str | None

    @property
    def required(self) -> bool:
        return self.default is None

    def describe(self) -> str:
        return f"{self.name} (required)" if self.required else f"{self.name}={self.default}"


@dataclass(frozen=True)
class Driver:
    """What a driver of the reference system wires: the schedule of graphs and the node program."""

    schedule: str  # "static" or "dynamic"
    node: Target
    per_averaging_round: bool = False


_DPSGD = Target("decentralizepy.node.dpsgd", "DPSGD")
DRIVERS: Final[dict[str, Driver]] = {
    "testing.py": Driver("static", _DPSGD),
    "testingManual.py": Driver("static", _DPSGD),
    "testingPeerSampler.py": Driver("static", _DPSGD),
    "testingPeerSamplerDynamic.py": Driver("dynamic", _DPSGD),
    "testingPeerSamplerDynamicManual.py": Driver("dynamic", _DPSGD),
    "testingPeerSamplerMultipleAvgRounds.py": Driver("static", _DPSGD),
    "testingPeerSamplerDynamicMultipleAvgRounds.py": Driver("dynamic", _DPSGD),
}


def driver(name: str) -> Driver:
    """The driver by the file name that the reference system gave it."""
    base = Path(name).name
    base = base if base.endswith(".py") else f"{base}.py"
    if base not in DRIVERS:
        known = ", ".join(DRIVERS)
        raise ConfigError(f"unknown driver {name!r}{nearest(base, DRIVERS)}; known: {known}")
    return DRIVERS[base]


def target(package: str, name: str, search: Sequence[Path | str] = ()) -> Target:
    """The class that a pair of INI values names; raises `ConfigError` when its module is nowhere.

    A module that exists on this machine must hold the name; one that can't be found is only
    accepted when its top-level package is not installed here at all but well known (torch).
    """
    module = LEGACY.get(package, package)
    found = Target(module, name, tuple(str(Path(folder).resolve()) for folder in search))
    if source_path(module, found.search) is None:
        if module.split(".")[0] == "torch" and source_path("torch", ()) is None:
            return found
        raise ConfigError(_not_found(package, found.search))
    if module.split(".")[0] != "torch" and definition(found) is None:
        names = _names(module, found.search)
        raise ConfigError(f"{package} has no class {name}{nearest(name, names)}")
    return found


def _not_found(package: str, search: Sequence[str]) -> str:
    where = "".join(f", {folder}" for folder in search)
    return (
        f"no module {package}{nearest(package, LEGACY)}: "
        f"looked on Python's path{where}; put {package.split('.')[0]}.py beside the INI file"
    )


def _names(module: str, search: tuple[str, ...]) -> list[str]:
    path = source_path(module, search)
    tree = _tree(path) if path else ast.Module([], [])
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def source_path(module: str, search: tuple[str, ...] = ()) -> Path | None:
    """The source file of a module, found without importing it or its parents."""
    relative = Path(*module.split("."))
    for folder in (*sys.path, *search):
        base = Path(folder or ".") / relative
        for path in (base.with_name(base.name + ".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


@functools.lru_cache(maxsize=128)
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} is not valid Python: {error}") from None


def definition(found: Target) -> tuple[ast.ClassDef | _Function, Target] | None:
    """The class or function of that name, followed through ``from x import y``."""
    for _ in range(8):
        path = source_path(found.module, found.search)
        if path is None:
            return None
        imported = None
        for node in _tree(path).body:
            if isinstance(node, ast.ClassDef | _Function) and node.name == found.name:
                return node, found
            imported = _import_of(node, found, path) or imported
        if imported is None:
            return None
        found = imported
    return None


def _import_of(node: ast.stmt, found: Target, path: Path) -> Target | None:
    if not isinstance(node, ast.ImportFrom):
        return None
    for alias in node.names:
        if (alias.asname or alias.name) == found.name:
            return Target(_absolute(node, found.module, path), alias.name, found.search)
    return None


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    keep = len(parts) - node.level + (path.name == "__init__.py")
    return ".".join([*parts[:keep], *([node.module] if node.module else [])])


def options(found: Target) -> dict[str, Option] | None:
    """The options of a class by name; None when its source is not here to be read."""
    known = definition(found)
    if known is None:
        return None
    node, where = known
    if isinstance(node, ast.ClassDef):
        return _class_options(node, where)
    return _parameters(node)


def _class_options(node: ast.ClassDef, where: Target) -> dict[str, Option]:
    init = next((n for n in node.body if isinstance(n, _Function) and n.name == "__init__"), None)
    own = _parameters(init) if init else {}
    if init is None or init.args.kwarg is not None:
        for base in node.bases:
            if isinstance(base, ast.Name):
                inherited = options(Target(where.module, base.id, where.search)) or {}
                own = inherited | own
    return own


def _parameters(function: _Function) -> dict[str, Option]:
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults))
    pairs = list(zip(positional, [*defaults, *args.defaults], strict=True))
    pairs += zip(args.kwonlyargs, args.kw_defaults, strict=True)
    return {
        arg.arg: Option(
            arg.arg,
            ast.unparse(arg.annotation) if arg.annotation else "",
            ast.unparse(default) if default else None,
        )
        for arg, default in pairs
        if arg.arg not in PASSED
    }


def check_options(
    found: Target, values: Mapping[str, str], where: str, passed: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Type the INI's text values as the class's ``__init__`` asks.

    ``where`` names file and section for errors; ``passed`` are parameters that the runtime gives.
    An empty value counts as absent. Unknown and missing options raise `ConfigError`.
    """
    known = options(found)
    if known is None:
        return {key: literal(value) for key, value in values.items() if value != ""}
    known = {name: option for name, option in known.items() if name not in passed}
    for key in values:
        if key not in known:
            listed = ", ".join(option.describe() for option in known.values()) or "none"
            raise ConfigError(
                f"{where}: {found.name} has no option '{key}'{nearest(key, known)}; "
                f"its options: {listed}"
            )
    typed = {
        key: coerce(value, known[key], f"{where} {key}")
        for key, value in values.items()
        if value != "" or known[key].annotation == "str"
    }
    for option in known.values():
        if option.required and option.name not in typed and option.annotation:
            raise ConfigError(f"{where}: {found.name} needs the option '{option.name}'")
    return typed


_BOOLEANS: Final = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip


def coerce(text: str, option: Option, where: str) -> Any:
    """One INI value as the annotation asks: numbers, booleans, lists, or text. Never ``eval``."""
    kinds = {kind.strip() for kind in option.annotation.replace("'", "").split("|")}
    if kinds <= {"str"}:
        return text
    if "None" in kinds and text.lower() == "none":
        return None
    if kinds & {"int", "float"}:
        number = literal(text)
        if isinstance(number, float) and "float" not in kinds and "bool" not in kinds:
            raise ConfigError(f"{where} = {text}: a whole number is expected")
        if isinstance(number, int | float) and not isinstance(number, bool):
            return float(number) if "int" not in kinds else number
    if "bool" in kinds and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if "str" in kinds:
        return text
    lists = next((kind for kind in kinds if kind.startswith("list[")), None)
    if lists is not None:
        return _list(text, lists[5:-1], where)
    if kinds & {"int", "float", "bool"}:
        expected = " or ".join(sorted(kinds - {"None"}))
        raise ConfigError(f"{where} = {text}: {expected} is expected")
    return literal(text)


def _list(text: str, kind: str, where: str) -> list[Any]:
    value = literal(text)
    items = list(value) if isinstance(value, list | tuple) else [value]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int if kind == "int" else (int, float)):
            raise ConfigError(f"{where} = {text}: a list of {kind} is expected, as [0.5, 0.5]")
    return [float(item) for item in items] if kind == "float" else items


def literal(text: str) -> Any:
    """A number, boolean, None, list or plain text, whichever the text spells."""
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if len(text) > 100_000:
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, int | float | list | tuple | None) else text
