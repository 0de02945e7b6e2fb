"""Parts in their order: fronts, error feedback, a selector, value coders, index and byte coders.

====================  =========================================================================
part                  what it does in a chain
====================  =========================================================================
`Front`               changes the vector (noise); any number, first
`ErrorFeedback`       adds what was lost before, and keeps what is lost now; at most one
`Selector`            chooses coordinates; at most one
`ValueCoder`          encodes the numbers; a second one the float32 tensors that the first leaves
`IndexCoder`          encodes the indices, before or behind the value coders; at most one, without
                      it they are int32
`ByteCoder`           packs the bytes of all tensors made so far; last
====================  =========================================================================

The empty chain sends a vector as it is, without a copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import (
    ByteCoder,
    CompressionError,
    Front,
    IndexCoder,
    Memory,
    Part,
    Selector,
    Sparse,
    ValueCoder,
    count,
    take,
)
from decentralizepy.compression.error_feedback import ErrorFeedback

VALUES: Final = "params"
INDICES: Final = "indices"
_ORDER: Final[tuple[tuple[type[Part], ...], ...]] = (
    (Front,), (ErrorFeedback,), (Selector,), (ValueCoder, IndexCoder), (ByteCoder,)
)  # fmt: skip
_ALONE: Final[tuple[type[Part], ...]] = (ErrorFeedback, Selector, IndexCoder)
_WIDE: Final = 1 << 31
#: dtypes that tensors packed by a byte coder may have
_DTYPES: Final = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64,
                  torch.complex128, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
}  # fmt: skip
P = TypeVar("P")


@dataclass(frozen=True)
class Packed:
    """What a chain made of a vector: tensors to send, and a JSON object, empty where possible."""

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class Chain:
    """A compressor made of parts; the same object, or one made alike, decodes.

    Raises ValueError for parts that cannot follow one another.
    """

    def __init__(self, *parts: Part) -> None:
        self.parts = parts
        places = [_place(part) for part in parts]
        for at, part in enumerate(parts):
            for before, place in zip(parts[:at], places[:at], strict=True):
                if places[at] < place or _same(_ALONE, before, part):
                    raise ValueError(f"{_called(part)} cannot follow {_called(before)}; {_TOLD}")
        self.fronts = [part for part in parts if isinstance(part, Front)]
        self.feedback = _one([part for part in parts if isinstance(part, ErrorFeedback)])
        self.selector = _one([part for part in parts if isinstance(part, Selector)])
        self.value_coders = [part for part in parts if isinstance(part, ValueCoder)]
        self.index_coder = _one([part for part in parts if isinstance(part, IndexCoder)])
        self.byte_coders = [part for part in parts if isinstance(part, ByteCoder)]
        for before, after in pairwise(self.value_coders):
            if not before.leaves_floats:
                raise ValueError(
                    f"{_called(after)} cannot follow {_called(before)}, which leaves it no floats"
                )
        self._memory: defaultdict[str, dict[str, Memory]] = defaultdict(dict)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def compress(self, x: Tensor | Sparse, rng: np.random.Generator, series: str = "") -> Packed:
        """Encode a vector [n], or some of its numbers, which the method itself has chosen.

        ``series`` tells apart vectors that have a memory (error feedback, warm starts) of their
        own, as those for different receivers. ``x`` stays as it is.
        """
        if isinstance(x, Sparse):
            return self._sparse(x, rng, series)
        for front in self.fronts:
            x = front.apply(x, rng)
        if self.feedback is None:
            return self._dense(x, rng, series)
        memory = self._of_part(series, self.feedback)
        x = self.feedback.add(x, memory)
        packed = self._dense(x, rng, series)
        heard = self.decompress(packed.tensors, packed.meta, len(x))
        self.feedback.keep(x, heard, memory)
        return packed

    def _dense(self, x: Tensor, rng: np.random.Generator, series: str) -> Packed:
        if self.selector is None:
            return self._finished(*self._coded(x, rng, series))
        indices, found = self.selector.select(x, rng)
        tensors, meta = self._coded(x.index_select(0, indices), rng, series)
        if found is None:
            self._add_indices(indices, len(x), tensors, meta)
        else:
            meta["chosen"] = found
        return self._finished(tensors, meta)

    def check(self, selects: bool, sends_changes: bool) -> None:
        """Raise ValueError unless the chain fits a method: does it choose coordinates itself, and
        does it send changes, which add up, or its model?"""
        if selects:
            self._check_sparse()
        elif self.feedback is not None and self.selector is not None and not sends_changes:
            raise ValueError(
                f"{_called(self.feedback)} adds up what {_called(self.selector)} leaves out, which "
                "makes sense for changes only, but this method sends its model; take "
                f"{_called(self.feedback)} out"
            )

    def _check_sparse(self) -> None:
        for part in (*self.fronts, self.feedback, self.selector):
            if part is not None:
                raise ValueError(
                    f"{_called(part)} takes whole vectors, but the method itself chooses what it "
                    f"sends; take {_called(part)} out"
                )

    def _sparse(self, x: Sparse, rng: np.random.Generator, series: str) -> Packed:
        self._check_sparse()
        tensors, meta = self._coded(x.values, rng, series)
        self._add_indices(x.indices, x.length, tensors, meta)
        return self._finished(tensors, meta)

    def _coded(
        self, x: Tensor, rng: np.random.Generator, series: str
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and meta of all value coders."""
        tensors: dict[str, Tensor] = {}
        meta: dict[str, Any] = {}
        if x.is_complex() and self.value_coders:
            x, meta["complex"] = torch.view_as_real(x).flatten(), True
        self._code(x, VALUES, self.value_coders, tensors, meta, (rng, series))
        return tensors, meta

    def _code(
        self,
        x: Tensor,
        name: str,
        coders: Sequence[ValueCoder],
        tensors: dict[str, Tensor],
        meta: dict[str, Any],
        by: tuple[np.random.Generator, str],
    ) -> None:
        """Add the tensors and meta of the coders. (A closure would be a cycle, and live on.)"""
        if not coders:
            tensors[name] = x
            return
        rng, series = by
        memory = self._of_part(series, coders[0], name)
        made, its = coders[0].encode(x.to(torch.float32), rng, memory)
        more = coders[0].floats(len(x))
        for below, tensor in made.items():
            rest = coders[1:] if below in more else ()
            self._code(tensor, _below(name, below), rest, tensors, meta, by)
        if its:
            meta[name] = dict(its)

    def _add_indices(
        self, indices: Tensor, n: int, tensors: dict[str, Tensor], meta: dict[str, Any]
    ) -> None:
        if self.index_coder is None:
            tensors[INDICES] = indices.to(torch.int32 if n < _WIDE else torch.int64)
            return
        made, its = self.index_coder.encode(indices, n)
        tensors.update({_below(INDICES, name): tensor for name, tensor in made.items()})
        if its:
            meta[INDICES] = dict(its)

    def _finished(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Packed:
        for at, coder in enumerate(self.byte_coders):
            forms = {}
            for name, tensor in tensors.items():
                if _stream(name) in coder.takes:
                    forms[name] = [str(tensor.dtype).removeprefix("torch."), tensor.numel()]
                    tensors[name] = _bytes_of(coder.encode(_memory_of(tensor)))
            meta[f"bytes{at}"] = forms
        return Packed(tensors, meta)

    # ------------------------------------------------------------------- decoding

    @staticmethod
    def is_sparse(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bool:
        """Whether only some numbers of a vector were sent."""
        return INDICES in tensors or "chosen" in meta

    def decompress(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int
    ) -> Tensor | Sparse:
        """The vector [n], or its numbers that were sent; raises `CompressionError`."""
        tensors = self._unpacked(tensors, meta, n)
        if not self.is_sparse(tensors, meta):
            return self._values(tensors, meta, n)
        indices = self._indices(tensors, meta, n)
        values = self._values(tensors, meta, indices.numel())
        seen = "chosen" not in meta
        return Sparse(indices.to(values.device), values, n, checked=seen)

    def _unpacked(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int
    ) -> Mapping[str, Tensor]:
        """The tensors as they were before the byte coders."""
        for at, coder in reversed(list(enumerate(self.byte_coders))):
            forms, found = _object(meta, f"bytes{at}"), dict(tensors)
            for name, form in forms.items():
                found[name] = _restored(take(tensors, name, torch.uint8, None), coder, form, n)
            tensors = found
        return tensors

    def _values(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        """The numbers [n]: complex ones are coded as their real and imaginary parts, in turn."""
        if meta.get("complex") is not True:
            return self._decoded(tensors, meta, VALUES, self.value_coders, n)
        parts = self._decoded(tensors, meta, VALUES, self.value_coders, 2 * n)
        return torch.view_as_complex(parts.view(n, 2))

    def _decoded(
        self,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        name: str,
        coders: Sequence[ValueCoder],
        n: int,
    ) -> Tensor:
        if not coders:
            return take(tensors, name, None, n)
        own = {
            below.removeprefix(name).removeprefix("."): tensor
            for below, tensor in tensors.items()
            if below == name or below.startswith(f"{name}.")
        }
        for below, elements in coders[0].floats(n).items():
            own[below] = self._decoded(tensors, meta, _below(name, below), coders[1:], elements)
        return coders[0].decode(own, _object(meta, name), n)

    def _indices(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        if "chosen" in meta:
            if self.selector is None:
                raise CompressionError("coordinates by seed, but no part draws them")
            return self.selector.again(_object(meta, "chosen"), n)
        if self.index_coder is None:
            found = take(tensors, INDICES, None, None)
            if found.dtype not in (torch.int32, torch.int64):
                raise CompressionError(f"tensor {INDICES!r} is {found.dtype}")
            return _checked(found, n).to(torch.int64)
        own = {
            name.removeprefix(INDICES).removeprefix("."): tensor
            for name, tensor in tensors.items()
            if _stream(name) == "indices"
        }
        return _checked(self.index_coder.decode(own, _object(meta, INDICES), n), n)

    # --------------------------------------------------------------------- memory

    def _of_part(self, series: str, part: Part, name: str = "") -> Memory:
        return self._memory[series].setdefault(f"{self.parts.index(part)}{name}", {})

    def state(self) -> dict[str, Any]:
        """What the parts keep between vectors, for a checkpoint: dictionaries of tensors."""
        kept = {
            series: {name: dict(memory) for name, memory in parts.items() if memory}
            for series, parts in self._memory.items()
        }
        return {series: parts for series, parts in kept.items() if parts}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self._memory.clear()
        for series, parts in state.items():
            self._memory[series] = {name: dict(memory) for name, memory in parts.items()}


_TOLD: Final = (
    "the order is: noise, error feedback, one selector, value coders and one index coder, byte "
    "coders"
)


def _place(part: Part) -> int:
    for at, kinds in enumerate(_ORDER):
        if isinstance(part, kinds):
            return at
    raise ValueError(f"{_called(part)} is no part of a chain: subclass ValueCoder or another part")


def _same(kinds: Sequence[type[Part]], one: Part, other: Part) -> bool:
    """Whether both are of the same of these kinds."""
    return any(isinstance(one, kind) and isinstance(other, kind) for kind in kinds)


def _one(parts: Sequence[P]) -> P | None:
    return parts[0] if parts else None


def _called(part: Part) -> str:
    return getattr(part, "name", "") or type(part).__name__


def _below(name: str, below: str) -> str:
    return f"{name}.{below}" if below else name


def _stream(name: str) -> str:
    return "indices" if name == INDICES or name.startswith(f"{INDICES}.") else "values"


def _object(meta: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = meta.get(name, {})
    if not isinstance(found, Mapping):
        raise CompressionError(f"{name} = {found!r:.40} is no object")
    return found


def _checked(indices: Tensor, n: int) -> Tensor:
    """Indices that ascend from 0 or more and are less than ``n``."""
    if indices.numel():
        found = indices.numpy() if indices.is_cpu else indices  # NumPy is faster
        if not (found[1:] > found[:-1]).all() or found[0] < 0 or found[-1] >= n:
            raise CompressionError(f"indices do not ascend, or are not below {n}")
    return indices


def _memory_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().view(torch.uint8)
    return flat.numpy().data


def _bytes_of(data: bytes) -> Tensor:
    return (
        torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if data
        else torch.empty(0, dtype=torch.uint8)
    )


def _restored(packed: Tensor, coder: ByteCoder, form: Any, n: int) -> Tensor:
    """A tensor from its packed bytes; no coder makes more than 16 bytes of a number."""
    if not isinstance(form, list) or len(form) != 2 or form[0] not in _DTYPES:
        raise CompressionError(f"{form!r:.40} is no form of a tensor")
    dtype = _DTYPES[form[0]]
    elements = count({"elements": form[1]}, "elements", (16 * n + 1024) // dtype.itemsize)
    data = coder.decode(_memory_of(packed), elements * dtype.itemsize)
    return _bytes_of(data).view(dtype)
