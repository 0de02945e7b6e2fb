"""Attacks on tables of losses whose answers are known, and on a run made on the spot."""

from __future__ import annotations

import math
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import nn

from decentralizepy.graphs.files import write_graph
from decentralizepy.graphs.generators import ring
from results.attacks import all_of_them as a
from results.attacks.alike import alike
from results.attacks.classifier import Learning, Perceptron, _models, fit
from results.attacks.lira import against, confidence
from results.attacks.losstable import LossTable
from results.attacks.saved import Saved
from results.attacks.world import Truth
from results.cli import main

#: six nodes with 30 samples each, 100 test samples, 3 classes
NODES, OWN, TESTED = 6, 30, 100


@pytest.fixture
def truth() -> Truth:
    order = np.random.default_rng(0).permutation(NODES * OWN)
    labels = np.random.default_rng(1).integers(0, 3, NODES * OWN + TESTED)
    return Truth([np.sort(part) for part in np.split(order, NODES)], NODES * OWN, TESTED, labels)


def table(losses: np.ndarray, targets: int = 1) -> LossTable:
    """One model per node and iteration 1, 2, ...: losses [iterations, nodes, samples]."""
    saved = [
        Saved(t + 1, uid, (uid + 1 + target) % NODES, True, Path(f"{t}_{uid}"))
        for t in range(len(losses))
        for uid in range(losses.shape[1])
        for target in range(targets)
    ]
    return LossTable(saved, losses.reshape(-1, losses.shape[2]).astype(np.float32))


def overfitted(truth: Truth, by: float, times: int = 1) -> np.ndarray:
    """Exponential losses, those of a node's own samples divided by 1 + ``by``."""
    rng = np.random.default_rng(2)
    losses = rng.exponential(1, (times, NODES, truth.samples))
    for uid, members in enumerate(truth.members):
        losses[:, uid, members] /= 1 + by
    return losses


def test_threshold_is_a_plain_recomputation(truth: Truth) -> None:
    losses = overfitted(truth, 3.0)
    frame = a.threshold(truth, table(losses))
    for row in frame.itertuples():
        own = truth.members[row.agent]
        at = np.concatenate([own, truth.tested])
        member = np.isin(at, own)
        values = losses[0, row.agent, at].astype(np.float32)
        assert row.roc_auc == pytest.approx(roc_auc_score(member, -values))
        assert row.gini_auc == pytest.approx(2 * row.roc_auc - 1)
        ranks = stats.ks_2samp(values[member], values[~member]).statistic
        assert row.attacker_advantage == pytest.approx(ranks)  # sup |TPR - FPR|
        gap = values[~member].mean() - values[member].mean()
        assert row.generalization_gap == pytest.approx(gap, rel=1e-5)
        for label in range(3):
            of = truth.labels[at] == label
            expected = roc_auc_score(member[of], -values[of])
            assert frame.loc[row.Index, f"roc_auc_class{label}"] == pytest.approx(expected)
    # closed form: P(X / 4 < Y) of two exponentials
    assert frame["roc_auc"].mean() == pytest.approx(4 / 5, abs=0.05)
    assert frame["roc_auc_balanced"].mean() == pytest.approx(4 / 5, abs=0.05)


def test_labels_alone_give_a_pooled_auc_and_none_within(truth: Truth) -> None:
    losses = np.tile(truth.labels.astype(float), (1, NODES, 1))
    skewed = Truth([np.flatnonzero(truth.labels[:180] == uid % 3) for uid in range(NODES)],
                   180, TESTED, truth.labels)  # fmt: skip
    frame = a.threshold(skewed, table(losses))
    assert frame.loc[0, "roc_auc"] > 0.8
    assert frame["roc_auc_within"].to_list() == [0.5] * NODES
    assert frame["attacker_advantage"].min() > 0.3
    assert frame["attacker_advantage_niid"].max() < 0.1


