"""Networks for LEAF's other sets, MovieLens, pretrained texts and data of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_files import bert
from torch import Tensor, nn
from torch.nn import functional as F

from decentralizepy.errors import ConfigError
from decentralizepy.models import amazon_review, celeba, movielens, own, reddit, resnet, shakespeare
from decentralizepy.models.pretrained import NextToken, TextClassifier


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(kind: Any, seed: int = 7, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    found: nn.Module = kind(**options)
    return found


def cells(layers: int, name: str) -> list[str]:
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [f"{name}.{kind}_l{layer}" for layer in range(layers) for kind in kinds]


def linear(*names: str) -> list[str]:
    return [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


NAMES = {
    celeba.CNN: linear("conv1", "conv2", "conv3", "conv4", "fc1"),
    shakespeare.LSTM: ["embedding.weight", *cells(2, "lstm"), *linear("l1")],
    reddit.RNN: ["embedding.weight", *cells(2, "rnn_cells"), *linear("l1", "l2")],
    movielens.MatrixFactorization: ["user_factors.weight", "item_factors.weight"],
}
SIZES = {
    celeba.CNN: 30_242,
    shakespeare.LSTM: 2_683_708,
    reddit.RNN: 4_317_895,
    movielens.MatrixFactorization: 206_680,
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_and_sizes_are_the_references(kind: type[nn.Module]) -> None:
    state = build(kind).state_dict()
    assert list(state) == NAMES[kind]
    assert sum(value.numel() for value in state.values()) == SIZES[kind]


def test_faces_are_judged_as_in_the_textbook() -> None:
    """ReLU first, then pooling: the same bits, forwards and backwards."""
    net, x = build(celeba.CNN), torch.rand(3, 3, 84, 84) * 255

    def textbook(x: Tensor) -> Tensor:
        for k in range(1, 5):
            x = F.max_pool2d(F.relu(net.get_submodule(f"conv{k}")(x)), 2)
        return net.fc1(x.flatten(1))  # type: ignore[operator]

    found = []
    for forward in (net, textbook):
        net.zero_grad()
        loss = F.cross_entropy(forward(x), torch.tensor([0, 1, 1]))
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def lstm(cell: nn.LSTM, x: Tensor) -> tuple[Tensor, Tensor]:
    """Two layers by the equations of Hochreiter and Schmidhuber: all outputs, and the last."""
    for layer in range(2):
        w, u = cell.get_parameter(f"weight_ih_l{layer}"), cell.get_parameter(f"weight_hh_l{layer}")
        b = cell.get_parameter(f"bias_ih_l{layer}") + cell.get_parameter(f"bias_hh_l{layer}")
        h = c = torch.zeros(len(x), cell.hidden_size)
        outputs = []
        for t in range(x.shape[1]):
            i, f, g, o = (x[:, t] @ w.T + h @ u.T + b).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        x = torch.stack(outputs, dim=1)
    return x, h


def test_the_next_letter_by_the_equations() -> None:
    net = build(shakespeare.LSTM)
    x = torch.randint(0, 92, (3, 80))
    with torch.no_grad():
        out, _ = lstm(net.lstm, net.embedding(x))  # type: ignore[arg-type, operator]
        expected = net.l1(out.relu().flatten(1))  # type: ignore[operator]
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


def test_the_next_word_by_the_equations_and_padding_stays_zero() -> None:
    net = build(reddit.RNN)
    x = torch.randint(0, 9_999, (4, 10))
    x[:, 7:] = 0
    _, last = lstm(net.rnn_cells, net.embedding(x))  # type: ignore[arg-type, operator]
    expected = net.l2(net.l1(last).relu())  # type: ignore[operator]
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
    F.cross_entropy(net(x), torch.tensor([1, 2, 3, 4])).backward()
    weight = net.get_parameter("embedding.weight")
    assert weight.grad is not None and not weight.grad[0].any() and not weight[0].any()
    assert weight.grad[x[0, 0]].any()


def test_ratings_are_products_of_factors() -> None:
    net = build(movielens.MatrixFactorization)
    users, films = (
        net.get_parameter("user_factors.weight"),
        net.get_parameter("item_factors.weight"),
    )
    assert users.shape == (610, 20) and films.shape == (9_724, 20)
    for factors in (users, films):
        assert 0.049 < factors.abs().max() <= 0.05 and abs(factors.mean()) < 1e-3
    found = net(torch.tensor([[1, 1], [610, 9_724]]))
    assert torch.allclose(found, torch.stack([users[0] @ films[0], users[-1] @ films[-1]]))


# ------------------------------------------------------------------------ one's own


@pytest.mark.parametrize(("kind", "count"), [(own.LogisticRegression, 39), (own.MLP, 123)])
def test_networks_for_numbers(kind: Any, count: int) -> None:
    options = {} if kind is own.LogisticRegression else {"hidden": 7}
    net = build(kind, inputs=12, classes=3, **options)
    assert sum(p.numel() for p in net.parameters()) == count - (kind is own.MLP) * 8
    assert net(torch.rand(5, 12)).shape == net(torch.rand(5, 3, 2, 2)).shape == (5, 3)


@pytest.mark.parametrize("side", [8, 28, 65])
def test_a_network_for_images_of_any_size(side: int) -> None:
    assert build(own.CNN, classes=4, channels=1)(torch.rand(2, 1, side, side)).shape == (2, 4)


def test_resnet_18_has_torchvisions_names() -> None:
    net = build(resnet.ResNet18)
    names = list(net.state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert names[:6] == ["conv1.weight", *(f"bn1.{kind}" for kind in norm)]
    block = [
        *(f"layer2.0.{layer}" for layer in ("conv1.weight", *(f"bn1.{k}" for k in norm))),
        *(f"layer2.0.{layer}" for layer in ("conv2.weight", *(f"bn2.{k}" for k in norm))),
        "layer2.0.downsample.0.weight", *(f"layer2.0.downsample.1.{k}" for k in norm),
    ]  # fmt: skip
    start = names.index("layer2.0.conv1.weight")
    assert names[start : start + len(block)] == block
    assert names[-2:] == ["fc.weight", "fc.bias"] and len(names) == 122
    assert net.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 1_000)
    assert build(resnet.ResNet18, classes=5)(torch.rand(2, 3, 64, 64)).shape == (2, 5)


# ----------------------------------------------------------------------- pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("bert"))


def test_it_is_the_librarys_own_model(folder: Path) -> None:
    import transformers

    net = build(amazon_review.BERT, folder=str(folder)).eval()
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert list(net.state_dict()) == list(theirs.state_dict()), "no prefix, as in the reference"
    tokens = torch.randint(1, 15, (4, 9))
    assert torch.equal(net(tokens), theirs(input_ids=tokens).logits)
    padded = F.pad(tokens, (0, 5))
    torch.testing.assert_close(net(padded), net(tokens))  # padding is not attended to
    assert not torch.equal(net(padded + (padded == 0)), net(padded))


def test_its_parts_are_trained_and_evaluated(folder: Path) -> None:
    net = build(amazon_review.BERT, folder=str(folder))
    tokens = torch.randint(1, 15, (4, 9))
    assert not torch.equal(net.train()(tokens), net(tokens)), "dropout"
    assert torch.equal(net.eval()(tokens), net(tokens))
    net(tokens).sum().backward()
    assert sum(p.grad is not None for p in net.parameters()) == len(list(net.parameters()))


def test_weights_may_be_drawn_anew_and_classes_differ(folder: Path) -> None:
    saved = build(TextClassifier, folder=str(folder), classes=5)
    drawn = build(TextClassifier, folder=str(folder), classes=5, pretrained=False)
    again = build(TextClassifier, folder=str(folder), classes=5, pretrained=False)
    name = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(saved.get_parameter(name), drawn.get_parameter(name))
    assert torch.equal(drawn.get_parameter(name), again.get_parameter(name)), "torch's seed"
    three = build(TextClassifier, folder=str(folder), classes=3)
    assert torch.equal(saved.get_parameter(name), three.get_parameter(name))
    assert three(torch.ones(2, 4, dtype=torch.int64)).shape == (2, 3)


def test_next_tokens(tmp_path: Path) -> None:
    import transformers

    config = transformers.GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    net = build(NextToken, folder=str(tmp_path)).eval()
    tokens = torch.randint(1, 20, (3, 7))
    logits = net(tokens)
    assert logits.shape == (3, 7, 20)
    changed = tokens.clone()
    changed[:, 5] = tokens[:, 5] % 19 + 1
    torch.testing.assert_close(net(changed)[:, :5], logits[:, :5])  # it sees no later tokens


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (amazon_review.BERT, {}),
        (amazon_review.MobileBERT, {"classifier_activation": False}),
    ],
)
def test_the_published_ones_have_the_size_that_is_said(kind: Any, config: dict[str, Any]) -> None:
    """Their configurations are the library's defaults but for what is named."""
    import transformers

    name = kind.__name__.replace("BERT", "Bert")
    configured = getattr(transformers, f"{name}Config")(num_labels=5, **config)
    with torch.device("meta"):
        net = getattr(transformers, f"{name}ForSequenceClassification")(configured)
    assert sum(p.numel() for p in net.parameters()) == kind.n_parameters
    assert f"{kind.n_parameters:,} parameters" in str(kind.__doc__)


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (str(tmp_path), "nobody/nothing"):
        with pytest.raises(ConfigError, match=r"\[MODEL\] folder = .*neither a folder"):
            TextClassifier(folder=folder, classes=2)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'decentralizepy\[text\]'"):
        TextClassifier(folder="x", classes=2)
