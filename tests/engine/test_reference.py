"""The engine against an independent D-PSGD: modules, torch's optimizers and a dense matrix."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import build
from launching import Experiment
from torch import nn

from decentralizepy.graphs.files import write_graph
from decentralizepy.graphs.generators import erdos_renyi, exponential, regular, ring
from decentralizepy.graphs.graph import Graph
from decentralizepy.streams import torch_seed

ITERATIONS, STEPS, BATCH, SEED = 5, 3, 8, 90


def dense_metropolis_hastings(graph: Graph) -> torch.Tensor:
    """W from the definition, with the adjacency matrix."""
    adjacency = torch.zeros(graph.n, graph.n, dtype=torch.float64)
    for u, v in graph.edges:
        adjacency[v, u] = 1
    degree = adjacency.sum(1)
    weights = adjacency / (1 + torch.maximum(degree[:, None], degree[None, :]))
    return weights + torch.diag(1 - weights.sum(1))


def reference(worker, make_model, make_optimizer, graphs: list[Graph]) -> torch.Tensor:
    """Rows [n, P] after `ITERATIONS` of train-then-mix, with one module per node."""
    torch.manual_seed(SEED)
    first = make_model()
    models = [make_model() for _ in range(graphs[0].n)]
    for model in models:
        model.load_state_dict(first.state_dict())
    optimizers = [make_optimizer(model.parameters()) for model in models]
    trainer = worker.trainer
    for t, graph in enumerate(graphs):
        for uid, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            learner = worker.seats[uid].learner
            draw = trainer.training.draw(len(learner.indices), SEED, uid, t)
            torch.manual_seed(torch_seed(SEED, uid, "dropout", t))
            for batch in np.split(learner.indices[draw.order], np.cumsum(draw.sizes)[:-1]):
                stored = trainer.samples.x[batch].float()
                x = (stored * trainer.samples.scale + trainer.samples.shift).permute(0, 3, 1, 2)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x.contiguous()), trainer.samples.y[batch])
                loss.backward()
                optimizer.step()
        _mix(models, dense_metropolis_hastings(graph))
    return torch.stack([_flat(model) for model in models])


def _flat(model: nn.Module) -> torch.Tensor:
    floats = [b for b in model.buffers() if b.is_floating_point()]
    return torch.cat([x.detach().flatten() for x in [*model.parameters(), *floats]])


def _mix(models: list[nn.Module], weights: torch.Tensor) -> None:
    rows = torch.stack([_flat(model) for model in models]).double()
    for model, row in zip(models, (weights @ rows).float(), strict=True):
        floats = [b for b in model.buffers() if b.is_floating_point()]
        start = 0
        for tensor in [*model.parameters(), *floats]:
            tensor.data.copy_(row[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()


OPTIMIZERS = {
    "SGD": ("momentum = 0.9\nweight_decay = 0.001", {"momentum": 0.9, "weight_decay": 0.001}),
    # a large eps: before batch norm a bias has gradients of rounding noise, which Adam scales up
    "Adam": ("eps = 0.01", {"eps": 0.01}),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ["Everything", "MLP"])
def test_the_engine_is_train_then_dense_mixing(
    model: str, optimizer: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, options = OPTIMIZERS[optimizer]
    package = "everything" if model == "Everything" else "decentralizepy.models.digits"
    graph = erdos_renyi(7, 0.5, 1)
    assert not graph.is_regular()
    experiment = Experiment(
        tmp_path, graph, cache, model_package=package, model=model,
        optimizer=optimizer, optimizer_options=text,
    )  # fmt: skip
    worker = build(experiment, ITERATIONS, "-ta", "0", "-tea", "0")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("everything", None)
    factory = getattr(importlib.import_module(package), model)

    def make_optimizer(parameters):
        return getattr(torch.optim, optimizer)(parameters, lr=0.05, **options)

    expected = reference(worker, factory, make_optimizer, [graph] * ITERATIONS)
    worker.run()
    rows = torch.stack([worker.seats[uid].node.x for uid in range(graph.n)])
    torch.testing.assert_close(rows, expected, rtol=2e-4, atol=2e-5)
    wrong = reference(worker, factory, make_optimizer, [Graph(graph.n, [])] * ITERATIONS)
    assert (rows - wrong).abs().max() > 0.01, "the check would see that nothing was mixed"


def test_dynamic_graphs_are_those_of_the_reference_system(tmp_path: Path, cache: Path) -> None:
    """Iteration t mixes over the random regular graph of seed random_seed * 100000 + t."""
    from decentralizepy.models.digits import MLP

    experiment = Experiment(tmp_path, regular(8, 3, 0), cache, node="graph_degree = 3")
    more = ("--eval_file", "testingPeerSamplerDynamic.py", "-ta", "0", "-tea", "0")
    worker = build(experiment, ITERATIONS, *more)
    graphs = [regular(8, 3, SEED * 100_000 + t) for t in range(ITERATIONS)]

    def make_optimizer(parameters):
        return torch.optim.SGD(parameters, lr=0.05)

    expected = reference(worker, MLP, make_optimizer, graphs)
    worker.run()
    rows = torch.stack([worker.seats[uid].node.x for uid in range(8)])
    torch.testing.assert_close(rows, expected, rtol=2e-4, atol=2e-5)


def test_plain_averaging_over_one_way_edges(tmp_path: Path, cache: Path) -> None:
    """On a directed graph a node averages those that it hears, and mixing alone is the product."""
    graph = exponential(6)
    assert not graph.is_symmetric()
    experiment = Experiment(
        tmp_path, ring(6), cache, sharing="PlainAverageSharing",
        sharing_package="decentralizepy.sharing.PlainAverageSharing",
    )  # fmt: skip
    ini = tmp_path / "config.ini"
    ini.write_text(ini.read_text().replace("lr = 0.05", "lr = 0.0"))
    write_graph(graph, tmp_path / "graph.adj")
    more = ("-gf", str(tmp_path / "graph.adj"), "-gt", "adjacency", "-ta", "0", "-tea", "0")
    worker = build(experiment, 4, *more)
    generator = torch.Generator().manual_seed(0)
    for seat in worker.seats.values():
        seat.node.x = torch.randn(len(seat.node.x), generator=generator)
    start = torch.stack([seat.node.x for seat in worker.seats.values()]).double()
    worker.run()
    end = torch.stack([seat.node.x for seat in worker.seats.values()]).double()
    hears = torch.from_numpy(graph.adjacency()).double() + torch.eye(6).double()
    power = torch.linalg.matrix_power(hears / hears.sum(1, keepdim=True), 4)
    torch.testing.assert_close(end, power @ start, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(end, power.T @ start, atol=1e-2)


def test_gossip_keeps_the_mean_and_reaches_consensus(tmp_path: Path, cache: Path) -> None:
    """With a learning rate of 0 only mixing is left: all rows stay the common start."""
    experiment = Experiment(tmp_path, erdos_renyi(9, 0.4, 2), cache)
    ini = tmp_path / "config.ini"
    ini.write_text(ini.read_text().replace("lr = 0.05", "lr = 0.0"))
    worker = build(experiment, 30, "-ta", "0", "-tea", "0")
    generator = torch.Generator().manual_seed(0)
    for seat in worker.seats.values():
        seat.node.x = torch.randn(len(seat.node.x), generator=generator)
    start = torch.stack([seat.node.x for seat in worker.seats.values()]).double()
    worker.run()
    end = torch.stack([seat.node.x for seat in worker.seats.values()]).double()
    torch.testing.assert_close(end.mean(0), start.mean(0), rtol=0, atol=5e-6)
    assert (end - end.mean(0)).norm() < 0.05 * (start - start.mean(0)).norm()
    power = torch.linalg.matrix_power(dense_metropolis_hastings(experiment.graph), 30)
    torch.testing.assert_close(end, power @ start, rtol=1e-4, atol=1e-5)