def test_top_k_counts_members_among_the_least_lost(truth: Truth) -> None:
    losses = overfitted(truth, 3.0)
    frame = a.topk(truth, table(losses))
    own = truth.members[0]
    at = np.concatenate([own, truth.tested])
    first = at[np.argsort(losses[0, 0, at].astype(np.float32))]
    for k in (1, 5, 10, 100):
        assert frame.loc[0, f"top{k}_acc"] == pytest.approx(np.isin(first[:k], own).mean())
    assert math.isnan(frame.loc[0, "top500_acc"])  # of 130 samples
    flat = a.topk(truth, table(np.ones((1, NODES, truth.samples))))
    assert flat.loc[0, "top10_acc"] == pytest.approx(OWN / (OWN + TESTED))
    bad = a.topk(truth, table(np.full((1, NODES, truth.samples), np.nan)))
    assert math.isnan(bad.loc[0, "top10_acc"])


def test_linkability(truth: Truth) -> None:
    frame = a.linkability(truth, table(overfitted(truth, 3.0)))
    assert frame["linkability_top1"].to_list() == [1] * NODES
    assert frame["linkability_top1_guess"].to_list() == [*range(NODES)]
    losses = overfitted(truth, 3.0)
    expected = losses[0, 2, truth.members[4]].astype(np.float32).mean()
    assert frame.loc[2, "loss_trainset_4"] == pytest.approx(expected, rel=1e-5)
    swapped = a.linkability(truth, table(losses[:, ::-1]))
    assert not swapped["linkability_top1"].any()
    diverged = a.linkability(truth, table(np.full((1, NODES, truth.samples), np.nan)))
    assert set(diverged["linkability_top1"]) == {0}
    assert set(diverged["linkability_top1_guess"]) == {-1}


def test_lira_sees_what_a_threshold_does_not(truth: Truth) -> None:
    """Some samples are hard for all: only against other models do members stand out."""
    rng = np.random.default_rng(3)
    losses = np.exp(rng.normal(0, 2, truth.samples) + rng.normal(0, 0.1, (1, NODES, truth.samples)))
    for uid, members in enumerate(truth.members):
        losses[:, uid, members] *= 0.7
    simple, ratio = a.threshold(truth, table(losses)), a.lira(truth, table(losses))
    assert simple["roc_auc"].mean() < 0.65
    assert ratio["roc_auc"].mean() > 0.9
    assert set(ratio["shadows"]) == {NODES - 1}
    assert a.lira(truth, table(losses[:, :2])).empty


def test_lira_is_carlinis_formula() -> None:
    p = np.array([0.1, 0.5, 0.999])
    np.testing.assert_allclose(confidence(-np.log(p)), np.log(p / (1 - p)), rtol=1e-9)
    assert np.isfinite(confidence(np.array([0.0, np.inf, np.nan, 1e30]))).all()
    scores = np.random.default_rng(0).normal(size=(40, 5))
    others = scores[1:]
    expected = (scores[0] - others.mean(0)) / others.std(0, ddof=1)
    np.testing.assert_allclose(against(scores, 0), expected, rtol=1e-6)


def test_attributes_follow_the_losses_of_classes() -> None:
    labels = np.tile(np.arange(10), 20)
    members = [np.flatnonzero(labels[:100] % 5 == uid) for uid in range(5)]
    truth = Truth(members, 100, 100, labels)
    losses = np.stack([1.0 + (labels % 5 != uid) for uid in range(5)])[None]
    frame = a.attribute(truth, LossTable(table(losses).saved, losses[0]))
    assert frame["attribute_auc"].to_list() == [1.0] * 5
    assert frame["attribute_top"].to_list() == [1.0] * 5
    assert frame["attribute_correlation"].to_list() == pytest.approx([1.0] * 5)
    with pytest.raises(ValueError, match="needs classes"):
        a.attribute(Truth(members, 100, 100), table(losses))


