"""How a model's state lies in one flat row: the parameters, then the floating-point buffers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import torch
from torch import Tensor, nn

#: a buffer of no floating-point numbers: a count as it is, any other, as a mask, as a tensor
Counter = int | Tensor


@dataclass(frozen=True)
class Field:
    """One tensor of the state: its name in ``state_dict`` and its place in the row."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class RowLayout:
    """The places of all tensors of a model in a float32 row, in ``state_dict`` order.

    Integer buffers (BatchNorm's ``num_batches_tracked``) are `counters`: they stay outside the
    row, since averaging or noising a count means nothing. ``at_first`` is what they begin with.
    ``aliases`` are further names of the same tensors (tied weights), each with the first one.
    """

    parameters: tuple[Field, ...]
    buffers: tuple[Field, ...]
    counters: tuple[str, ...]
    at_first: tuple[Counter, ...] = dataclass_field(default=(), compare=False)
    aliases: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, model: nn.Module) -> RowLayout:
        """The layout of a model; raises ValueError for parameters that are not float32."""
        named = dict(model.named_parameters())
        wrong = [name for name, p in named.items() if p.dtype != torch.float32]
        if wrong:
            raise ValueError(f"parameters must be float32; these are not: {', '.join(wrong)}")
        kept = [(n, b) for n, b in model.named_buffers() if n in model.state_dict()]
        floats = [(n, b) for n, b in kept if b.is_floating_point()]
        parameters = _fields(named.items(), 0)
        start = parameters[-1].stop if parameters else 0
        others = {n: counter(b) for n, b in kept if not b.is_floating_point()}
        return cls(
            parameters, _fields(floats, start), tuple(others), tuple(others.values()),
            _aliases(model),
        )  # fmt: skip

    @property
    def n_parameters(self) -> int:
        """Elements of the parameter slice."""
        return self.parameters[-1].stop if self.parameters else 0

    @property
    def length(self) -> int:
        """Elements of a row."""
        return self.fields[-1].stop if self.fields else 0

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.parameters + self.buffers

    def views(self, row: Tensor) -> list[Tensor]:
        """The tensors of a row, as views, in the order of `fields`."""
        return [row[f.start : f.stop].view(f.shape) for f in self.fields]

    def state_dict(
        self, row: Tensor, counters: Sequence[Counter] | None = None
    ) -> dict[str, Tensor]:
        """The row as a ``state_dict``, with the integer counters of the node: views, but for
        aliases."""
        state = {f.name: view for f, view in zip(self.fields, self.views(row), strict=True)}
        values = zip(self.counters, counters or self.at_first, strict=True)
        state |= {name: torch.as_tensor(value) for name, value in values}
        return state | {name: state[first].clone() for name, first in self.aliases}

    def row(self, model: nn.Module) -> Tensor:
        """A new row with the model's present state."""
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        row = torch.empty(self.length)
        for field, view in zip(self.fields, self.views(row), strict=True):
            view.copy_(state[field.name].detach())
        return row


def _aliases(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """The names under which ``state_dict`` has a tensor again, each with the first one of it."""
    every = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    pairs = [(name, first.setdefault(id(tensor), name)) for name, tensor in every]
    kept = model.state_dict()
    return tuple((name, one) for name, one in pairs if name != one and {name, one} <= kept.keys())


def counter(buffer: Tensor) -> Counter:
    """The value of an integer buffer, for a node to keep."""
    if buffer.dim() == 0 and buffer.dtype not in (torch.bool, torch.complex64, torch.complex128):
        return int(buffer)
    return buffer.detach().cpu().clone(memory_format=torch.contiguous_format)


def _fields(named: Iterable[tuple[str, Tensor]], start: int) -> tuple[Field, ...]:
    fields = []
    for name, tensor in named:
        fields.append(Field(name, tuple(tensor.shape), start, start + tensor.numel()))
        start += tensor.numel()
    return tuple(fields)
