"""A chain of linear and point-wise layers, forwards and backwards for many nodes at once.

The gradient is written out: autograd would fill a matrix of all parameters for every layer and add
them up. A node's bits must not depend on its place in the stack, which rules out some kernels:
matrix products depend on the alignment of their operands and results, so every node's part of any
matrix begins on a cache line; a vectorized sigmoid rounds unlike the scalar one at an array's end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import torch
from torch import Tensor, nn

#: float32 numbers of a cache line
LINE: Final = 16


def _sigmoid(x: Tensor) -> Tensor:
    return x.neg_().exp_().add_(1).reciprocal_()


def _relu_backward(grad: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward.grad_input(grad, out, 0, grad_input=grad)


def _tanh_backward(grad: Tensor, out: Tensor) -> Tensor:
    return grad.mul_(out.square().neg_().add_(1))


def _sigmoid_backward(grad: Tensor, out: Tensor) -> Tensor:
    return grad.mul_(out.neg().add_(1).mul_(out))


#: of a point-wise layer: what it does in place, and to the gradient of its output
_POINTWISE: Final[
    dict[type[nn.Module], tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]]
] = {
    nn.ReLU: (torch.relu_, _relu_backward),
    nn.Tanh: (torch.tanh_, _tanh_backward),
    nn.Sigmoid: (_sigmoid, _sigmoid_backward),
}

#: where torch keeps what is called with a module or a parameter
_HOOKS: Final = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_post_accumulate_grad_hooks",
)  # fmt: skip


def aligned(device: torch.device, groups: int, *shape: int) -> Tensor:
    """An empty float32 tensor [groups, *shape] whose groups all begin on cache lines."""
    size = torch.Size(shape).numel()
    whole = torch.empty(groups, -(-size // LINE) * LINE, device=device)
    return whole[:, :size].view(groups, *shape)


class Memory:
    """Aligned tensors for up to ``groups`` nodes, which stacks of all sizes share."""

    def __init__(self, device: torch.device, groups: int) -> None:
        self._device, self.groups = device, groups
        self._made: dict[tuple[object, ...], Tensor] = {}

    def take(self, name: object, groups: int, *shape: int) -> Tensor:
        """The first ``groups`` of the tensor ``name`` [groups, *shape]."""
        whole = self._made.get((name, shape))
        if whole is None:
            whole = self._made[name, shape] = aligned(self._device, self.groups, *shape)
        return whole[:groups]


def layers_of(model: nn.Module) -> list[nn.Module] | None:
    """The layers of a plain chain of Flatten, Linear and point-wise layers; None for others.

    The chain is the model itself, or its ``layers`` where ``forward`` does nothing but call these.
    A layer with one output is another: its products are matrix times vector, and round otherwise
    for a node alone.
    """
    chain = model if isinstance(model, nn.Sequential) else getattr(model, "layers", None)
    if not isinstance(chain, nn.Sequential) or type(chain).forward is not nn.Sequential.forward:
        return None
    if chain is not model and not _only_calls_layers(type(model)):
        return None
    layers = list(chain)
    known = all(type(one) in _POINTWISE or _flattens(one) or _widens(one) for one in layers)
    linear = any(isinstance(layer, nn.Linear) for layer in layers)
    return layers if known and linear and _is_all(model, layers) else None


def _forward(self: Any, x: Tensor) -> Any:
    return self.layers(x)


def _only_calls_layers(kind: type[nn.Module]) -> bool:
    """Whether ``forward`` is that of `_forward`, by what the interpreter makes of it."""
    code = getattr(kind.forward, "__code__", None)
    parts = attrgetter("co_code", "co_names", "co_argcount")
    return code is not None and parts(code) == parts(_forward.__code__)


def _is_all(model: nn.Module, layers: Sequence[nn.Module]) -> bool:
    """Whether a model is no more than its layers: no parameter or buffer beside theirs, none that
    two of them share, and nothing that changes what a layer or its gradient is."""
    ours = [id(parameter) for layer in layers for parameter in layer.parameters()]
    if ours != [id(parameter) for parameter in model.parameters()]:
        return False
    if next(model.buffers(), None) is not None:
        return False
    whatever: list[nn.Module | Tensor] = [*model.modules(), *model.parameters()]
    return not any(map(_is_hooked, whatever))


def _is_hooked(one: nn.Module | Tensor) -> bool:
    """Whether a module or parameter has a hook (as of `weight_norm`), or its own ``forward``."""
    return any(getattr(one, name, None) for name in _HOOKS) or "forward" in vars(one)


def _flattens(layer: nn.Module) -> bool:
    """Whether a layer makes vectors of samples."""
    return type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1)


def _widens(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and layer.out_features > 1


@dataclass(frozen=True)
class Linear:
    """A linear layer whose weight [outputs, inputs] begins at ``start`` in a row, then its bias."""

    start: int
    outputs: int
    inputs: int
    bias: bool

    @property
    def middle(self) -> int:
        return self.start + self.outputs * self.inputs

    @property
    def stop(self) -> int:
        return self.middle + self.outputs * self.bias


class Plan:
    """The layers of a chain and where their parameters lie in a row."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers: list[Linear | type[nn.Module]] = []
        start = 0
        for layer in layers:
            if isinstance(layer, nn.Linear):
                shape = layer.out_features, layer.in_features
                made = Linear(start, *shape, layer.bias is not None)
                start = made.stop
                self.layers.append(made)
            elif not isinstance(layer, nn.Flatten):
                self.layers.append(type(layer))
        self.length = start


