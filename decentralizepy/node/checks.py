"""What a program says, checked where a mistake would show only later, and in other words.

Each error says what was given and what is expected. What nearly everybody gives is recognized by
its type alone: a worker may send tens of thousands of messages a second, and to ask an abstract
class takes as long as all else that is done here.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from decentralizepy.messages.header import MessageError
from decentralizepy.messages.message import Message
from decentralizepy.messages.meta import shown

_SEVERAL: Final = frozenset({list, tuple})


def check_round(effect: str, round_: object) -> None:
    """Raise TypeError unless this is a pair of whole numbers."""
    if type(round_) is tuple and len(round_) == 2:
        t, k = round_
        if type(t) is int and type(k) is int:
            return
        if hasattr(t, "__index__") and hasattr(k, "__index__"):
            return
    raise TypeError(
        f"{effect}: a round is a pair (iteration, averaging round), as (t, 0), not {shown(round_)}"
    )


def check_uids(effect: str, what: str, uids: object) -> None:
    """Raise TypeError unless these are several nodes, not one."""
    if type(uids) in _SEVERAL:
        return
    if not isinstance(uids, Collection) or isinstance(uids, str | bytes):
        raise TypeError(f"{effect}: {what} are a list of nodes, as [3], not {shown(uids)}")


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


def check_is(by: str, kind: type, given: object) -> None:
    """Raise TypeError unless ``by``, a method that is a user's own, has given what it should."""
    if not isinstance(given, kind):
        raise TypeError(f"{by}: a {kind.__name__} is expected, not {shown(given)}")


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
    check_uids("Send", "receivers", uids)
    check_message(message, "Send")
    return uids, message
