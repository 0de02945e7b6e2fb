"""What the parts of a compression chain are, and what passes between them.

Nothing here knows of nodes, graphs or messages: parts take tensors on any device and give named
tensors and a small JSON object. Randomness is passed in, never global. The length of a vector is
never read from the wire: whoever decodes says how long it is, so damaged input can neither crash
nor allocate much; it raises `CompressionError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

#: what a part keeps between rounds, by names of its own: part of a checkpoint
Memory = dict[str, Tensor]


class CompressionError(ValueError):
    """Encoded data that no part of the chain can have made: damaged, or of another chain."""


@dataclass(frozen=True, eq=False)
class Sparse:
    """Some numbers of a vector of ``length``: ``values`` [k] at the ascending ``indices`` [k]."""

    indices: Tensor
    values: Tensor
    length: int
    #: whether someone has seen that the indices ascend
    checked: bool = False

    def dense(self) -> Tensor:
        """The vector [length], zero where nothing is said."""
        return self.values.new_zeros(self.length).index_copy_(0, self.indices, self.values)

    def filled(self, x: Tensor) -> Tensor:
        """The vector [length] with the numbers of ``x`` where nothing is said."""
        return x.index_copy(0, self.indices, self.values)


class Part:
    """One step of a chain. Options are the annotated keyword parameters of ``__init__``."""

    #: the name in ``compression = ...`` of an INI; a class of one's own is named by file and class
    name: ClassVar[str] = ""


class Front(Part, ABC):
    """Changes the vector before anything else, as noise does. Receivers know nothing of it."""

    @abstractmethod
    def apply(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """The vector to send [n] in place of ``x`` [n], which stays as it is."""


class Selector(Part, ABC):
    """Chooses the coordinates that are sent; receivers fill in the others by their own means."""

    @abstractmethod
    def select(self, x: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any] | None]:
        """Ascending indices [k] int64 of ``x`` [n], and what `again` finds them by.

        None in place of the latter: the indices travel themselves.
        """

    def again(self, meta: Mapping[str, Any], n: int) -> Tensor:
        """The indices that `select` gave for a vector of length ``n``, from its ``meta``."""
        raise CompressionError(f"{type(self).__name__} sends its indices")

    def contraction(self, n: int) -> float | None:
        """As `ValueCoder.contraction`."""
        return None


class ValueCoder(Part, ABC):
    """Turns numbers [n] float32 into named tensors, usually with some loss."""

    #: whether some of the tensors are float32 again, for the next value coder to encode
    leaves_floats: ClassVar[bool] = False

    @abstractmethod
    def encode(
        self, x: Tensor, rng: np.random.Generator, memory: Memory
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Tensors by name (the main one is "") and a small JSON object, for ``x`` [n] float32.

        ``memory`` is what this coder keeps between the vectors of one series; it may be changed.
        """

    @abstractmethod
    def decode(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        """The numbers [n] float32 again; raises `CompressionError` for damaged input."""

    def floats(self, n: int) -> Mapping[str, int]:
        """Names and numbers of elements of the tensors that the next value coder encodes."""
        return {}

    def contraction(self, n: int) -> float | None:
        """delta with E |C(x) - x|^2 <= (1 - delta) |x|^2 for every x [n]; None where there is no
        such bound."""
        return None

    def variance(self, n: int) -> float | None:
        """omega with E C(x) = x and E |C(x) - x|^2 <= omega |x|^2; None for a biased coder."""
        return None


class IndexCoder(Part, ABC):
    """Turns ascending indices into named tensors, without loss."""

    @abstractmethod
    def encode(self, indices: Tensor, n: int) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Tensors by name (one of them is "") for ``indices`` [k] int64, all less than ``n``."""

    @abstractmethod
    def decode(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        """The indices [k] int64 again. The chain checks that they ascend and are less than n."""


class ByteCoder(Part, ABC):
    """Turns the bytes of a finished tensor into fewer, without loss."""

    #: which streams it takes: ``values``, ``indices``
    takes: tuple[str, ...] = ("values", "indices")

    @abstractmethod
    def encode(self, data: memoryview) -> bytes:
        """Fewer bytes."""

    @abstractmethod
    def decode(self, data: memoryview, nbytes: int) -> bytes:
        """The ``nbytes`` bytes again; raises `CompressionError` if ``data`` has not so many."""


def take(
    tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype | None, n: int | None
) -> Tensor:
    """The tensor [n] of that name and type; raises `CompressionError` if it is not there so."""
    found, which = tensors.get(name), f"tensor {name!r}" if name else "the main tensor"
    if found is None:
        raise CompressionError(f"{which} is not there")
    if found.dim() != 1 or (n is not None and found.numel() != n):
        raise CompressionError(f"{which} has the shape {tuple(found.shape)}, not ({n},)")
    if dtype is not None and found.dtype != dtype:
        raise CompressionError(f"{which} is {found.dtype}, not {dtype}")
    return found


def number(meta: Mapping[str, Any], name: str) -> float:
    """The float of that name; raises `CompressionError` if there is none."""
    found = meta.get(name)
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise CompressionError(f"{name} = {found!r:.40} is no number")
    return float(found)


def count(meta: Mapping[str, Any], name: str, most: int) -> int:
    """The whole number of that name, at most ``most``; raises `CompressionError` otherwise."""
    found = meta.get(name)
    if type(found) is not int or not 0 <= found <= most:
        raise CompressionError(f"{name} = {found!r:.40} is no whole number from 0 to {most}")
    return found
