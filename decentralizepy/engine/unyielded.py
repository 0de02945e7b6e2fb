"""Finds effects that a program makes and drops, for want of a ``yield``: nothing would happen."""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from types import FunctionType
from typing import Any

from decentralizepy.node.effects import Wish
from decentralizepy.node.node import Node

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@lru_cache
def unyielded(kind: type[Node]) -> str:
    """Where a generator of this class has an effect for a statement; empty if none has.

    Looks at the text, once for each class, so that it takes nothing while the run goes on. Where
    there is no text, or it is not of Python's, nothing is found.
    """
    members: dict[str, Any] = {}
    for base in reversed(kind.__mro__[: kind.__mro__.index(Node)]):
        members |= vars(base)
    for member in members.values():
        if isinstance(member, FunctionType) and inspect.isgeneratorfunction(member):
            for line in _dropped(member):
                file = member.__code__.co_filename
                text = linecache.getline(file, line).strip()
                return f"{file}, line {line}: {text:.100}"
    return ""


def _dropped(function: FunctionType) -> Iterator[int]:
    """The lines of a function at which an effect is a statement."""
    try:
        lines, first = inspect.getsourcelines(function)
        (made,) = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return
    for node in _own(made):
        match node:
            case ast.Expr(ast.Call(called)) if _is_effect(called, function.__globals__):
                yield first + node.lineno - 1


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What is in a function, but for functions in it."""
    for inner in ast.iter_child_nodes(node):
        if not isinstance(inner, _Function):
            yield inner
            yield from _own(inner)


def _is_effect(called: ast.expr, names: dict[str, Any]) -> bool:
    """Whether a name, or one in a module, stands for a kind of effect."""
    found: Any = None
    if isinstance(called, ast.Name):
        found = names.get(called.id)
    elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        found = inspect.getattr_static(names.get(called.value.id), called.attr, None)
    return isinstance(found, type) and issubclass(found, Wish)
