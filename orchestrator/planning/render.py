"""The files that every machine gets, rendered: ``config.ini`` and ``ip.json``.

The INI of ``run_configuration`` may hold ``{{ NB_AGENTS }}`` and every other key of the JSON. What
is rendered is the user's text, but for two keys of [COMMUNICATION]: the address file, which lies
beside it, and the first port.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError, nearest
from decentralizepy.ini import parse_ini
from decentralizepy.overrides import with_key
from orchestrator.planning.bounded import SIZE, bounded

TEMPLATES: Final = Path(__file__).resolve().parents[1] / "templates"
ADDRESSES: Final = "ip.json"
SECTION: Final = "COMMUNICATION"


def render(text: str, values: Mapping[str, Any], path: Path) -> str:
    """Render a template strictly; ``path`` is for messages. Raises `ConfigError`."""
    if not any(mark in text for mark in ("{{", "{%", "{#")):
        return text
    import jinja2.sandbox  # noqa: F401 - once, not in every fork

    found = bounded(lambda: _rendered(text, values, path), f"{path}: rendering it")
    try:
        size = len(found.encode())
    except UnicodeEncodeError:
        raise ConfigError(
            f"{path}: rendering it gives half of a surrogate pair, which is not text"
        ) from None
    if size > SIZE:
        raise ConfigError(f"{path}: rendering it gives more than {SIZE >> 20} MiB of text")
    return found


def _rendered(text: str, values: Mapping[str, Any], path: Path) -> str:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    try:
        return environment.from_string(text).render(values)
    except TemplateError as error:
        raise ConfigError(f"{path}: {_explain(error, values)}") from None
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be rendered: {error}") from None


def _explain(error: Exception, values: Mapping[str, Any]) -> str:
    line = getattr(error, "lineno", None)
    where = f"line {line}: " if line else ""
    undefined = re.fullmatch(r"'(\w+)' is undefined", str(error))
    if undefined is None:
        return f"{where}cannot be rendered: {error}"
    name = undefined.group(1)
    return (
        f"{where}unknown name {{{{ {name} }}}}{nearest(name, values)}; known: {', '.join(values)}"
    )


def render_addresses(addresses: Sequence[str]) -> str:
    """``ip.json``: machine id as text -> address, by the template of that name."""
    path = TEMPLATES / f"{ADDRESSES}.j2"
    return _rendered(path.read_text(encoding="utf-8"), {"addresses": list(addresses)}, path)


def render_script(name: str, values: Mapping[str, Any]) -> str:
    """A script by our template of that name."""
    path = TEMPLATES / f"{name}.j2"
    return _rendered(path.read_text(encoding="utf-8"), values, path)


def with_communication(text: str, path: Path, offset: int | None) -> str:
    """``text`` with the address file, and the offset unless that is None, in [COMMUNICATION].

    Everything else stays as it is, comments and blank lines included.
    """
    communication(text, path)
    wanted = {"addresses_filepath": ADDRESSES}
    if offset is not None:
        wanted["offset"] = str(offset)
    for key, value in wanted.items():
        text = with_key(text, SECTION, key, value)
    found = communication(text, path)
    if any(found.get(key) != value for key, value in wanted.items()):
        lines = "; ".join(f"{key} = {value}" for key, value in wanted.items())
        raise ConfigError(f"{path}: cannot set keys of [{SECTION}]; write there: {lines}")
    return text


def communication(text: str, path: Path) -> dict[str, str]:
    """The keys of [COMMUNICATION], as text; raises `ConfigError` for what is no INI."""
    sections = parse_ini(text, path)
    if SECTION not in sections:
        raise ConfigError(f"{path}: needs the section [{SECTION}]")
    return sections[SECTION]
