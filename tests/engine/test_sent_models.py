"""Models that are kept for attacks: as their receivers get them, in the reference's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from decentralizepy import Message, Sharing, run_here
from decentralizepy.config import parse_experiment
from decentralizepy.datasets.digits import Digits
from decentralizepy.datasets.experiment import prepared_dataset
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.graphs.generators import regular, star
from decentralizepy.here import Outcome
from decentralizepy.models.digits import MLP
from decentralizepy.overrides import read_changed
from decentralizepy.saving import Saving
from decentralizepy.training.sample_losses import flat_state, row_of_state
from decentralizepy.training.template import Template
from results.attacks.world import Victims

INI = Path("run_configuration/digits_kshard2_mlp.ini").read_text()
LENGTH = 4810


class Noisy(Sharing):
    """Says something else to each receiver, and remembers what."""

    said: dict[tuple[int, int, int], Tensor]

    def outgoing(self, x, ctx):
        for peer in ctx.receivers:
            sent = x + 0.1 * (1 + peer)
            self.said[ctx.t + 1, ctx.uid, peer] = sent
            yield [peer], self.pack(sent, ctx)


def _run(folder: Path, keys: str, sharing: type[Sharing] = Sharing, **options: object) -> Outcome:
    return run_here(
        f"{INI}{keys}",
        regular(6, 3, 1),
        5,
        sharing=sharing,
        log_dir=folder,
        test_after=0,
        **options,
    )


def _saved(folder: Path) -> dict[str, np.ndarray]:
    root = folder / "attacked_model"
    return {str(path.relative_to(root)): np.load(path) for path in root.rglob("*.npy")}


def _name(t: int, uid: int, target: int) -> str:
    return f"machine0/{uid}/model_it{t}_{uid}_to{target}.npy"


def test_what_the_first_receiver_gets_is_kept(tmp_path: Path) -> None:
    Noisy.said = {}
    _run(tmp_path, "save_models_for_attacks = 2\n", Noisy)
    found = _saved(tmp_path)
    first = {uid: min(regular(6, 3, 1).out_neighbors(uid)) for uid in range(6)}
    assert found.keys() == {
        f"machine0/{uid}/model_it{t}_{uid}_to{first[uid]}.npy"
        for uid in range(6)
        for t in (1, 2, 4)
    }
    for name, values in found.items():
        t, uid, target = (int("".join(filter(str.isdigit, part))) for part in
                          name.split("model_it")[1].split("_"))  # fmt: skip
        assert values.dtype == np.float32
        assert np.array_equal(values, Noisy.said[t, uid, target].numpy())


def test_distortion_is_noted(tmp_path: Path) -> None:
    Noisy.said = {}
    _run(tmp_path, "save_models_for_attacks = 100\n", Noisy)
    lines = (tmp_path / "attacked_model/sent_0.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        sent = Noisy.said[1, line["uid"], line["target"]].double()
        own = sent - 0.1 * (1 + line["target"])
        assert line["error"] == pytest.approx(float((sent - own).norm() / own.norm()), rel=1e-4)
        assert line["snr_db"] == pytest.approx(-20 * np.log10(line["error"]), rel=1e-4)
    assert len(lines) == 6


def test_losses_are_those_of_the_models(tmp_path: Path) -> None:
    for form in ("models", "losses"):
        keys = f"save_models_for_attacks = 5\nsave_for_attacks_as = {form}\n"
        _run(tmp_path / form, keys + "save_all_models = False\nnb_models_to_save = 2\n")
    models, losses = _saved(tmp_path / "models"), _saved(tmp_path / "losses")
    assert len(models) == len(losses) == 4
    data = Digits()
    data.prepare(tmp_path / "cache")
    x = np.concatenate([data.train().x, data.test().x]).astype(np.float32) / 16
    y = np.concatenate([data.train().y, data.test().y]).astype(np.int64)
    for name, row in models.items():
        model = MLP()
        torch.nn.utils.vector_to_parameters(torch.from_numpy(row), model.parameters())
        with torch.no_grad():
            output = model(torch.from_numpy(x).permute(0, 3, 1, 2))
        expected = functional.cross_entropy(output, torch.from_numpy(y), reduction="none")
        np.testing.assert_allclose(
            losses[name.replace("model_it", "losses_it")], expected.numpy(), rtol=1e-4, atol=1e-5
        )


def test_several_targets(tmp_path: Path) -> None:
    Noisy.said = {}
    _run(tmp_path, "save_models_for_attacks = 9\nnb_targets_to_save = 2\n", Noisy)
    targets = {uid: regular(6, 3, 1).out_neighbors(uid)[:2] for uid in range(6)}
    assert _saved(tmp_path).keys() == {
        f"machine0/{uid}/model_it1_{uid}_to{target}.npy"
        for uid in range(6)
        for target in targets[uid]
    }


def test_only_the_first_averaging_round_and_no_model_by_default(tmp_path: Path) -> None:
    _run(tmp_path / "none", "")
    assert not (tmp_path / "none/attacked_model").exists()
    Noisy.said = {}
    _run(tmp_path / "rounds", "save_models_for_attacks = 9\n", Noisy, averaging_rounds=2)
    assert len(_saved(tmp_path / "rounds")) == 6


COOLING = '''\
"""A model whose outputs grow with a count of its own, and lose what a mask hides."""
import torch

from decentralizepy.models.digits import MLP


class Cooling(MLP):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("mask", torch.ones(2, 5).bool())

    def forward(self, x):
        if self.training:
            self.steps += 1
            self.mask[1, 1:3] = False
        return super().forward(x) * (1 + self.steps) * self.mask.flatten()
'''


def test_losses_are_those_of_the_nodes_own_counts(tmp_path: Path) -> None:
    """Whether they are taken in the run, or of its models later."""
    (tmp_path / "cooling.py").write_text(COOLING)
    ini, keys = tmp_path / "config.ini", "save_models_for_attacks = 5\nsave_for_attacks_as = {}\n"
    model = ["DATASET.model_package=cooling", "DATASET.model_class=Cooling"]
    for form in ("models", "losses"):
        ini.write_text(INI + keys.format(form))
        run_here(ini, regular(6, 3, 1), 5, log_dir=tmp_path / form, test_after=0, set=model)
    models, losses = _saved(tmp_path / "models"), _saved(tmp_path / "losses")
    experiment = read_changed(ini, model)
    victims = Victims(experiment, prepared_dataset(experiment, tmp_path / "cache"))
    for name, state in models.items():
        assert state[0] > 0 and state[1:11].sum() == 8, "buffers of the model itself come first"
        found = victims.losses(state)
        assert np.allclose(
            losses[name.replace("model_it", "losses_it")], found, rtol=1e-4, atol=1e-4
        )
        state[0] = 0
        assert not np.allclose(victims.losses(state), found, rtol=1e-2)


class Half(Sharing):
    """Sends half of its model under another name."""

    def outgoing(self, x, ctx):
        yield ctx.receivers, Message({"half": x[: len(x) // 2]})

    def merge(self, x, heard, ctx):
        return x


def test_what_is_no_whole_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="save_models_for_attacks cannot save what node 0 sends"):
        _run(tmp_path, "save_models_for_attacks = 1\n", Half)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("save_for_attacks_as = pictures\n", "models or losses"),
        ("nb_models_to_save = 0\n", "at least 1"),
        ("save_models_for_attacks = often\n", "save_models_for_attacks"),
    ],
)
def test_wrong_keys_are_named(keys: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_experiment(INI + keys, Path("x.ini"))


def test_the_references_keys() -> None:
    keys = "save_models_for_attacks = 100\nsave_all_models = False\nnb_models_to_save = 10\n"
    saving = parse_experiment(INI + keys, Path("x.ini")).saving
    assert saving == Saving(100, 10)
    assert [t for t in range(300) if saving.due(9, t)] == [0, 99, 199, 299]
    assert not saving.due(10, 0)


class Counting(torch.nn.Module):
    """Buffers between the parameters, and one that is an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(2, 3, 3),
            torch.nn.BatchNorm2d(3),
            torch.nn.Flatten(),
            torch.nn.Linear(3, 2),
        )