def test_the_classifier_learns_trajectories_that_end_alike(truth: Truth) -> None:
    """Members' losses fall early: the last model tells nothing, the whole path does."""
    rng, times = np.random.default_rng(4), 8
    losses = rng.exponential(1, (times, NODES, truth.samples))
    for uid, members in enumerate(truth.members):
        losses[:-1, uid, members] *= 0.4
    learning = Learning(epochs=60, batch=32)
    last = a.threshold(truth, table(losses))
    assert abs(last[last["iteration"] == times]["roc_auc"].mean() - 0.5) < 0.1
    pairs = table(losses[:, :2])
    frame = a.classifier(truth, pairs, ("all", "last"), ("global", "local_train"), learning)
    assert len(frame) == 2 * 4
    whole = frame[frame["attacked_information"] == "all"]
    assert whole["roc_auc"].mean() > 0.8
    assert set(frame["models"]) == {8, 5}
    again = a.classifier(truth, pairs, ("all", "last"), ("global", "local_train"), learning)
    pd.testing.assert_frame_equal(frame, again)


def test_the_classifier_takes_the_steps_of_autograd_and_torchs_sgd() -> None:
    rng = np.random.default_rng(5)
    x, y = torch.from_numpy(rng.normal(size=(90, 6)).astype(np.float32)), torch.arange(90) % 5 // 4
    learning, orders = (
        Learning(epochs=3, batch=32),
        [torch.Generator().manual_seed(7) for _ in "ab"],
    )
    torch.manual_seed(1)
    ours = Perceptron(6)
    torch.manual_seed(1)
    layers = [nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2)]
    model = nn.Sequential(*layers)
    assert torch.equal(ours.outputs(x)[-1], model(x))
    fit(ours, x, y, learning, orders[0])
    loss = nn.CrossEntropyLoss(weight=len(y) / (2 * torch.bincount(y)))
    sgd = torch.optim.SGD(model.parameters(), lr=learning.lr, momentum=learning.momentum)
    for _ in range(learning.epochs):
        for batch in torch.randperm(90, generator=orders[1]).split(learning.batch):
            sgd.zero_grad()
            loss(model(x[batch]), y[batch]).backward()
            sgd.step()
    torch.testing.assert_close(ours.outputs(x)[-1], model(x), rtol=1e-5, atol=1e-6)


def test_which_models_and_non_members(truth: Truth) -> None:
    assert [len(range(9)[_models(part, 9)]) for part in ("all", "first", "middle", "last")] == [
        9, 5, 5, 5
    ]  # fmt: skip
    assert [len(range(3)[_models(part, 3)]) for part in ("all", "first", "middle", "last")] == [
        3
    ] * 4
    own = truth.members[0]
    chosen = alike(truth.labels, truth.tested, own, 1)
    shares = [np.bincount(truth.labels[at], minlength=3) / len(at) for at in (chosen, own)]
    np.testing.assert_allclose(*shares, atol=0.05)
    assert np.isin(chosen, truth.tested).all()


# ----------------------------------------------------------------------- on real runs

NOISY_LABELS = '''
from decentralizepy.datasets.digits import Digits
import numpy as np


class Relabelled(Digits):
    """Digits of which half have a label drawn at random: they can only be learned by heart."""

    def identity(self):
        return [*super().identity(), "relabelled"]

    def build(self, progress):
        found = dict(super().build(progress))
        rng = np.random.default_rng(0)
        for part in ("train_y", "test_y"):
            labels = found[part].copy()
            wrong = rng.random(len(labels)) < 0.5
            labels[wrong] = rng.integers(0, 10, wrong.sum())
            found[part] = labels
        return found
'''
NOISE = '''
import torch
from decentralizepy import Sharing


class Loud(Sharing):
    """Sends the model with noise as large as itself, and averages the models without."""

    def outgoing(self, x, ctx):
        rng = torch.Generator().manual_seed(int(ctx.generator.integers(1 << 62)))
        yield ctx.receivers, self.pack(x + 2.0 * torch.randn(x.shape, generator=rng), ctx)

    def merge(self, x, heard, ctx):
        return x
'''


