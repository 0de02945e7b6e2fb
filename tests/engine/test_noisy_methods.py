"""Methods with noise, and chunks of virtual nodes: the same bits in every arrangement."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from launching import Experiment, digests
from teams import Team

from decentralizepy import run_here
from decentralizepy.errors import ConfigError
from decentralizepy.graphs.generators import erdos_renyi
from decentralizepy.graphs.graph import Graph

NODES, ITERATIONS, HALF = 6, 4, 2
GRAPH = erdos_renyi(NODES, 0.6, 1)
METHODS: dict[str, dict[str, str]] = {
    "zero_sum": {"sharing_package": "decentralizepy.sharing.ZeroSumSharing",
                 "sharing": "ZeroSumSharing\nnoise_std = 0.1\nself_noise = True"},
    "zero_sum_packed": {"sharing_package": "decentralizepy.sharing.ZeroSumSharing",
                        "sharing": "ZeroSumSharing\nnoise_std = 0.1\n"
                                   "compression = error_feedback + fp16"},
    "muffliato": {"sharing_package": "decentralizepy.sharing.Muffliato",
                  "sharing": "Muffliato\nnoise_std = 0.1\naccelerated = True"},
    "anti_cor": {"sharing_package": "decentralizepy.sharing.AntiCorSharing",
                 "sharing": "AntiCorSharing\nnoise_std = 0.1"},
    "noise_part": {"sharing": "Sharing\ncompression = gaussian(std=0.1) + top_k(alpha=0.3)"},
    "shatter": {"node": "node_package = decentralizepy.node.shatter\nnode_class = Shatter\n"
                        "vnodes_per_node = 3\ngraph_degree = 4"},
}  # fmt: skip
MODEL = """\
from torch import nn


class Normed(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10)
        )
"""


def normed(folder: Path, cache: Path, **options: str) -> Experiment:
    """An experiment whose rows end with buffers. Teams are threads, which share the generator that
    dropout draws from, so there is none."""
    model = {"model_package": "normed", "model": "Normed", "rounds": "1"}
    made = Experiment(folder, GRAPH, cache, **model, **options)
    (folder / "normed.py").write_text(MODEL)
    return made


@pytest.mark.parametrize("name", METHODS)
def test_noise_is_the_same_everywhere(name: str, tmp_path: Path, cache: Path) -> None:
    """On one worker, on four, on two machines, and resumed; of a model with BatchNorm."""
    one = normed(tmp_path, cache, **METHODS[name])
    flags = ("--digests", "-ta", "0", "-tea", "0", "-as", "2")
    found = {}
    for layout in (1,), (4,), (1, 1):
        folder = "-".join(map(str, layout))
        Team(one, ITERATIONS, *flags, layout=layout, name=folder).run()
        found[folder] = digests(one.folder / folder)
    assert len(found["1"]) == ITERATIONS * NODES
    assert found["4"] == found["1"] == found["1-1"]
    for iterations in HALF + 1, ITERATIONS:
        run_here(
            one.folder / "config.ini", GRAPH, iterations, averaging_rounds=2, digests=True,
            log_dir=one.folder / "half" / "machine0", checkpoint_after=HALF, test_after=0,
            train_evaluate_after=0, cache_dir=cache, resume=iterations == ITERATIONS,
            reset_optimizer=0,
        )  # fmt: skip
    assert digests(one.folder / "half") == found["1"]


def test_noise_depends_on_the_seed_of_the_run_and_on_its_own(tmp_path: Path, cache: Path) -> None:
    ini = Experiment(tmp_path, GRAPH, cache, **METHODS["anti_cor"]).folder / "config.ini"
    text = ini.read_text()
    rows = []
    for seed, own in ((90, 421), (90, 421), (91, 421), (90, 422)):
        changed = text.replace("random_seed = 90", f"random_seed = {seed}")
        changed = changed.replace("noise_std = 0.1", f"noise_std = 0.1\nsharing_seed = {own}")
        rows.append(run_here(changed, GRAPH, 1, test_after=0, cache_dir=cache).rows[0])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[3])


def test_one_neighbour_is_refused_before_anything_is_trained(tmp_path: Path, cache: Path) -> None:
    options = METHODS["zero_sum"]["sharing"].replace("\nself_noise = True", "")
    one = Experiment(tmp_path, GRAPH, cache, **METHODS["zero_sum"] | {"sharing": options})
    path = Graph.undirected(3, [(0, 1), (1, 2)])
    ini = (one.folder / "config.ini").read_text()
    with pytest.raises(ConfigError, match=r"node 0 has one neighbour: .* self_noise = True"):
        run_here(ini, path, 1, test_after=0, cache_dir=cache)
    run_here(ini.replace("0.1", "0"), path, 1, test_after=0, cache_dir=cache)
    run_here(
        ini.replace("= 0.1", "= 0.1\nself_noise = True"), path, 1, test_after=0, cache_dir=cache
    )
    with pytest.raises(ConfigError, match=r"noise_std = -1.0: a standard deviation"):
        run_here(ini.replace("= 0.1", "= -1"), path, 1, test_after=0, cache_dir=cache)


def test_virtual_nodes_need_a_degree_that_they_can_have(tmp_path: Path, cache: Path) -> None:
    one = Experiment(tmp_path, GRAPH, cache, **METHODS["shatter"])
    ini = (one.folder / "config.ini").read_text()
    for wrong in "graph_degree = 18", "graph_degree = -1":
        with pytest.raises(ConfigError):
            run_here(ini.replace("graph_degree = 4", wrong), GRAPH, 1, cache_dir=cache)