def test_a_state_is_flattened_in_its_own_order() -> None:
    model = Counting()
    expected = torch.cat([value.float().flatten() for value in model.state_dict().values()])
    template = Template(model)
    row = template.initial.clone()
    assert torch.equal(flat_state(template, row), expected)
    found, counters = row_of_state(template, expected)
    assert torch.equal(found, row) and counters == [0]
    with pytest.raises(ValueError, match="not the"):
        row_of_state(template, expected[1:])


@pytest.mark.parametrize("shape", [(0,), (3,)])
def test_losses_of_single_samples_are_those_of_batches_of_one(shape: Sequence[int]) -> None:
    from decentralizepy.training.task import Classification, LanguageModel, Rating, Task

    n = shape[0]
    torch.manual_seed(0)
    logits, labels = torch.randn(n, 5), torch.randint(0, 5, (n,))
    tokens, text = torch.randn(n, 4, 7), torch.randint(0, 7, (n, 4))
    cases: list[tuple[Task, Tensor, Tensor]] = [
        (Classification(), logits, labels),
        (Classification(torch.nn.CrossEntropyLoss(label_smoothing=0.1)), logits, labels),
        (LanguageModel(), tokens, text),
        (Rating(), torch.randn(n, 1), torch.rand(n)),
        (Rating(torch.nn.L1Loss()), torch.randn(n, 1), torch.rand(n)),
    ]
    for task, output, target in cases:
        found = task.losses(output, target)
        assert found.shape == (n,)
        for i in range(n):
            alone = task.loss(output[i : i + 1], target[i : i + 1])
            torch.testing.assert_close(found[i], alone)


def test_a_star_and_a_server_are_no_trouble(tmp_path: Path) -> None:
    run_here(INI + "save_models_for_attacks = 1\n", star(4), 2, log_dir=tmp_path, test_after=0)
    assert len(_saved(tmp_path)) == 8
