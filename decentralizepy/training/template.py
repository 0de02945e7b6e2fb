"""One model that every node of a worker borrows: its state is copied in, trained, copied out.

A node is a row, not a module. The template's tensors are views of one flat *work row*; weights of
convolutions lie channels-last there, which is faster on CPUs and GPUs, while rows stay in the
model's own order, so that messages, checkpoints and compression never see the layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from decentralizepy.errors import ConfigError
from decentralizepy.training.layout import Counter, RowLayout, counter

_KEPT_VIEWS = 8192


class Template:
    """A model whose state is ``work`` [layout.length] and whose gradients are ``grad``.

    ``grad`` [layout.n_parameters] is one flat buffer: gradients accumulate there, so an
    element-wise optimizer is a handful of kernels whatever the number of layers.
    """

    def __init__(self, model: nn.Module, device: str = "cpu") -> None:
        self.layout = RowLayout.of(model)
        self.initial = self.layout.row(model)
        self.model = model.to(device).train()
        self.work = torch.empty(self.layout.length, device=device)
        self.grad = torch.zeros(self.layout.n_parameters, device=device)
        self._views = self._bind()
        self._counters = [self.model.get_buffer(name) for name in self.layout.counters]
        self._loaded: Sequence[Counter] = ()
        self._parameters = [(one, one.data, one.data_ptr()) for one in self.model.parameters()]
        self._buffers = self._places_of_buffers()
        #: parameters that are not trained, and what they were as a gradient had been taken
        self._frozen = [
            (one, view, slice(field.start, field.stop))
            for field, (one, view, _) in zip(self.layout.parameters, self._parameters, strict=True)
            if not one.requires_grad
        ]
        self._held = [view.clone() for _, view, _ in self._frozen]
        self.plain = all(view.is_contiguous() for view in self._views)
        self._training = True
        self._row_views: dict[Tensor, list[Tensor]] = {}
        self.load(self.initial)

    @property
    def device(self) -> torch.device:
        return self.work.device

    def _bind(self) -> list[Tensor]:
        """Point the model's parameters, gradients and float buffers into the flat tensors; give
        its other buffers memory of their own."""
        views = [_work_view(self.work, f.start, f.shape) for f in self.layout.fields]
        named = dict(self.model.named_parameters())
        for field, view in zip(self.layout.fields, views, strict=True):
            if field.name in named:
                named[field.name].data = view
                named[field.name].grad = _work_view(self.grad, field.start, field.shape)
            else:
                held, leaf = self._place(field.name)
                held[leaf] = view
        for name in self.layout.counters:  # an expanded one cannot be written to
            held, leaf = self._place(name)
            held[leaf] = self.model.get_buffer(name).contiguous()
        for name, first in self.layout.aliases:
            if first not in named:  # a parameter is one object under all its names
                held, leaf = self._place(name)
                held[leaf] = self.model.get_buffer(first)
        return views

    def _place(self, name: str) -> tuple[dict[str, Tensor | None], str]:
        """Where a module holds a buffer."""
        owner, _, leaf = name.rpartition(".")
        return self.model.get_submodule(owner)._buffers, leaf

    def _places_of_buffers(self) -> list[tuple[dict[str, Tensor | None], str, Tensor]]:
        """Where modules hold what is a node's own, and the tensors that they hold there."""
        names = {name for name, _ in self.model.named_buffers(remove_duplicate=False)}
        kept = [name for name in self.model.state_dict() if name in names]
        return [(*self._place(name), self.model.get_buffer(name)) for name in kept]

    def load(self, row: Tensor, counters: Sequence[Counter] | None = None) -> None:
        """Copy a node's row and integer counters in; without any, those that all begin with."""
        for parameter, view, address in self._parameters:
            if parameter.data_ptr() != address:
                parameter.data = view
        for held, leaf, own in self._buffers:
            held[leaf] = own
        if self.plain:
            self.work.copy_(row)
        else:
            torch._foreach_copy_(self._views, self._views_of(row))
        self._loaded = self.layout.at_first if counters is None else counters
        for buffer, value in zip(self._counters, self._loaded, strict=True):
            buffer.copy_(value) if isinstance(value, Tensor) else buffer.fill_(value)

    def take_in(self) -> None:
        """Take over tensors that the model has put in the place of ours: ``self.mean = ...`` for a
        buffer, or ``weight.data = ...``. The node's are those that a row is copied to and from."""
        for parameter, view, address in self._parameters:
            if parameter.data_ptr() != address:
                _take_over(view, parameter.data, "a parameter")
                parameter.data = view
        for held, leaf, own in self._buffers:
            if (now := held[leaf]) is not own:
                _take_over(own, now, f"buffer {leaf!r}")
                held[leaf] = own

    def keep_frozen(self) -> None:
        """Note the parameters that are not trained, as the model or the training class left them:
        either may move them itself, as the mean of others."""
        for (_, view, _), held in zip(self._frozen, self._held, strict=True):
            held.copy_(view)

    def hold(self) -> None:
        """Undo what was done to parameters that are not trained since `keep_frozen`: decay, noise,
        a term."""
        for (parameter, view, _), held in zip(self._frozen, self._held, strict=True):
            if not parameter.requires_grad:  # a class may have thawed it meanwhile
                view.copy_(held)

    def still(self, grad: Tensor) -> None:
        """Zero what a tensor like `grad` has for parameters that are not trained, as noise."""
        for parameter, _, place in self._frozen:
            if not parameter.requires_grad:
                grad[place].zero_()

    def store(self, row: Tensor) -> list[Counter]:
        """Copy the state out into a node's row; returns the integer counters."""
        if self.plain:
            row.copy_(self.work)
        else:
            torch._foreach_copy_(self._views_of(row), self._views)
        return [
            _value(buffer, before)
            for buffer, before in zip(self._counters, self._loaded, strict=True)
        ]

    def _views_of(self, row: Tensor) -> list[Tensor]:
        """The row's tensors; rows of an arena are used again and again, so their views are kept."""
        if row._base is None:
            return self.layout.views(row)
        found = self._row_views.get(row)
        if found is None:
            if len(self._row_views) >= _KEPT_VIEWS:
                self._row_views.clear()
            found = self._row_views[row] = self.layout.views(row)
        return found

    def flat(self, gradients: Mapping[str, Tensor], n: int) -> Tensor:
        """Gradients by name, each [n, *shape], as a matrix [n, n_parameters] like `grad`.

        Zeros stand for parameters that have none, as they are not trained.
        """
        out = torch.empty(n, self.layout.n_parameters, device=self.device)
        for f in self.layout.parameters:
            place = _work_view(out, f.start, f.shape)
            place.copy_(gradients[f.name]) if f.name in gradients else place.zero_()
        return out

    def to_row_order(self, flat: Tensor) -> Tensor:
        """A copy of a tensor like `grad` [n_parameters], in the order of rows."""
        out = torch.empty_like(flat)
        for f in self.layout.parameters:
            out[f.start : f.stop].view(f.shape).copy_(_work_view(flat, f.start, f.shape))
        return out

    def to_work_order(self, row: Tensor) -> Tensor:
        """The opposite of `to_row_order`."""
        out = torch.empty_like(row)
        for f in self.layout.parameters:
            _work_view(out, f.start, f.shape).copy_(row[f.start : f.stop].view(f.shape))
        return out

    def mode(self, training: bool) -> None:
        """Switch between training and evaluation; walks the modules only when it changes."""
        if training != self._training:
            self.model.train(training)
            self._training = training


