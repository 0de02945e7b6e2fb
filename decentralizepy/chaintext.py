"""Reads ``compression = top_k(alpha=0.1) + elias_gamma + fp16``, without importing a class.

A part is a name of ours (the ``name`` of a class in `decentralizepy.compression`) or a class in a
file of one's own (``my_coder.Mine``), with its options in brackets as ``key=value``. It is never
evaluated: only names, calls with such options, and ``+`` are read.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError, nearest
from decentralizepy.registry import Target, check_options, named, target

#: characters of the longest chain; a longer text is another thing
_LONGEST: Final = 10_000
_EXAMPLE: Final = "write it as top_k(alpha=0.1) + elias_gamma + fp16"


def read_chain(
    text: str, where: str, search: Sequence[Path | str] = ()
) -> list[tuple[Target, dict[str, Any]]]:
    """The classes of a chain with their typed options; raises `ConfigError`.

    ``where`` names file, section and key for errors; ``search`` are folders of users' modules.
    """
    return [_part(node, where, search) for node in _terms(text, where)]


def _terms(text: str, where: str) -> list[ast.expr]:
    try:
        if len(text) > _LONGEST:
            raise SyntaxError
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(f"{where} = {text:.80}: no chain of parts; {_EXAMPLE}") from None
    terms = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        terms.append(node.right)
        node = node.left
    return [node, *reversed(terms)]


def _part(
    node: ast.expr, where: str, search: Sequence[Path | str]
) -> tuple[Target, dict[str, Any]]:
    function = node.func if isinstance(node, ast.Call) else node
    values: dict[str, str] = {}
    if isinstance(node, ast.Call):
        if node.args or any(keyword.arg is None for keyword in node.keywords):
            raise ConfigError(f"{where}: {ast.unparse(node):.80}: name its options, as alpha=0.1")
        values = {str(keyword.arg): _text(keyword.value) for keyword in node.keywords}
    found = _named(ast.unparse(function), function, where, search)
    return found, check_options(found, values, f"{where}: {ast.unparse(function)}")


def _text(value: ast.expr) -> str:
    """An option's value as it would stand in an INI."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    return ast.unparse(value)


def _named(name: str, node: ast.expr, where: str, search: Sequence[Path | str]) -> Target:
    if isinstance(node, ast.Name):
        ours = named("compression")
        if name not in ours:
            raise ConfigError(
                f"{where}: no part is named {name!r:.80}{nearest(name, ours)}; there are "
                f"{', '.join(sorted(ours))}, and classes in files of your own as my_file.MyClass"
            )
        return ours[name]
    if not isinstance(node, ast.Attribute):
        raise ConfigError(f"{where}: {name:.80} is no part of a chain; {_EXAMPLE}")
    module, _, short = name.rpartition(".")
    try:
        return target(module, short, search)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
