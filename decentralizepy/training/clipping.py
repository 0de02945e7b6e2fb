"""Gradients scaled down to a norm (Pascanu, Mikolov and Bengio, ICML 2013, algorithm 1)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

#: as torch.nn.utils.clip_grad_norm_: no division by zero
_EPSILON: Final = 1e-6


def clip(grad: Tensor, norm: float) -> None:
    """Scale ``grad`` [P] in place to an l2 norm of at most ``norm``; the whole gradient is one."""
    grad.mul_((norm / (torch.linalg.vector_norm(grad) + _EPSILON)).clamp_(max=1.0))


def clip_each(grads: Tensor, norm: float) -> None:
    """`clip` every row of ``grads`` [G, P]; a row's bits do not depend on the others.

    Norms are taken row by row: a reduction over one axis of a matrix may add in another order.
    """
    norms = torch.stack(torch._foreach_norm(list(grads.unbind())))
    grads.mul_((norm / (norms + _EPSILON)).clamp_(max=1.0).unsqueeze(1))