class LinearStep:
    """One linear layer of G nodes: views of their parameters, and room for what a step makes."""

    def __init__(
        self, layer: Linear, stack: Tensor, batch: int, first: bool, memory: Memory
    ) -> None:
        self.place = layer
        at = layer.start
        groups, outputs, inputs = len(stack), layer.outputs, layer.inputs
        flat = stack[:, layer.start : layer.middle]
        self.weight = flat.view(groups, outputs, inputs)
        self.transposed = self.weight.transpose(1, 2)
        self.bias = stack[:, layer.middle : layer.stop].unsqueeze(1) if layer.bias else None
        self.out = memory.take(("out", at), groups, batch, outputs)
        self.weight_grad = memory.take(("weight", at), groups, outputs, inputs)
        self.bias_grad = memory.take(("bias", at), groups, 1, outputs)
        self.in_grad = None if first else memory.take(("in", at), groups, batch, inputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.bmm(x, self.transposed, out=self.out)
        return torch.baddbmm(self.bias, x, self.transposed, out=self.out)

    def backward(self, grad: Tensor, x: Tensor) -> Tensor | None:
        """Gradients of the parameters from that of the output [G, B, outputs]; that of ``x``."""
        torch.bmm(grad.transpose(1, 2), x, out=self.weight_grad)
        if self.bias is not None:
            torch.sum(grad, 1, keepdim=True, out=self.bias_grad)
        return None if self.in_grad is None else torch.bmm(grad, self.weight, out=self.in_grad)


class LayersStep:
    """Steps of G nodes with parameters ``stack`` [G, P] on batches of one size.

    ``parameters`` are views of the stack, from column ``starts`` on, and ``gradients`` what `run`
    found for them.
    """

    def __init__(self, plan: Plan, stack: Tensor, batch: int, memory: Memory) -> None:
        linear = [i for i, layer in enumerate(plan.layers) if isinstance(layer, Linear)]
        self._layers = [
            LinearStep(layer, stack, batch, i == linear[0], memory)
            if isinstance(layer, Linear)
            else layer
            for i, layer in enumerate(plan.layers)
        ]
        self.parameters: list[Tensor] = []
        self.gradients: list[Tensor] = []
        self.starts: list[int] = []
        for layer in self._layers:
            if isinstance(layer, LinearStep):
                self._add(layer.place.start, layer.weight, layer.weight_grad)
                if layer.bias is not None:
                    self._add(layer.place.middle, layer.bias, layer.bias_grad)

    def _add(self, start: int, parameters: Tensor, gradients: Tensor) -> None:
        self.starts.append(start)
        self.parameters.append(parameters)
        self.gradients.append(gradients)

    def run(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Find the gradients of each model's sum of ``weight`` [G, B, 1] times cross-entropy.

        ``x`` [G, B, inputs], `aligned`, and labels ``y`` [G, B, 1] int64.
        """
        outputs = [x]
        for layer in self._layers:
            last = outputs[-1]
            if isinstance(layer, LinearStep):
                outputs.append(layer.forward(last))
            else:
                own = aligned(x.device, *x.shape).copy_(x) if last is x else last
                outputs.append(_POINTWISE[layer][0](own))
        grad: Tensor | None = _logit_gradient(outputs[-1], y, weight)
        for layer, given, made in zip(
            reversed(self._layers), outputs[-2::-1], outputs[:0:-1], strict=True
        ):
            if grad is None:
                break
            if isinstance(layer, LinearStep):
                grad = layer.backward(grad, given)
            else:
                grad = _POINTWISE[layer][1](grad, made)


def _logit_gradient(logits: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """(softmax - one-hot) * weight, like ``logits`` [G, B, classes]."""
    p = torch.sub(
        logits, logits.amax(2, keepdim=True), out=aligned(logits.device, *logits.shape)
    ).exp_()
    share = weight / p.sum(2, keepdim=True)
    return p.mul_(share).scatter_add_(2, y, -weight)
