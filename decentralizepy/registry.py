"""Dotted names from an INI file -> classes and their options, without importing either.

``sharing_package = decentralizepy.sharing.Sharing`` and ``sharing_class = Sharing`` name a class
as the reference system does; its names keep working, as each class says its own there
(``reference_name``). A name that is not ours is
looked for beside the INI file, in the working directory and on Python's path, so a user's own
``my_method.py`` needs no change here.

The options of a class are the keyword parameters of its ``__init__``, and facts about it are
literals in its body (``servers = 1``). Both are read from the source text: a configuration can be
checked where torch is not installed, and before anything is reserved.
"""

from __future__ import annotations

import ast
import functools
import importlib
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Final, TypeVar

from decentralizepy import reference
from decentralizepy.annotations import kinds_of, literals_of
from decentralizepy.errors import ConfigError, nearest

#: packages with classes of the reference system, which say their module's name there
_REFERENCED: Final = ("communication", "compression", "datasets", "sharing", "training")
#: parameters that the engine passes itself, by section
PASSED: Final[frozenset[str]] = frozenset({"self", "params", "named_parameters"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Known = tuple[ast.ClassDef | _Function, "Target"]
#: a class by its line, too: a file may have several of one name
_Place = tuple["Target", int]
T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """A class (or a loss function) by module and name, and where to look for the module.

    ``made`` is the class itself where the caller makes its objects: it may be in no file.
    """

    module: str
    name: str
    search: tuple[str, ...] = ()
    made: type | None = None

    @classmethod
    def of(cls, made: type) -> Target:
        """A class whose objects the caller makes."""
        return cls(made.__module__, made.__qualname__, made=made)

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
        except ImportError as error:
            raise ConfigError(f"cannot import {self.module}: {error}") from None
        except Exception as error:  # a module of the user's may raise anything as it is loaded
            what = f"{type(error).__name__}: {error}"
            raise ConfigError(f"cannot import {self.module}: {what}") from error
        if not hasattr(module, self.name):
            raise ConfigError(
                f"{self.module} has no {self.name}{nearest(self.name, dir(module))}"
                + _hiding(self.module, self.search, getattr(module, "__file__", None))
            )
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


@functools.cache
def legacy() -> dict[str, str]:
    """Module of the reference system -> module here, as the classes here say."""
    return {
        name: found.module
        for package in _REFERENCED
        for name, found in _saying("reference_name", package)
    }


@functools.cache
def named(package: str) -> dict[str, Target]:
    """The classes of one of our packages by the short ``name`` that each says in its body."""
    return {name: found for name, found in _saying("name", package) if name}


def _saying(fact: str, package: str) -> Iterator[tuple[str, Target]]:
    """What the classes of one of our packages say of themselves under a name, and the classes."""
    root = Path(__file__).parent
    for path in sorted((root / package).glob("*.py")):
        if fact not in path.read_text(encoding="utf-8"):
            continue
        module = f"{root.name}.{package}.{path.stem}"
        for node in _statements(path):
            if isinstance(node, ast.ClassDef):
                for value in _assigned(node, fact):
                    yield ast.literal_eval(value), Target(module, node.name)


def target(package: str, name: str, search: Sequence[Path | str] = ()) -> Target:
    """The class that a pair of INI values names; raises `ConfigError` when its module is nowhere.

    A module that exists on this machine must hold the name; one that can't be found is only
    accepted when its top-level package is not installed here at all but well known (torch).
    """
    module = legacy().get(package, package)
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(
            f"{package!r:.80} is not the name of a module, as my_method or "
            "decentralizepy.sharing.Sharing are"
        )
    found = Target(module, name, tuple(str(Path(folder).resolve()) for folder in search))
    if source_path(module, found.search) is None:
        if module.split(".")[0] == "torch" and source_path("torch", ()) is None:
            return found
        raise ConfigError(_not_found(package, name, found.search))
    names = _names(module, found.search)
    if name not in names:
        hiding = _hiding(module, found.search, source_path(module, found.search))
        raise ConfigError(f"{package} has no class {name}{nearest(name, names)}{hiding}")
    if module.split(".")[0] != "torch" and definition(found) is None:
        raise ConfigError(
            f"{package}.{name} is no class or function: define it in the file by that name, or "
            "import it there"
        )
    return found


def _hiding(module: str, search: Sequence[str], path: Path | str | None) -> str:
    """That the module that was found hides one of that name beside the INI, if it does."""
    beside = _source_in(search, module)
    if beside is None or (path is not None and Path(path).resolve() == beside.resolve()):
        return ""
    taken = f"{path}" if path is not None else "a module built into Python"
    return f"; it is {taken}, which hides {beside}: rename that file, and the module in the INI"


def _not_found(package: str, name: str, search: Sequence[str]) -> str:
    if why := reference.not_built(package, name):
        return why
    if package.split(".")[0] == "decentralizepy":
        return f"no module {package}{nearest(package, [*legacy(), *reference.MODULES])}"
    where = "".join(f", {folder}" for folder in search)
    return (
        f"no module {package}{nearest(package, legacy())}: "
        f"looked on Python's path{where}; put {package.split('.')[0]}.py beside the INI file"
    )


def _names(
    module: str, search: tuple[str, ...], seen: frozenset[str] = frozenset()
) -> dict[str, None]:
    """All names that a module binds by itself, in order: definitions, imports, assignments."""
    path = source_path(module, search)
    names: dict[str, None] = {}
    if path is None or module in seen:
        return names
    for node in _statements(path):
        if isinstance(node, ast.ClassDef | _Function):
            names[node.name] = None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name == "*":
                    names |= _names(_absolute(node, module, path), search, seen | {module})
                else:
                    names[alias.asname or alias.name] = None
        elif isinstance(node, ast.Assign):
            names |= {leaf.id: None for leaf in node.targets if isinstance(leaf, ast.Name)}
    return names


def source_path(module: str, search: tuple[str, ...] = ()) -> Path | None:
    """The source file of a module, found without importing it or its parents."""
    return _source_in((*sys.path, *search), module)


def _source_in(folders: Iterable[str], module: str) -> Path | None:
    relative = module.replace(".", "/")
    for folder in folders:
        base = f"{folder or '.'}/{relative}"
        for path in (f"{base}.py", f"{base}/__init__.py"):
            if os.path.isfile(path):  # noqa: PTH113 - a run asks some 200 times
                return Path(path)
    return None


def own_imports(module: str, search: tuple[str, ...]) -> dict[str, Path]:
    """Source files, by module, of what one of the user's modules imports, directly or not, from
    the folders ``search``; with the packages around them."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in found else _own_source(name, search)
        if path is not None:
            found[name] = path
            waiting += [name.rpartition(".")[0], *_imports(name, path)]
    return found


def _own_source(module: str, search: tuple[str, ...]) -> Path | None:
    """The source file that Python finds of a module which lies in one of these folders, and is
    not ours. It may be another copy: machines on this computer look beside the user's INI first."""
    top = module.partition(".")[0]
    if top in ("", __package__) or top in sys.stdlib_module_names:  # Python's own hide others
        return None
    return source_path(module, search) if _source_in(search, module) else None


def _imports(module: str, path: Path) -> Iterator[str]:
    """What a module may import, anywhere in it; some of it may be no modules."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, path)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@functools.lru_cache(maxsize=128)
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path} is not valid Python: {error}") from None


@functools.lru_cache(maxsize=128)
def _statements(path: Path) -> tuple[ast.stmt, ...]:
    """What a module does at its top level, also in some case only (``if TYPE_CHECKING``)."""
    found, waiting = [], list(reversed(_tree(path).body))
    while waiting:
        node = waiting.pop()
        found.append(node)
        if isinstance(node, ast.If | ast.Try | ast.With):
            inside = [*node.body, *getattr(node, "orelse", ()), *getattr(node, "finalbody", ())]
            inside += [line for each in getattr(node, "handlers", ()) for line in each.body]
            waiting += reversed(inside)
    return tuple(found)


def forget_sources() -> None:
    """Read source files anew that were read before: in a notebook they change."""
    _tree.cache_clear()
    _statements.cache_clear()


def definition(found: Target) -> tuple[ast.ClassDef | _Function, Target] | None:
    """The class or function of that name, followed through ``from x import y``.

    Of several the last counts, as for Python: a file may be a notebook's, or have overloads.
    """
    return _definition(found, frozenset())


def _definition(found: Target, seen: frozenset[Target]) -> _Known | None:
    if found in seen:
        return None
    return _defined(found) or _imported(found, seen | {found})


def _defined(found: Target, before: float = inf) -> _Known | None:
    """The last definition of a name in its file, or the last one above a line."""
    path = source_path(found.module, found.search)
    for node in reversed(_statements(path) if path else []):
        if (
            isinstance(node, ast.ClassDef | _Function)
            and node.name == found.name
            and node.lineno < before
        ):
            return node, found
    return None


def _imported(
    found: Target, seen: frozenset[Target]
) -> tuple[ast.ClassDef | _Function, Target] | None:
    """Where a module has a name from; the last import of it counts, ``import *`` comes last."""
    path = source_path(found.module, found.search)
    nodes = [node for node in _statements(path) if isinstance(node, ast.ImportFrom)] if path else []
    for wanted in (found.name, "*"):
        for node in reversed(nodes):
            for alias in node.names:
                if (alias.asname or alias.name) == wanted and path is not None:
                    name = found.name if wanted == "*" else alias.name
                    source = Target(_absolute(node, found.module, path), name, found.search)
                    if known := _definition(source, seen):
                        return known
    return None


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    keep = len(parts) - node.level + (path.name == "__init__.py")
    return ".".join([*parts[:keep], *([node.module] if node.module else [])])


def options(found: Target) -> dict[str, Option] | None:
    """The options of a class by name; None when its source is not here to be read.

    None too where the caller makes its objects, for then nobody gives it any.
    """
    if found.made is not None:
        return None
    known = definition(found)
    return None if known is None else _options(*known, frozenset())


def _options(
    node: ast.ClassDef | _Function, where: Target, seen: frozenset[_Place]
) -> dict[str, Option]:
    if not isinstance(node, ast.ClassDef):
        return _parameters(node)
    inits = [n for n in node.body if isinstance(n, _Function) and n.name == "__init__"]
    init = inits[-1] if inits else None
    own = _parameters(init) if init else {}
    if init is None or init.args.kwarg is not None:
        for base in node.bases:
            known = _base(base, node, where)
            if known is not None and _place(known) not in seen:
                own = _options(*known, seen | {_place((node, where)), _place(known)}) | own
    return own


def _base(
    base: ast.expr, node: ast.ClassDef, where: Target
) -> tuple[ast.ClassDef | _Function, Target] | None:
    """The definition of a base class, written as ``Sharing`` or as ``sharing.Sharing``.

    In a file the last one above the class counts, which may have the class's own name.
    """
    base = base.value if isinstance(base, ast.Subscript) else base  # Base[int]
    *owner, name = ast.unparse(base).split(".")
    found = Target(where.module, name, where.search)
    if not owner:
        return (
            _defined(found, node.lineno)
            or _imported(found, frozenset())
            or (definition(found) if name != node.name else None)
        )
    module = _module(owner[0], where)
    return definition(Target(".".join([module, *owner[1:]]), name, where.search))


def _place(known: _Known) -> _Place:
    return known[1], known[0].lineno


def _module(name: str, where: Target) -> str:
    """The module that a name stands for in another module: ``import x as name`` and the like."""
    path = source_path(where.module, where.search)
    for node in reversed(_statements(path) if path else []):
        if isinstance(node, ast.Import | ast.ImportFrom) and path is not None:
            parts = (
                [_absolute(node, where.module, path)] if isinstance(node, ast.ImportFrom) else []
            )
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return ".".join([*parts, alias.name])
    return name


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


def fact(found: Target, name: str, default: T, about: str = "") -> T:
    """What a class says of itself in its body: ``servers = 1``, or its bases say in theirs.

    With ``about``, the name of a method, a class that overrides the method must say it anew: what
    the class above says is about the method there. Raises `ConfigError` for what is no literal,
    or of another type than ``default`` (None: any).
    """
    if found.made is not None:
        return _fact_of(found.made, name, default, about)
    known = definition(found)
    for node, where in _lineage(known) if known is not None else ():
        path = source_path(where.module, where.search)
        for value in _assigned(node, name):
            return _literal_fact(value, default, f"{path}: {node.name}.{name}")
        if any(isinstance(n, _Function) and n.name == about for n in node.body):
            break
    return default


def _fact_of(made: type, name: str, default: T, about: str) -> T:
    """The same of a class that is there as an object."""
    for one in made.__mro__:
        if name in vars(one):
            return _of_kind(vars(one)[name], default, f"{one.__name__}.{name}")
        if about in vars(one):
            break
    return default


def _lineage(known: _Known) -> list[tuple[ast.ClassDef, Target]]:
    """A class and those above it, each before its own bases; torch's are left out."""
    found: list[tuple[ast.ClassDef, Target]] = []

    def add(known: _Known, below: frozenset[_Place]) -> None:
        node, where = known
        if not isinstance(node, ast.ClassDef) or _place(known) in below:
            return
        found.append((node, where))
        for base in node.bases:
            if not _is_torchs(base, where) and (above := _base(base, node, where)):
                add(above, below | {_place(known)})

    add(known, frozenset())
    last = {_place(entry): at for at, entry in enumerate(found)}
    return [entry for at, entry in enumerate(found) if last[_place(entry)] == at]


def _is_torchs(base: ast.expr, where: Target) -> bool:
    """Whether a base class is had from torch, whose files are long and say nothing to us."""
    return _module(ast.unparse(base).split(".")[0], where).split(".")[0] == "torch"


def _assigned(node: ast.ClassDef, name: str) -> Iterator[ast.expr]:
    """What a class body assigns to a name, the last one first."""
    for line in reversed(node.body):
        if isinstance(line, ast.AnnAssign) and line.value is not None:
            yield from _matching(line.target, line.value, name)
        elif isinstance(line, ast.Assign):
            for target in line.targets:
                yield from _matching(target, line.value, name)


def _matching(target: ast.expr, value: ast.expr, name: str) -> Iterator[ast.expr]:
    if isinstance(target, ast.Name) and target.id == name:
        yield value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):  # name, classes = "x", 2
        for one, its in zip(target.elts, value.elts, strict=False):
            yield from _matching(one, its, name)


def _literal_fact(value: ast.expr, default: T, where: str) -> T:
    try:
        found: Any = ast.literal_eval(value)
    except ValueError:
        text = ast.unparse(value)
        raise ConfigError(
            f"{where} = {text:.60}: it is read without running the file, so write the value itself"
        ) from None
    return _of_kind(found, default, where)


def _of_kind(found: Any, default: T, where: str) -> T:
    """A fact of the type of ``default``; raises `ConfigError`."""
    kind = type(default)
    if kind is float and type(found) is int:
        found = float(found)
    if default is not None and type(found) is not kind:
        raise ConfigError(f"{where} = {found!r:.60}: {kind.__name__} is expected")
    return found


def check_options(
    found: Target,
    values: Mapping[str, str],
    where: str,
    passed: frozenset[str] = frozenset(),
    beside: Collection[str] = (),
) -> dict[str, Any]:
    """Type the INI's text values as the class's ``__init__`` asks.

    ``where`` names file and section for errors; ``passed`` are parameters that the engine gives,
    ``beside`` keys of the section that somebody else reads. An empty value counts as absent.
    Unknown and missing options raise `ConfigError`.
    """
    known = options(found)
    if known is None:
        return {key: literal(value) for key, value in values.items() if value != ""}
    known = {name: option for name, option in known.items() if name not in passed}
    folded = {name.lower(): name for name in known}  # an INI's keys are in small letters
    values = {key if key in known else folded.get(key, key): text for key, text in values.items()}
    for key in values:
        if key not in known:
            listed = ", ".join(option.describe() for option in known.values()) or "none"
            raise ConfigError(
                f"{where}: {found.name} has no option '{key}'{nearest(key, [*known, *beside])}; "
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
    kinds = kinds_of(option.annotation)
    if kinds <= {"str"}:
        return text
    if kinds & {"None", "Literal[None]"} and text.lower() == "none":
        return None
    named = literals_of(kinds)
    for value in _spelled(text, named):
        return value
    if kinds & {"int", "float"}:
        number = literal(text)
        if isinstance(number, float) and "float" not in kinds and "bool" not in kinds:
            raise ConfigError(f"{where} = {text}: a whole number is expected")
        if isinstance(number, int | float) and not isinstance(number, bool):
            return _float(number, f"{where} = {text:.40}") if "int" not in kinds else number
    if "bool" in kinds and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if kinds & {"str", "PerNode"}:  # the latter's files are found where the INI's path is known
        return text
    lists = next((kind for kind in kinds if kind.startswith("list[")), None)
    if lists is not None:
        return _list(text, lists[5:-1], where)
    if named or kinds & {"int", "float", "bool"}:
        expected = " or ".join([*sorted(kinds & {"int", "float", "bool"}), *named])
        raise ConfigError(f"{where} = {text}: {expected} is expected")
    return literal(text)


def _spelled(text: str, named: Mapping[str, Any]) -> Iterator[Any]:
    """The value of a literal type that a text spells: ``true`` is True, and ``.5`` is 0.5."""
    if text in named:
        yield named[text]
    elif named:
        found = literal(text)
        for value in named.values():
            if value == found and isinstance(value, bool) == isinstance(found, bool):
                yield value


def _float(number: float, what: str) -> float:
    try:
        return float(number)
    except OverflowError:
        raise ConfigError(f"{what}...: too large a number") from None


_ITEMS: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)
}  # fmt: skip
_EXAMPLES: Final = {"int": "[2, 3]", "float": "[0.5, 0.5]", "str": "['a', 'b']"}


