"""Federated sparse ternary compression, replayed in NumPy from what training changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from programs import NODES, experiment, here, named

from decentralizepy.errors import ConfigError
from decentralizepy.node.stc import STCFederated

RATE, ALPHA, ITERATIONS = 0.4, 0.02, 9
STC = {"sharing_package": "decentralizepy.sharing.STC"}


class Logged(STCFederated):
    """Notes what training changed, where clients began, and the server after each iteration."""

    changes_of: dict[tuple[int, int], np.ndarray]
    began: dict[tuple[int, int], torch.Tensor]
    server: dict[int, torch.Tensor]

    def take(self, said):
        super().take(said)
        self.began[self.round, self.uid] = self.x

    def reply(self):
        change = (self.x - self.rows["base"]).numpy().copy()
        self.changes_of[self.round, self.uid] = change
        return super().reply()

    def close(self, total):
        super().close(total)
        self.server[self.round] = self.x


def logged(kind: type[Logged] = Logged, **options):
    class Mine(kind):
        changes_of, began, server = {}, {}, {}

    return Mine, lambda: Mine(**options)


def ternary(u: np.ndarray) -> np.ndarray:
    """mu sign(u) on the round(alpha P) entries of largest size."""
    chosen = np.argsort(-np.abs(u), kind="stable")[: round(ALPHA * len(u))]
    found = np.zeros_like(u)
    found[chosen] = np.abs(u[chosen]).mean() * np.sign(u[chosen])
    return found


def run(tmp_path: Path, cache: Path, weighted: bool = False, **options):
    deal = "dirichlet\nalpha = 0.5" if weighted else "kshard"
    one = experiment(tmp_path, cache, "stc", sharing=f"STC\nalpha = {ALPHA}", partition=deal)
    log, node = logged(working_rate=RATE, weighted=weighted)
    return log, here(one, "run", ITERATIONS, node=node, test_after=ITERATIONS, **options)


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_algorithm_2(weighted: bool, tmp_path: Path, cache: Path) -> None:
    log, out = run(tmp_path, cache, weighted)
    x = log.began[0, min(uid for t, uid in log.began if t == 0)].numpy().astype(np.float64)
    unsaid, unsaid_of = np.zeros_like(x), {uid: np.zeros_like(x) for uid in range(NODES)}
    for t in range(ITERATIONS):
        clients = sorted(uid for when, uid in log.changes_of if when == t)
        assert len(clients) == 4
        total = np.zeros_like(x)
        weights = [out.nodes[uid].n_samples if weighted else 1 for uid in clients]
        for uid, weight in zip(clients, weights, strict=True):
            u = log.changes_of[t, uid] + unsaid_of[uid]
            said = ternary(u)
            unsaid_of[uid] = u - said
            total += weight * said
        u = total / sum(weights) + unsaid
        said = ternary(u)
        unsaid = u - said
        x += said
        np.testing.assert_allclose(log.server[t].numpy(), x, atol=2e-6)
    assert np.abs(unsaid).max() > 0 < np.abs(unsaid_of[clients[0]]).max()


def test_clients_begin_at_exactly_the_servers_model(tmp_path: Path, cache: Path) -> None:
    """Also those that were not drawn for a while; an unselected client waits for nobody."""
    log, _ = run(tmp_path, cache)
    assert {len([t for t, one in log.began if one == uid]) for uid in range(NODES)} != {ITERATIONS}
    for (t, _), x in log.began.items():
        if t:
            assert torch.equal(x, log.server[t - 1])


def test_few_bytes_go_both_ways(tmp_path: Path, cache: Path) -> None:
    """At 2 %: 1 bit for each entry that is said, and about 7 for its position."""
    _, out = run(tmp_path, cache)
    length = out.rows[0].numel()
    each = 0.02 * length * 9 / 8  # bytes of one change
    for row in out.records:
        if row["uid"] >= 0 and row["iteration"] == ITERATIONS:
            said = len([t for t in range(ITERATIONS) if row["uid"] in out.nodes[-1].clients(t)])
            assert said * each * 0.6 < row["total_data"] <= said * (each + 16)
    server = next(r for r in out.records if r["uid"] == -1 and r["iteration"] == ITERATIONS)
    assert server["total_data"] < ITERATIONS * NODES * (each + 16), "each change at most once each"


def test_a_client_that_was_away_for_long_gets_the_model(tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, "stc", sharing="STC\nalpha = 0.5", rounds="1")
    log, node = logged(working_rate=0.1)
    here(one, "run", 40, node=node, test_after=0)
    gaps = []
    for uid in range(NODES):
        turns = [-1, *(t for t, who in log.began if who == uid)]
        gaps += list(np.diff(turns))
    assert max(gaps) > 12 and min(gaps) < 5, "at 50 % some ten changes outweigh the model"
    for (t, _), x in log.began.items():
        if t:
            assert torch.equal(x, log.server[t - 1])


def test_equal_changes_add_up_once(tmp_path: Path, cache: Path) -> None:
    """In the reference each broadcast came back as the client's own: six rounds moved it by 21."""

    class Constant(Logged):
        def reply(self):
            self.x = self.rows["base"] + 0.5
            return super().reply()

    one = experiment(tmp_path, cache, "stc", sharing="STC\nalpha = 1.0", rounds="0")
    log, node = logged(Constant)
    out = here(one, "run", 6, node=node, test_after=0)
    begun = log.began[0, 0]
    torch.testing.assert_close(out.rows[-1] - begun, torch.full_like(begun, 3.0), atol=1e-4, rtol=0)


def test_the_driver_of_the_reference(tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, "driver", sharing=f"STC\nalpha = {ALPHA}", **STC)
    out = here(one, "run", 3, test_after=3, eval_file="testingSTC.py", working_rate=0.5)
    assert {row["heard"] for row in out.records if row["uid"] == -1} == {4}
    gossip = experiment(tmp_path, cache, "gossip", node=named("stc", "STCFederated"))
    with pytest.raises(ConfigError, match="STCFederated needs decentralizepy"):
        here(gossip, "run", 1)
