"""What a checkpoint can keep: tensors, JSON values, and dictionaries of these with text as keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

_SEPARATOR: Final = "/"

State = dict[str, Any]
#: where a value stands: keys of dictionaries and places in lists, outermost first
Steps = tuple[str | int, ...]


class UnfitError(ValueError):
    """A value that no checkpoint can keep: where it is, and why with what to keep instead."""

    def __init__(self, path: Sequence[str | int], why: str) -> None:
        super().__init__(why)
        self.path = tuple(path)


def flatten(state: State, path: Steps = ()) -> tuple[dict[str, Tensor], State]:
    """Tensors by path, and the rest as the same nesting of JSON values.

    A tensor's place in the rest holds null, so that dictionaries keep their order. Raises
    `UnfitError` for what would not come back.
    """
    tensors: dict[str, Tensor] = {}
    rest: State = {}
    for name, value in state.items():
        _check_key(name, path)
        here = (*path, name)
        if isinstance(value, Tensor):
            _check_layout(value, here)
            tensors[name], rest[name] = value, None
        elif isinstance(value, dict):
            inner, rest[name] = flatten(value, here)
            tensors |= {f"{name}{_SEPARATOR}{inside}": one for inside, one in inner.items()}
        else:
            _check_json(value, here)
            rest[name] = value
    return tensors, rest


def unflatten(tensors: dict[str, Tensor], rest: State) -> State:
    """What `flatten` was given."""
    state: State = json.loads(json.dumps(rest))
    for path, tensor in tensors.items():
        *folders, name = steps(path)
        into = state
        for folder in folders:
            into = into.setdefault(folder, {})
        into[name] = tensor
    return state


def steps(path: str) -> list[str]:
    """The keys on the way to a tensor."""
    return path.split(_SEPARATOR)


def _check_key(key: Any, path: Steps) -> None:
    if not isinstance(key, str):
        raise UnfitError(path, f"has the key {key!r:.40}, {_named(key)}; take text, as str(key)")
    if _SEPARATOR in key:
        raise UnfitError(path, f"has the key {key!r:.40}; keys hold no {_SEPARATOR}")


def _check_layout(value: Tensor, path: Steps) -> None:
    if value.layout != torch.strided:
        raise UnfitError(path, f"is {value.layout}; keep its indices and values")


def _check_json(value: Any, path: Steps) -> None:
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_json(item, (*path, i))
    elif isinstance(value, dict):  # in a list
        for key, item in value.items():
            _check_key(key, path)
            _check_json(item, (*path, key))
    elif not isinstance(value, str | int | float | None):
        raise UnfitError(path, f"is {_named(value)}; {_remedy(value)}")


def _named(value: Any) -> str:
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"of type {module}{kind.__qualname__}"


def _remedy(value: Any) -> str:
    """What to keep in its place."""
    if isinstance(value, Tensor):
        return "lists hold no tensors: keep a dictionary of them, with text as keys"
    if isinstance(value, set | frozenset):
        return "keep a sorted list"
    if isinstance(value, bytes | bytearray):
        return "keep a uint8 tensor"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return "keep torch.as_tensor of it, or its .item() or .tolist()"
    return (
        "keep tensors, JSON values and dictionaries of these, or override state() and load() to "
        "make it from such"
    )
