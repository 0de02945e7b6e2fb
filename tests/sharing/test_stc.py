"""Sparse ternary compression against its algorithm, with dense float64 vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sharing_matrix import travelled

from decentralizepy import Sharing, run_here
from decentralizepy.compression.presets import EliasFpzipLossy
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.graphs.graph import Graph
from decentralizepy.messages.message import Message
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.stc import STC

INI = Path(__file__).resolve().parents[2] / "run_configuration" / "digits_kshard2_mlp.ini"
P, ALPHA, CLIENTS = 203, 0.1, 3
ALONE = Graph(1, [])
SERVER = Context(-1, 0, 0, ALONE, Sharing().mixing(ALONE, 0), P, 7, neighbours=((), ()))
Vector = NDArray[np.float64]


def ternary(u: Vector) -> Vector:
    """mu sign(u) at the largest, else 0."""
    at = np.argsort(-np.abs(u), kind="stable")[: round(ALPHA * len(u))]
    said = np.zeros_like(u)
    said[at] = np.sign(u[at]) * np.abs(u[at]).mean()
    return said


def trained(row: torch.Tensor, client: int, t: int) -> torch.Tensor:
    """What a client makes of the server's model."""
    drawn = np.random.default_rng([client, t]).standard_normal(len(row))
    return row * 0.9 + torch.from_numpy(drawn).to(row.dtype)


def rounds(number: int) -> tuple[torch.Tensor, list[STC], STC, list[int]]:
    """The server's model after so many rounds, all methods, and bytes of messages."""
    model, server = torch.zeros(P, dtype=torch.float64), STC(alpha=ALPHA)
    clients, sizes = [STC(alpha=ALPHA) for _ in range(CLIENTS)], []
    for t in range(number):
        heard = [one.say(trained(model, i, t) - model, SERVER) for i, one in enumerate(clients)]
        change = torch.zeros_like(model)
        for message in heard:
            change = server.added(change, travelled(message)[0], 1 / CLIENTS)
        told = travelled(server.say(change, SERVER))[0]
        model = server.applied(model, told)
        sizes += [sum(m[name].nbytes for name in m.like) for m in (*heard, told)]
    return model, clients, server, sizes


def test_rounds_are_the_algorithm() -> None:
    found, *_ = rounds(5)
    model, left, own = np.zeros(P), np.zeros((CLIENTS, P)), np.zeros(P)
    for t in range(5):
        says = []
        for i in range(CLIENTS):
            u = left[i] + (trained(torch.from_numpy(model), i, t).numpy() - model)
            says.append(ternary(u))
            left[i] = u - says[-1]
        u = own + np.mean(says, axis=0)
        own = u - ternary(u)
        model = model + ternary(u)
    np.testing.assert_allclose(found.numpy(), model, rtol=0, atol=1e-5)
    assert np.abs(model).max() > 0.5


def test_what_was_said_and_what_was_not_is_all() -> None:
    """With lossy numbers too: the residual counts what receivers decode."""
    lossy = STC(alpha=0.3)
    lossy.compression = EliasFpzipLossy(float_precision=8)
    for method in STC(alpha=0.3), lossy:
        changes = torch.randn(6, P, dtype=torch.float64)
        said = torch.zeros(P, dtype=torch.float64)
        for change in changes:
            said = method.added(said, travelled(method.say(change, SERVER))[0])
        torch.testing.assert_close(said + method.unsaid, changes.sum(0))
        assert method.unsaid.abs().max() > 1e-3


def test_a_value_takes_a_bit_and_a_position_five() -> None:
    *_, sizes = rounds(4)
    k = round(ALPHA * P)
    assert all(size <= k / 8 + 1 + k * 4.8 / 8 * 1.3 + 3 for size in sizes)


def test_changes_stay_as_they_are_and_state_is_kept() -> None:
    change = torch.randn(P)
    before, method = change.clone(), STC(alpha=0.2)
    first = method.say(change, SERVER)
    method.say(change, SERVER)
    resumed = STC(alpha=0.2)
    resumed.load({name: value.clone() for name, value in method.state().items()})
    assert torch.equal(change, before)
    assert _bits(resumed.say(change, SERVER)) == _bits(method.say(change, SERVER)) != _bits(first)


def test_gossip_is_refused_with_what_to_take() -> None:
    with pytest.raises(RunError, match="testingSTC"):
        run_here(INI, 6, iterations=1, test_after=0, sharing=lambda: STC(alpha=0.1))
    theirs = INI.read_text().replace("sharing.Sharing", "sharing.STC").replace("= Sharing", "= STC")
    with pytest.raises(ConfigError, match=r"STC is for a server .* take the driver testingSTC"):
        run_here(theirs, 6, iterations=1, test_after=0)


def _bits(message: Message) -> list[bytes]:
    return [message[name].numpy().tobytes() for name in message.like]