def _list(text: str, kind: str, where: str) -> list[Any]:
    if "Literal[" in kind:
        one = Option("", kind, None)
        return [coerce(str(item), one, where) for item in _items(text, "str")]
    items = _items(text, kind)
    for item in items:
        right = isinstance(item, _ITEMS.get(kind, (object,)))
        if not right or (isinstance(item, bool) and kind in {"int", "float"}):
            example = "" if kind not in _EXAMPLES else f", as {_EXAMPLES[kind]}"
            raise ConfigError(f"{where} = {text}: a list of {kind} is expected{example}")
    what = f"{where} = {text:.40}"
    return [_float(item, what) for item in items] if kind == "float" else items


def _items(text: str, kind: str) -> list[Any]:
    """What a list holds, with brackets or without; words need no quotes, and may be numbers."""
    value = literal(text)
    quoted = isinstance(value, list | tuple) and ("'" in text or '"' in text)
    if kind == "str" and not quoted:
        inner = text[1:-1] if text[:1] + text[-1:] in ("[]", "()") else text
        return [_unquoted(word.strip()) for word in inner.split(",") if word.strip()]
    return list(value) if isinstance(value, list | tuple) else [value]


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" else word


def literal(text: str) -> Any:
    """A number, boolean, None, list or plain text, whichever the text spells."""
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if len(text) > 100_000:
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, int | float | list | tuple | None) else text
