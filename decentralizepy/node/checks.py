"""What a program says, checked where a mistake would show only later, and in other words.

Each error says what was given and what is expected. What nearly everybody gives is recognized by
its type alone: a worker may send tens of thousands of messages a second, and to ask an abstract
class takes as long as all else that is done here.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from math import inf, isfinite
from typing import Any, Final

from torch import Tensor

from decentralizepy.messages.header import MessageError
from decentralizepy.messages.message import Message
from decentralizepy.messages.meta import shown

_SEVERAL: Final = frozenset({list, tuple})
_WHOLE: Final = frozenset({int})
#: what a round's numbers stay below: no header of a message holds more
_BOUND: Final = 1 << 62


def check_round(effect: str, round_: object, least: int = 0) -> tuple[int, int]:
    """The round in Python's own numbers; raises an error unless it is a pair of whole numbers."""
    if type(round_) is tuple and len(round_) == 2:
        t, k = round_
        if not (type(t) is int and type(k) is int):
            t, k = _whole(t), _whole(k)
            round_ = round_ if t is None or k is None else (t, k)
        if t is not None and k is not None:
            if least <= t < _BOUND and least <= k < _BOUND:
                return round_
            raise ValueError(
                f"{effect}: a round's numbers are 0 or more, and below 2**62, not {shown(round_)}"
            )
    raise TypeError(
        f"{effect}: a round is a pair (iteration, averaging round), as (t, 0), not {shown(round_)}"
    )


def check_uids(effect: str, what: str, uids: Any) -> Sequence[int]:
    """The nodes in Python's own numbers, which alone are equal wherever they are compared; raises
    TypeError unless these are several, not one."""
    if type(uids) in _SEVERAL and _WHOLE.issuperset(map(type, uids)):
        return uids
    if not isinstance(uids, Collection) or isinstance(uids, str | bytes) or _is_one(uids):
        raise TypeError(f"{effect}: {what} are a list of nodes, as [3], not {shown(uids)}")
    found = list[int]()
    for uid in uids:
        number = _whole(uid)
        if number is None:
            raise TypeError(
                f"{effect}: {what} hold {shown(uid)}: a node is a whole number, as int(uid)"
            )
        found.append(number)
    return found


def _is_one(uids: object) -> bool:
    """Whether this is a number in the dress of an array: one without dimensions."""
    return getattr(uids, "ndim", None) == 0


def _whole(given: Any) -> int | None:
    """A whole number of whatever kind (numpy's, a tensor's) as Python's own; None for others."""
    try:
        return int(operator.index(given))
    except (TypeError, ValueError, RuntimeError):  # torch has its own errors
        return None


def check_iteration(effect: str, t: object) -> int:
    """The iteration in Python's own numbers; raises an error unless it can be one."""
    if type(t) is int and 0 <= t < _BOUND:
        return t
    number = _whole(t)
    if number is None:
        raise TypeError(f"{effect}: t is an iteration, a whole number, not {shown(t)}")
    if not 0 <= number < _BOUND:
        raise ValueError(f"{effect}: t = {shown(t)}: iterations are numbered from 0")
    return number


def check_steps(steps: object) -> int:
    """How many local steps a `Train` asks for; raises an error unless it is a number of them."""
    number = _whole(steps)
    if number is None:
        raise TypeError(f"Train: steps is a whole number, or None, not {shown(steps)}")
    if number < 0:
        raise ValueError(f"Train: steps = {shown(steps)}: at least 0, or None for those of the INI")
    return number


def check_seconds(name: str, seconds: Any, *, or_none: bool = False) -> float:
    """Seconds as Python's own number, which may be below 0; raises an error for others.

    With ``or_none`` infinity is one of them: the effect takes None, too.
    """
    if type(seconds) is float and -inf < seconds < inf:
        return seconds
    remedy = "a number of seconds is expected" + (", or None to wait without" if or_none else "")
    try:
        if isinstance(seconds, str | bytes):
            raise TypeError
        number = float(seconds)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"{name} = {shown(seconds)}: {remedy}") from None
    if not isfinite(number) and not (or_none and number == inf):
        raise ValueError(f"{name} = {shown(seconds)}: a finite {remedy.removeprefix('a ')}")
    return number


def check_count(count: object, named: bool) -> None:
    """Raise an error unless a `Receive` may wait for so many messages."""
    if named:
        raise ValueError(
            f"Receive: count = {shown(count)} goes with ANY; of named sources one message of each "
            "is heard"
        )
    if not hasattr(count, "__index__") or operator.index(count) < 1:
        raise ValueError(
            f"Receive: count = {shown(count)}: at least 1 (deadline=0 takes what is there)"
        )


def check_term(name: str, term: object, length: int) -> None:
    """Raise an error unless what `Train` adds to gradients is as long as they are."""
    if not isinstance(term, Tensor):
        raise TypeError(f"Train: {name} is a tensor [{length}], not {shown(term)}")
    if term.shape != (length,):
        raise ValueError(
            f"Train: {name} has the shape {list(term.shape)}, where [{length}] is expected, one "
            "number for each parameter; a row is longer where the model has buffers: take its "
            "first self.n_parameters"
        )


def check_message(said: object, by: str) -> None:
    """Raise an error unless this is a message of tensors; ``by`` says whose it is."""
    if not isinstance(said, Message):
        raise TypeError(f"{by}: a message is Message({{...}}), not {shown(said)}")
    tensors, meta = said.like, said.meta
    for given in (tensors, meta):
        if type(given) is not dict and not isinstance(given, Mapping):
            raise TypeError(
                f"{by}: Message takes a dictionary of tensors, and one of JSON values, "
                f"not {shown(given)}"
            )
    for name, tensor in tensors.items():
        if type(tensor) is not Tensor and not isinstance(tensor, Tensor):
            raise MessageError(f"tensor {name!r:.40} is {shown(tensor)}: send a torch.Tensor")


def said_to(item: Any) -> tuple[Sequence[int], Message]:
    """A pair of `Send`: to whom, and what."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise TypeError(f"Send takes pairs (receivers, Message(...)), not {shown(item)}")
    uids, message = item
    check_message(message, "Send")
    return check_uids("Send", "receivers", uids), message