def placed(value: Any, device: torch.device, least: int = 0) -> Any:
    """A value, or dictionaries of values, with tensors of ``least`` dimensions on a device."""
    if isinstance(value, dict):
        return {key: placed(one, device, least) for key, one in value.items()}
    if isinstance(value, Tensor) and value.dim() >= least:
        return value.to(device)
    return value


def _value(buffer: Tensor, before: Counter) -> Counter:
    """What an integer buffer holds: the same tensor as before if nothing changed, as in a mask."""
    if isinstance(before, Tensor) and torch.equal(buffer.cpu(), before):
        return before
    return counter(buffer)


def _take_over(ours: Tensor, found: Tensor | None, what: str) -> None:
    if found is None or found.shape != ours.shape:
        now = None if found is None else tuple(found.shape)
        raise ConfigError(
            f"{what} of the model was {tuple(ours.shape)} and has become {now}; register what is "
            "no state of a node with persistent=False"
        )
    ours.copy_(found.detach())


def _work_view(flat: Tensor, start: int, shape: tuple[int, ...]) -> Tensor:
    """Tensors of that shape on a slice of ``flat`` [..., P]; 4-d ones are channels-last."""
    part, more = flat[..., start : start + torch.Size(shape).numel()], flat.shape[:-1]
    if len(shape) != 4:
        return part.view((*more, *shape))
    out, channels, height, width = shape
    return part.view(*more, out, height, width, channels).movedim(-1, -3)
