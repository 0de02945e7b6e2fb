"""Membership by a classifier of loss trajectories (after Zari et al., 2021).

The attacker has kept every model that a node sent it, and knows of a part of the samples whether
they are members; a small network learns to tell them by their losses over time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from results.attacks.alike import alike
from results.attacks.losstable import LossTable
from results.attacks.names import INFORMATION, NON_MEMBERS
from results.attacks.scores import auc, auc_interval, known, tpr_columns
from results.attacks.world import Truth

#: how many models the three latter are
PART: Final = 5
_LARGEST: Final = 1e4


@dataclass(frozen=True)
class Learning:
    """How the classifier learns: on ``fraction`` of the samples, by SGD with momentum."""

    fraction: float = 0.7
    epochs: int = 300
    batch: int = 256
    lr: float = 0.01
    momentum: float = 0.9
    seed: int = 421


def classifier(
    truth: Truth,
    table: LossTable,
    information: Sequence[str] = INFORMATION[:1],
    non_members: Sequence[str] = NON_MEMBERS[:1],
    learning: Learning = Learning(),
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """One row per pair of sender and receiver, kind of information and kind of non-members.

    Columns of the reference system: agent, target, roc_auc, attacker_model, attacker_fraction,
    attacker_dataset_mode, attacked_information, TPR at low FPR. Beside them the interval of the
    AUC, members, non_members, models. All on the samples that were held out.
    """
    pairs = list(dict.fromkeys((one.agent, one.target) for one in table.saved))
    rows: list[dict[str, Any]] = []
    for done, (agent, target) in enumerate(pairs):
        _, series = table.of(agent, target)
        for kind in non_members:
            outside = _outside(truth, kind, target, learning.seed)
            for part in information:
                chosen = series[_models(part, len(series))]
                found = attack(chosen, truth.members[agent], outside, learning, device)
                about = {"attacker_dataset_mode": kind, "attacked_information": part}
                rows.append({"agent": agent, "target": target, **about, **found})
        progress(done + 1, len(pairs))
    return pd.DataFrame(rows)


def _models(part: str, n: int) -> slice:
    """Which of ``n`` models: ``middle`` keeps as many as there are, up to five."""
    size = min(PART, n)
    start = {"all": 0, "first": 0, "middle": (n - size) // 2, "last": n - size}[part]
    return slice(start, n if part == "all" else start + size)


def _outside(truth: Truth, kind: str, target: int, seed: int) -> np.ndarray:
    """Numbers of the non-members; for ``local`` as many of each label as the attacker's shares
    allow."""
    if kind == "global":
        return truth.tested
    if not 0 <= target < truth.nodes:
        raise ValueError(f"node {target} has no samples of its own: take the non-members global")
    if kind == "local_train":
        return truth.members[target]
    if truth.labels is None:
        raise ValueError("non-members local go by labels, and the targets of this run are none")
    return alike(truth.labels, truth.tested, truth.members[target], seed)


def attack(
    series: np.ndarray,
    inside: np.ndarray,
    outside: np.ndarray,
    learning: Learning,
    device: str = "cpu",
) -> dict[str, Any]:
    """Learn on a part of the members and non-members of ``series`` [T, samples], and measure on
    the rest."""
    x = np.concatenate([series[:, inside].T, series[:, outside].T])
    y = np.concatenate([np.ones(len(inside)), np.zeros(len(outside))])
    train = _split(y, learning)
    common = {
        "attacker_model": "MLP", "attacker_fraction": learning.fraction, "models": len(series),
        "members": len(inside), "non_members": len(outside),
    }  # fmt: skip
    if len(np.unique(y[train])) < 2 or len(np.unique(y[~train])) < 2:
        nothing = np.zeros(0)
        return common | _measures(nothing, nothing)
    scores = learn(_scaled(x, train), y, train, learning, device)
    held = ~train
    return common | _measures(-scores[held & (y == 1)], -scores[held & (y == 0)])


def _measures(members: np.ndarray, others: np.ndarray) -> dict[str, float]:
    low, high = auc_interval(members, others)
    found = {"roc_auc": auc(members, others), "roc_auc_low": low, "roc_auc_high": high}
    return found | tpr_columns(members, others)


def _split(y: np.ndarray, learning: Learning) -> np.ndarray:
    """Which samples are learned from: ``fraction`` of each side."""
    rng, chosen = np.random.default_rng((learning.seed, 1)), np.zeros(len(y), dtype=bool)
    for side in (1, 0):
        at = np.flatnonzero(y == side)
        chosen[rng.permutation(at)[: round(learning.fraction * len(at))]] = True
    return chosen


def _scaled(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """log(1 + loss), with mean 0 and deviation 1 over the samples that are learned from."""
    logs = np.log1p(np.clip(known(x), 0, _LARGEST))
    mean, deviation = logs[train].mean(axis=0), logs[train].std(axis=0)
    return ((logs - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)


def learn(
    x: np.ndarray, y: np.ndarray, train: np.ndarray, learning: Learning, device: str
) -> np.ndarray:
    """Scores [samples] of membership by a network T-64-32-2 with class-weighted cross-entropy.

    It learns from the samples ``train`` of trajectories ``x`` [samples, T] and truth ``y``.
    """
    with torch.random.fork_rng(devices=[]), _one_thread(), torch.inference_mode():
        torch.manual_seed(learning.seed)
        model = Perceptron(x.shape[1], device)
        order = torch.Generator().manual_seed(learning.seed)
        inputs, labels = torch.from_numpy(x).to(device), torch.from_numpy(y).long().to(device)
        at = torch.from_numpy(np.flatnonzero(train)).to(device)
        fit(model, inputs[at], labels[at], learning, order)
        logits = model.outputs(inputs)[-1]
    return np.asarray((logits[:, 1] - logits[:, 0]).double().cpu().numpy())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads only wait for each other on matrices this small, and change last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Perceptron:
    """Linear layers T-64-32-2 with ReLU between them, and their gradients, written out.

    A step of so small a network by autograd and an optimizer of torch is overhead for two thirds.
    Parameters, gradients and momenta are one flat vector each; initial values are `nn.Linear`'s.
    """

    def __init__(self, length: int, device: str = "cpu") -> None:
        layers = [nn.Linear(length, 64), nn.Linear(64, 32), nn.Linear(32, 2)]
        tensors = [one.detach() for layer in layers for one in (layer.weight, layer.bias)]
        self.flat = torch.cat([one.reshape(-1) for one in tensors]).to(device)
        self.gradient, self.velocity = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        shapes = [one.shape for one in tensors]
        self.layers = _pairs(self.flat, shapes)
        self._gradients = _pairs(self.gradient, shapes)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """What goes into each layer, ``x`` [B, T] first, and the logits [B, 2]."""
        found = [x]
        for weight, bias in self.layers:
            out = torch.addmm(bias, found[-1], weight.T)
            found.append(out if bias is self.layers[-1][1] else out.relu_())
        return found

    def differentiate(self, x: Tensor, truth: Tensor, shares: Tensor) -> None:
        """Put the gradient of the cross-entropy, its samples weighted by ``shares`` [B, 1], into
        ``gradient``; ``truth`` [B, 2] is one-hot."""
        *inputs, logits = self.outputs(x)
        error = logits.softmax(dim=1).sub_(truth).mul_(shares)
        for number in reversed(range(len(inputs))):
            weight, bias = self._gradients[number]
            torch.mm(error.T, inputs[number], out=weight)
            torch.sum(error, dim=0, out=bias)
            if number:
                error = (error @ self.layers[number][0]).mul_(inputs[number] > 0)

    def descend(self, lr: float, momentum: float) -> None:
        """One step of SGD, as torch's."""
        self.velocity.mul_(momentum).add_(self.gradient)
        self.flat.sub_(self.velocity, alpha=lr)


def _pairs(flat: Tensor, shapes: Sequence[torch.Size]) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases as views of a flat vector."""
    parts = flat.split([shape.numel() for shape in shapes])
    views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    return list(zip(views[::2], views[1::2], strict=True))


def fit(
    model: Perceptron, x: Tensor, y: Tensor, learning: Learning, order: torch.Generator
) -> None:
    """Learn labels ``y`` [N] of ``x`` [N, T]; both classes count alike, whatever their sizes."""
    truth = torch.stack([y == side for side in (0, 1)], dim=1).float()
    weights = truth @ (len(y) / (2 * truth.sum(dim=0, keepdim=True).T))
    for _ in range(learning.epochs):
        mixed = torch.randperm(len(y), generator=order).to(x.device)
        parts = (one[mixed].split(learning.batch) for one in (x, truth, weights))
        for inputs, sides, weight in zip(*parts, strict=True):
            model.differentiate(inputs, sides, weight / weight.sum())
            model.descend(learning.lr, learning.momentum)