def _run(folder: Path, method: str, keys: str = "") -> Path:
    """Four nodes that learn by heart; returns the run folder."""
    folder.mkdir()
    (folder / "relabelled.py").write_text(NOISY_LABELS)
    (folder / "loud.py").write_text(NOISE)
    text = Path("run_configuration/digits_kshard2_mlp.ini").read_text()
    for old, new in {
        "dataset_package = decentralizepy.datasets.Digits": "dataset_package = relabelled",
        "dataset_class = Digits": "dataset_class = Relabelled\nmodel_package = "
        "decentralizepy.models.digits",
        "partition_niid = kshard\nshards = 2": "partition_niid = iid",
        "lr = 0.05": "lr = 0.3",
        "rounds = 3": "rounds = 100",
        "batch_size = 8": "batch_size = 32",
        "sharing_package = decentralizepy.sharing.Sharing\nsharing_class = Sharing": method,
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "experiment.ini").write_text(f"{text}save_models_for_attacks = 20\n{keys}")
    write_graph(ring(4), folder / "ring.edges")
    command = [
        "run", "-cf", str(folder / "experiment.ini"), "-gf", str(folder / "ring.edges"),
        "-is", "40", "-ta", "0", "-ld", str(folder / "run/machine0"), "--workers", "1",
        "--cache-dir", str(folder.parent / "cache"),
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "decentralizepy", *command], check=True)
    return folder / "run"


def _attack(run: Path, *flags: str) -> Path:
    assert main(["attack", str(run), "--cache-dir", str(run.parents[1] / "cache"), *flags]) == 0
    return run / "attacks"


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("heart")
    plain = "sharing_package = decentralizepy.sharing.Sharing\nsharing_class = Sharing"
    return _run(root / "plain", plain, "nb_targets_to_save = 2\n")


def test_an_overfitted_model_tells_and_a_noised_one_does_not(by_heart: Path) -> None:
    loud = _run(by_heart.parents[1] / "loud", "sharing_package = loud\nsharing_class = Loud")
    means = []
    for run in (by_heart, loud):
        frame = pd.read_csv(_attack(run, "--attacks", "threshold") / "threshold_run.csv")
        means.append(frame[frame["iteration"] == 40]["roc_auc"].mean())
    assert means[0] >= 0.70
    assert means[1] <= 0.55


def test_losses_tell_what_models_tell(by_heart: Path) -> None:
    plain = "sharing_package = decentralizepy.sharing.Sharing\nsharing_class = Sharing"
    keys = "save_for_attacks_as = losses\nnb_targets_to_save = 2\n"
    small = _run(by_heart.parents[1] / "losses", plain, keys)
    frames = [
        pd.read_csv(_attack(run, "--attacks", "threshold", "linkability") / f"{name}_run.csv")
        for run in (by_heart, small)
        for name in ("threshold", "linkability")
    ]
    pd.testing.assert_frame_equal(frames[0], frames[2], rtol=1e-5)
    pd.testing.assert_frame_equal(frames[1], frames[3], rtol=1e-5)


