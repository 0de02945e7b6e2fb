"""What ``meta`` of a message may hold: only what comes out of JSON as it went in.

A receiver on the sender's own worker gets a copy, any other one that went through JSON. So that
both read the same, whatever JSON would change is refused before it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from decentralizepy.messages.header import MessageError

#: levels of lists and objects; also what ends a list that holds itself
MAX_DEPTH: Final = 64
#: Python parses no more than 4300 digits
MAX_INT_BITS: Final = 8192
#: exact types: numpy's float64 is a float, but comes back as another
_PLAIN: Final = frozenset({str, float, bool, type(None)})
_ATOMS: Final = _PLAIN | {int}
_HINTS: Final[dict[Any, str]] = {
    tuple: "it comes back as a list: send a list",
    set: "JSON has no sets: send a sorted list",
    frozenset: "JSON has no sets: send a sorted list",
    bytes: "JSON has no bytes: send a uint8 tensor",
    bytearray: "JSON has no bytes: send a uint8 tensor",
}


def check_meta(meta: Mapping[str, Any]) -> None:
    """Raise `MessageError` unless JSON gives ``meta`` back as it is; it names key and value.

    Allowed are str, bool, None, int, float (NaN and infinities too), and lists and dicts of these
    with str keys; exactly these types, as of an `enum.IntEnum` or a `numpy.float64` only the plain
    value would arrive.
    """
    for key, value in meta.items():
        if type(key) is not str:
            raise _bad_key("meta", key)
        if type(value) not in _PLAIN:
            _check(value, f"meta[{key!r:.40}]", 1)


def own_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``meta``, its lists and dictionaries too: nobody else changes it."""
    mine = dict(meta)
    try:
        for key, value in mine.items():
            if type(value) not in _ATOMS:
                mine[key] = _own(value, 1)
        return mine
    except RecursionError:
        check_meta(meta)  # says where it is too deep
        raise


def _own(value: Any, depth: int) -> Any:
    kind = type(value)
    if depth > MAX_DEPTH:
        raise RecursionError
    if kind is list:
        return [item if type(item) in _ATOMS else _own(item, depth + 1) for item in value]
    if kind is dict:
        return {
            key: item if type(item) in _ATOMS else _own(item, depth + 1)
            for key, item in value.items()
        }
    return value


def _check(value: Any, where: str, depth: int) -> None:
    kind = type(value)
    if kind is int:
        if value.bit_length() > MAX_INT_BITS:
            raise MessageError(f"{where} is an int of more than {MAX_INT_BITS} bits")
    elif kind is list or kind is dict:
        if depth > MAX_DEPTH:
            raise MessageError(f"{where:.80} is nested deeper than {MAX_DEPTH} levels")
        (_check_list if kind is list else _check_dict)(value, where, depth + 1)
    elif kind not in _PLAIN:
        raise MessageError(f"{where:.200} = {_shown(value)} is {_named(kind)}; {_hint(value)}")


def _check_list(value: list[Any], where: str, depth: int) -> None:
    for i, item in enumerate(value):
        if type(item) not in _PLAIN:
            _check(item, f"{where}[{i}]", depth)


def _check_dict(value: dict[Any, Any], where: str, depth: int) -> None:
    for key, item in value.items():
        if type(key) is not str:
            raise _bad_key(where, key)
        if type(item) not in _PLAIN:
            _check(item, f"{where}[{key!r:.40}]", depth)


def _bad_key(where: str, key: Any) -> MessageError:
    return MessageError(
        f"{where:.200} has the key {_shown(key)}, {_named(type(key))}; keys are str in JSON"
    )


def _named(kind: type) -> str:
    """A type in words: ``of type numpy.float64``."""
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"of type {module}{kind.__qualname__}"


def _shown(value: Any) -> str:
    """A value in at most 60 characters, whatever its ``repr`` does."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        return "(no repr)"
    return text if len(text) <= 60 else f"{text[:57]}..."


def shown(value: Any) -> str:
    """A value that is wrong, with its type: ``3 (of type int)``."""
    return f"{_shown(value)} ({_named(type(value))})"


def _hint(value: Any) -> str:
    """What to send in its place."""
    if type(value) in _HINTS:
        return _HINTS[type(value)]
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return "send it as one of the message's tensors, or its .item() or .tolist()"
    return "meta holds str, int, float, bool, None, and lists and dicts of these"
