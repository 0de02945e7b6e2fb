"""What the annotation of an option allows, read from its text."""

from __future__ import annotations

import ast
import functools
from typing import Any, Final

#: other names of a list
_LISTS: Final = frozenset({"list", "List", "Sequence"})


@functools.cache
def kinds_of(annotation: str) -> frozenset[str]:
    """The alternatives of an annotation: ``Optional[int]`` is ``int | None``.

    A literal type becomes one alternative for each of its values, ``Literal['a']``.
    """
    try:
        return frozenset(_kinds(ast.parse(annotation, mode="eval").body))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return frozenset({annotation})


def _kinds(node: ast.expr) -> set[str]:
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _kinds(left) | _kinds(right)
        case ast.Constant(value=str() as quoted):
            return _kinds(ast.parse(quoted, mode="eval").body)
        case ast.Subscript(value=outer, slice=inner):
            return _subscripted(_last(outer), inner, node)
        case ast.Attribute() | ast.Name():
            return {_last(node)}
    return {ast.unparse(node)}


def _subscripted(name: str, inner: ast.expr, whole: ast.expr) -> set[str]:
    items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "Optional":
        return {"None", *_kinds(inner)}
    if name == "Union":
        return {kind for item in items for kind in _kinds(item)}
    if name in ("Annotated", "Final") and items:
        return _kinds(items[0])
    if name == "Literal":
        return {f"Literal[{ast.unparse(item)}]" for item in items}
    if name in _LISTS:
        return {f"list[{'|'.join(sorted(_kinds(inner)))}]"}
    return {ast.unparse(whole)}


def _last(node: ast.expr) -> str:
    """``Optional`` of ``typing.Optional``."""
    return node.attr if isinstance(node, ast.Attribute) else ast.unparse(node)


def literals_of(kinds: frozenset[str]) -> dict[str, Any]:
    """The values of literal types, by how an INI spells them."""
    texts = [kind[8:-1] for kind in kinds if kind.startswith("Literal[")]
    try:
        return {str(value): value for value in map(ast.literal_eval, sorted(texts))}
    except ValueError:  # a member of an enumeration
        return {}