def test_all_attacks_write_their_tables(by_heart: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["threshold", "biasedthreshold", "linkability", "lira", "reconstruction", "classifier",
             "colluders", "attribute"]  # fmt: skip
    folder = _attack(by_heart, "--attacks", *names, "--epochs", "3")
    frames = {name: pd.read_csv(folder / f"{name}_run.csv") for name in names}
    assert len(frames["threshold"]) == 4 * 3 * 2  # nodes, iterations, targets
    assert len(frames["colluders"]) == 4 * 3
    assert set(frames["colluders"]["colluders"]) == {2}
    assert frames["reconstruction"]["reconstruction_error"].max() == 0
    said = capsys.readouterr().out
    assert "24 saved models of 4 nodes" in said
    assert all(f"{name}_run.csv" in said for name in names)


def test_a_table_of_losses_is_made_once(by_heart: Path) -> None:
    made = _attack(by_heart) / "losses.npy"
    before = made.stat().st_mtime_ns
    _attack(by_heart)
    assert made.stat().st_mtime_ns == before
    model = next(by_heart.rglob("model_it1_0_*.npy"))
    model.touch()
    _attack(by_heart)
    assert made.stat().st_mtime_ns != before


def test_a_threshold_needs_no_losses_of_strangers(by_heart: Path) -> None:
    folder = by_heart / "attacks"
    _attack(by_heart, "--attacks", "threshold", "lira")
    whole, of_all = np.load(folder / "losses.npy"), pd.read_csv(folder / "threshold_run.csv")
    made = (folder / "losses.npy").stat().st_mtime_ns
    _attack(by_heart, "--attacks", "threshold")  # finds more than it needs
    assert (folder / "losses.npy").stat().st_mtime_ns == made
    (folder / "losses.json").unlink()
    _attack(by_heart, "--attacks", "threshold", "biasedthreshold", "classifier", "--epochs", "1")
    own = np.load(folder / "losses.npy")
    assert 0.3 < np.isnan(own).mean() < 0.7  # three nodes of four have no part in the test
    np.testing.assert_allclose(own[~np.isnan(own)], whole[~np.isnan(own)], rtol=1e-5, atol=1e-7)
    pd.testing.assert_frame_equal(of_all, pd.read_csv(folder / "threshold_run.csv"), rtol=1e-5)
    _attack(by_heart, "--attacks", "classifier", "--non-members", "local_train", "--epochs", "1")
    assert not np.isnan(np.load(folder / "losses.npy")).any()


def test_a_bundle_redraws_figures_of_losses_without_models(
    by_heart: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _attack(by_heart, "--attacks", "threshold")
    cache = str(by_heart.parents[1] / "cache")
    more = f"losses --node 2 --iterations 20 --name two --cache-dir {cache} --run run"
    flags = ["--output", str(tmp_path / "paper.tar.gz"), "--figure", more]
    assert main(["bundle", str(by_heart), *flags[:2], "--figure", "roc --run other"]) == 2
    assert "no such run; there are run" in capsys.readouterr().err
    assert main(["bundle", str(by_heart), *flags]) == 0
    with tarfile.open(tmp_path / "paper.tar.gz") as tar:
        tar.extractall(tmp_path / "elsewhere", filter="data")
    folder = tmp_path / "elsewhere/paper"
    assert cache not in (folder / "commands.json").read_text()
    assert not list(folder.rglob("model_*"))
    command = [sys.executable, "-I", str(folder / "redraw.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0 and "all the same" in done.stdout, done.stderr + done.stdout
    for name in ("roc", "losses", "two"):
        assert (folder / f"redrawn/figures/{name}.pdf").is_file()
    assert main(["figure", "losses", str(folder / "runs/run"), "--node", "1"]) == 2
    assert "no such model of node 1" in capsys.readouterr().err


def test_what_cannot_be_attacked_is_told(
    by_heart: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "machine0").mkdir()
    assert main(["attack", str(tmp_path)]) == 2
    assert "save_models_for_attacks" in capsys.readouterr().err
    cache = str(by_heart.parents[1] / "cache")
    assert main(["attack", str(by_heart), str(tmp_path), "--cache-dir", cache]) == 6
    assert "left out" in capsys.readouterr().err
    model = next(by_heart.rglob("model_it20_1_*.npy"))
    whole = model.read_bytes()
    for damaged, said in ((whole[:200], "cannot be read"), (b"", "cannot be read")):
        model.write_bytes(damaged)
        assert main(["attack", str(by_heart), "--cache-dir", cache]) == 2
        error = capsys.readouterr().err
        assert said in error and model.name in error
    np.save(model, np.zeros(7, dtype=np.float32))
    assert main(["attack", str(by_heart), "--cache-dir", cache]) == 2
    assert "not the 4810" in capsys.readouterr().err
    model.write_bytes(whole)
    assert main(["attack", str(by_heart), "--cache-dir", cache]) == 0
