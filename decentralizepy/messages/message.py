"""A message between nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from decentralizepy.messages.header import (
    DTYPES,
    MAX_DIMS,
    MAX_PAYLOAD,
    MAX_TENSORS,
    Header,
    MessageError,
    TensorInfo,
)
from decentralizepy.messages.meta import own_meta

#: name on the wire -> dtype
TORCH_DTYPES: Final[dict[str, torch.dtype]] = {name: getattr(torch, name) for name in DTYPES}
_NAMES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}


class Message:
    """What a node says: named tensors and a small JSON object ``meta``.

    A received message has its ``sender`` and ``round`` (iteration, averaging round), 0-based.
    Tensors and ``meta`` of a received message belong to others, too: they are read, never written.
    Tensors may be kept for as long as they are needed; the memory behind them is not reused before.

    ``asks`` marks a question, which the receiver's `Node.answer` replies to.
    """

    __slots__ = (
        "_encoded", "_shared", "asks", "lease", "meta", "round", "sender", "tensors"
    )  # fmt: skip

    tensors: Mapping[str, Tensor]

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any] | None = None,
        sender: int | None = None,
        round: tuple[int, int] = (0, 0),
        asks: bool = False,
    ) -> None:
        self.tensors = tensors
        self.meta: Mapping[str, Any] = {} if meta is None else meta
        self.sender, self.round, self.asks = sender or 0, round, asks
        self._encoded: bytes | None = None
        #: whatever has to live until all who get the message have heard or dropped it
        self.lease: object = None
        self._shared: list[object] | None = None

    @staticmethod
    def deferred(
        make: Callable[[], Mapping[str, Tensor]],
        like: Mapping[str, Tensor],
        meta: Mapping[str, Any] | None = None,
        kept: bool = True,
    ) -> Message:
        """A message whose tensors are made by ``make()`` when they are read or sent.

        They must have the names, dtypes and shapes of ``like``, and must not depend on when they
        are made: draw noise from a generator of its own for each receiver. What was made is kept
        for the next look, but not by `Sharing`'s own merge of a message that one node hears. Not
        ``kept``, it is made at each look, so that a receiver who looks at one message after the
        other never holds two of them.
        """
        return _Deferred(make, like, meta, kept)

    @property
    def is_deferred(self) -> bool:
        """Whether its tensors are still to be made."""
        return False

    def made(self) -> Message:
        """The message with its tensors made, which it holds from now on."""
        return self

    def delivered(self, receivers: int) -> Message:
        """The message as so many nodes of this worker get it, see `own`."""
        return self

    def own(self) -> Message:
        """The message for one of its receivers on a worker, who may change its ``meta``."""
        mine = self._for_one()
        mine.lease, mine._shared = self.lease, self._cell()
        return mine

    def _for_one(self) -> Message:
        return self.stamped(self.sender, self.round, self.asks)

    @property
    def decoded(self) -> object:
        """What one receiver made of it, for the others on its worker."""
        return None if self._shared is None else self._shared[0]

    @decoded.setter
    def decoded(self, value: object) -> None:
        self._cell()[0] = value

    def _cell(self) -> list[object]:
        if self._shared is None:
            self._shared = [None]
        return self._shared

    def last_look(self) -> Mapping[str, Tensor]:
        """Its tensors for a receiver who is done with it after this look."""
        return self.tensors

    @property
    def like(self) -> Mapping[str, Tensor]:
        """Tensors of the same names, dtypes and shapes; nothing is made for it."""
        return self.tensors

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.tensors[name]
        except KeyError:
            there = ", ".join(map(repr, self.like)) or "none"
            raise KeyError(f"{name!r:.40}: the tensors of this message are {there:.200}") from None

    def __contains__(self, name: object) -> bool:
        return name in self.like

    def __repr__(self) -> str:
        shapes = {name: tuple(tensor.shape) for name, tensor in self.like.items()}
        return f"Message({shapes}, {dict(self.meta)}, sender={self.sender}, round={self.round})"

    def stamped(self, sender: int, round_: tuple[int, int], asks: bool = False) -> Message:
        """The message as it is now, with its sender and round.

        What the program later does to the dictionaries that it made this one of does not reach it.
        """
        meta = own_meta(self.meta) if self.meta else None
        return Message(dict(self.tensors), meta, sender, round_, asks)

    def carrying(self, tensors: Mapping[str, Tensor]) -> Message:
        """The same message with other tensors."""
        return Message(tensors, self.meta, self.sender, self.round, self.asks)

    def copied(self) -> Message:
        """The same message with tensors of its own, for one that travels long."""
        return self.carrying({name: tensor.clone() for name, tensor in self.tensors.items()})

    def encoded(self) -> bytes:
        """The bytes of the header, made once: they are counted, and they are sent."""
        if self._encoded is None:
            self._encoded = self.header().encode()
        return self._encoded

    def header(self) -> Header:
        """The header that describes this message."""
        infos = tuple(
            TensorInfo(name, _NAMES[tensor.dtype], tuple(tensor.shape))
            for name, tensor in self.like.items()
        )
        return Header(self.sender, self.round, infos, self.meta, self.asks)


class _Deferred(Message):
    """A message whose tensors are made at the first look at them."""

    __slots__ = ("_kept", "_like", "_made", "_make", "_receivers")

    def __init__(
        self,
        make: Callable[[], Mapping[str, Tensor]],
        like: Mapping[str, Tensor],
        meta: Mapping[str, Any] | None,
        kept: bool,
    ) -> None:
        self._kept = kept
        self._made: Mapping[str, Tensor] | None = None
        self._make: Callable[[], Mapping[str, Tensor]] | None = make
        self._like = like
        self._receivers = 0
        super().__init__(like, meta)

    @property
    def is_deferred(self) -> bool:
        return self._made is None

    @property
    def like(self) -> Mapping[str, Tensor]:
        return self._like

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        if self._made is None:
            made = self._fresh()
            if not self._kept:
                return made
            self._made, self._like, self._make = made, made, None
        return self._made

    @tensors.setter
    def tensors(self, value: Mapping[str, Tensor]) -> None:
        """There is nothing to set: they are made."""

    def _fresh(self) -> Mapping[str, Tensor]:
        assert self._make is not None
        made = self._make()
        if _forms(made) != _forms(self._like):
            wrong = f"a deferred message of {_forms(made)}, not of {_forms(self._like)}"
            raise ValueError(wrong)
        if any(tensor.requires_grad for tensor in made.values()):  # nobody else's concern
            return {name: tensor.detach() for name, tensor in made.items()}
        return made

    def delivered(self, receivers: int) -> Message:
        self._receivers += receivers
        return self

    def last_look(self) -> Mapping[str, Tensor]:
        """Made for this look alone, unless others may look, too, or somebody has."""
        alone = self._made is None and self._receivers == 1
        return self._fresh() if alone else self.tensors

    def stamped(self, sender: int, round_: tuple[int, int], asks: bool = False) -> Message:
        if self._make is None:
            return super().stamped(sender, round_, asks)
        message = _Deferred(self._make, self._like, own_meta(self.meta), self._kept)
        message.sender, message.round, message.asks = sender, round_, asks
        return message

    def _for_one(self) -> Message:
        """What the first of several has made serves all, also for other workers."""
        look = self.last_look if self._receivers == 1 else lambda: self.tensors
        mine = _Deferred(look, self._like, own_meta(self.meta), self._kept)
        mine.sender, mine.round, mine.asks = self.sender, self.round, self.asks
        return mine.delivered(1)

    def made(self) -> Message:
        tensors = self.tensors
        return self if self._kept else self.carrying(tensors)


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Missing:
    """In place of a message that did not come: who, and why."""

    sender: int
    reason: str


def check_size(tensors: Mapping[str, Tensor]) -> None:
    """Raise `MessageError` unless workers on all machines would take a message of these tensors.

    At most `MAX_TENSORS` dense tensors of at most `MAX_DIMS` dimensions and of the dtypes in
    `DTYPES`, together at most `MAX_PAYLOAD` bytes. Receivers apply the same limits to the header,
    so a message that passes here is accepted wherever it goes.
    """
    if len(tensors) > MAX_TENSORS:
        raise MessageError(f"a message of {len(tensors)} tensors, more than {MAX_TENSORS}")
    nbytes = 0
    for name, tensor in tensors.items():
        if (
            type(name) is not str
            or tensor.dtype not in _NAMES
            or tensor.layout is not torch.strided
            or tensor.dim() > MAX_DIMS
        ):
            raise MessageError(_unfit(name, tensor))
        nbytes += tensor.nbytes
    if nbytes > MAX_PAYLOAD:
        raise MessageError(f"a message of {nbytes} bytes, more than {MAX_PAYLOAD}")


def _unfit(name: object, tensor: Tensor) -> str:
    if type(name) is not str:
        return f"a tensor is named {name!r:.40}: names are str"
    if tensor.layout is not torch.strided:
        return f"tensor {name!r:.40} is {tensor.layout}: send its indices and values"
    if tensor.dtype not in _NAMES:
        return f"tensor {name!r:.40} is {tensor.dtype}: one of {', '.join(DTYPES)}"
    return f"tensor {name!r:.40} has {tensor.dim()} dimensions, more than {MAX_DIMS}"
