"""Methods with noise: buffers and compression in every arrangement, seeds, and what is refused."""

from __future__ import annotations

import copy
import re
import weakref
from pathlib import Path

import cifar10_files
import femnist_files
import pytest
import torch
from launching import Experiment, digests
from teams import Team

from decentralizepy import Message, Sharing, run_here
from decentralizepy.errors import ConfigError
from decentralizepy.graphs.generators import erdos_renyi, regular
from decentralizepy.graphs.graph import Graph

SHIPPED = Path(__file__).resolve().parents[2] / "run_configuration"
NODES, ITERATIONS, HALF = 6, 4, 2
GRAPH = erdos_renyi(NODES, 0.6, 1)
METHODS: dict[str, dict[str, str]] = {
    "zero_sum": {"sharing_package": "decentralizepy.sharing.ZeroSumSharing",
                 "sharing": "ZeroSumSharing\nnoise_std = 0.1\nself_noise = True"},
    "zero_sum_packed": {"sharing_package": "decentralizepy.sharing.ZeroSumSharing",
                        "sharing": "ZeroSumSharing\nnoise_std = 0.1\n"
                                   "compression = error_feedback + fp16"},
    "anti_cor": {"sharing_package": "decentralizepy.sharing.AntiCorSharing",
                 "sharing": "AntiCorSharing\nnoise_std = 0.1"},
    "noise_part": {"sharing": "Sharing\ncompression = gaussian(std=0.1) + top_k(alpha=0.3)"},
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


class Watched(Sharing):
    """Counts the rows of its deferred messages that are in memory whenever one is made."""

    together = looks = False

    def __init__(self) -> None:
        self.made: list[weakref.ref[torch.Tensor]] = []
        self.alive: list[int] = []

    def outgoing(self, x, ctx):
        for peers in [ctx.receivers] if self.together else [[peer] for peer in ctx.receivers]:
            yield peers, Message.deferred(lambda: {"params": self.said(x)}, {"params": x})

    def said(self, x):
        row = x + 1
        self.made.append(weakref.ref(row))
        self.alive.append(sum(ref() is not None for ref in self.made))
        return row

    def merge(self, x, heard, ctx):
        if self.looks:
            assert all(message["params"] is message["params"] for message in heard), "not kept"
        return super().merge(x, heard, ctx)


@pytest.mark.parametrize(
    ("said", "made", "alive"), [("one by one", 5, 1), ("looks", 5, 6), ("together", 1, 8)]
)
def test_deferred_messages_are_let_go_once_they_are_merged(
    said: str, made: int, alive: int, cache: Path
) -> None:
    """What one node hears is made as it is added, unless its merge has looked at it before; a
    message that several hear is made once. Nothing is held until the next round."""
    watched = Watched()
    watched.together, watched.looks = said == "together", said == "looks"  # copies share the lists
    ini = SHIPPED / "digits_kshard2_mlp.ini"
    run_here(ini, regular(8, 5, 0), 2, sharing=lambda: copy.copy(watched), test_after=0,
             train_evaluate_after=0, cache_dir=cache)  # fmt: skip
    assert len(watched.made) == 2 * 8 * made
    assert max(watched.alive) <= alive


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


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("mia_config_*.ini")))
def test_the_files_for_attacks_run(name: str, tmp_path: Path, cache: Path) -> None:
    """On made data in the true format; ten nodes' models, noise included, are kept."""
    if "cifar10" in name:
        train = test = cifar10_files.write_folder(tmp_path / "data", 40).parent
    else:
        train = femnist_files.per_user(tmp_path / "train", [6] * 4)
        test = femnist_files.write(tmp_path / "test", {"all.json": {"u": 12}}, "test")
    text = (SHIPPED / f"{name}.ini").read_text()
    for key, folder in ("train_dir", train), ("test_dir", test):
        text = re.sub(f"{key} = .*", f"{key} = {folder}", text)
    text = re.sub("batch_size = .*", "batch_size = 2", text)
    out = run_here(text, regular(4, 2, 0), 2, test_after=2, cache_dir=cache, averaging_rounds=2,
                   train_evaluate_after=0, log_dir=tmp_path / "machine0")  # fmt: skip
    assert {row["uid"] for row in out.records if "test_acc" in row} == set(range(4))
    kept = list((tmp_path / "machine0").rglob("model_it1_*.npy"))
    assert len(kept) == 4


def test_noise_cancels_where_others_drop_out(tmp_path: Path, cache: Path) -> None:
    """Most are away, so that some have one neighbour: then they are targets themselves."""
    ini = Experiment(tmp_path, GRAPH, cache, **METHODS["zero_sum"]).folder / "config.ini"
    away = "node_package = decentralizepy.node.dropout\nnode_class = Dropout\n"
    text = ini.read_text().replace("self_noise = True", "").replace("lr = 0.05", "lr = 0.0")
    text = text.replace("[NODE]", f"[NODE]\n{away}dropout_rate = 0.6\ndropout_correlation = 0.1")
    found = run_here(text, regular(8, 5, 0), 12, test_after=0, cache_dir=cache)
    rows = torch.stack([found.rows[uid] for uid in range(8)]).double()
    start = run_here(text, regular(8, 5, 0), 0, test_after=0, cache_dir=cache).rows[0].double()
    assert (rows - start).abs().max() > 0.05
    torch.testing.assert_close(rows.mean(0), start, rtol=0, atol=1e-5)


def test_virtual_nodes_need_a_degree_that_they_can_have(tmp_path: Path, cache: Path) -> None:
    one = Experiment(
        tmp_path,
        GRAPH,
        cache,
        node=(
            "node_package = decentralizepy.node.shatter\nnode_class = Shatter\n"
            "vnodes_per_node = 3\ngraph_degree = 4"
        ),
    )
    ini = (one.folder / "config.ini").read_text()
    for wrong in "graph_degree = 18", "graph_degree = -1":
        with pytest.raises(ConfigError):
            run_here(ini.replace("graph_degree = 4", wrong), GRAPH, 1, cache_dir=cache)
