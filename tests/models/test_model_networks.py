"""The networks compute what their textbook forms compute, bit for bit, from the same seeds."""

import inspect
import os
import re
import subprocess
import sys
import textwrap

import pytest
import textbook
import torch
from torch import Tensor, nn

from decentralizepy.models import (
    celeba,
    cifar10,
    digits,
    femnist,
    movielens,
    reddit,
    resnet,
    shakespeare,
)
from decentralizepy.registry import Target, fact

CIFAR = ("CNN", "LeNet", "ResNet8", "ResNet18", "GN_ResNet18")
FEMNIST = ("LogisticRegression", "CNN", "RNET", "GN_RNET")
DIGITS = ("MLP", "DropoutMLP", "CNN")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(model_class: type[nn.Module], seed: int = 7) -> nn.Module:
    torch.manual_seed(seed)
    return model_class()


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    return build(getattr(cifar10, name)), build(getattr(textbook, name))


def femnist_pair(name: str) -> tuple[nn.Module, nn.Module]:
    return build(getattr(femnist, name)), build(getattr(textbook, f"Femnist{name}"))


def batch(count: int, channels: int, side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(count, side, side, channels, generator=generator) * 2 - 1
    return x.permute(0, 3, 1, 2), torch.randint(10, (count,), generator=generator)


def loss_and_gradients(net: nn.Module, x: Tensor, y: Tensor) -> list[Tensor | None]:
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in net.parameters())]


def all_models() -> dict[str, type[nn.Module]]:
    classes = [getattr(cifar10, n) for n in CIFAR] + [getattr(digits, n) for n in DIGITS]
    classes += [getattr(femnist, n) for n in FEMNIST]
    classes += [celeba.CNN, shakespeare.LSTM, reddit.RNN, movielens.MatrixFactorization]
    classes += [resnet.ResNet18]
    return {f"{c.__module__}.{c.__name__}": c for c in classes}


@pytest.mark.parametrize("name", CIFAR)
def test_same_seed_same_names_and_weights_as_the_reference_order(name):
    ours, theirs = pair(name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", CIFAR)
def test_losses_and_gradients_are_bitwise_those_of_the_textbook(name, memory_format):
    count = 8 if name in ("CNN", "LeNet") else 2
    x, y = batch(count, 3, 32)
    nets = [net.to(memory_format=memory_format) for net in pair(name)]
    ours, theirs = (loss_and_gradients(n, x.to(memory_format=memory_format), y) for n in nets)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None and other is None) or torch.equal(mine, other)
    for mine, other in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", FEMNIST)
def test_femnist_networks_are_bitwise_those_of_the_textbook(name):
    ours, theirs = femnist_pair(name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x, y = batch(6, 1, 28)
        nets = [net.to(memory_format=memory_format) for net in (ours, theirs)]
        found = [loss_and_gradients(n, x.to(memory_format=memory_format), y) for n in nets]
        for mine, other in zip(*found, strict=True):
            assert mine is not None and other is not None and torch.equal(mine, other)
        for mine, other in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
            assert torch.equal(mine, other)
    assert ours(x).shape == (6, 62)


BLOCK_NORM = re.compile(r"(layer\d\.\d\.)norm(\d\.)")


@pytest.mark.parametrize("named", ["norm", "bn"])
@pytest.mark.parametrize(
    ("module", "name"),
    [(cifar10, "ResNet8"), (cifar10, "ResNet18"), (cifar10, "GN_ResNet18"), (femnist, "RNET"),
     (femnist, "GN_RNET")],
)  # fmt: skip
def test_saved_weights_of_either_reference_load(module, name, named):
    """The reference system calls the normalizations of blocks ``bn``, its fork ``norm``."""
    net, saved = build(getattr(module, name), seed=1), build(getattr(module, name), seed=2)
    weights = saved.state_dict()
    theirs = {BLOCK_NORM.sub(rf"\g<1>{named}\2", key): value for key, value in weights.items()}
    assert any(f".{named}2." in key for key in theirs)
    net.load_state_dict(theirs)
    assert list(net.state_dict()) == list(weights)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in weights.items())


def test_weights_of_another_network_do_not_load():
    net = build(cifar10.ResNet18)
    both = net.state_dict() | {"layer1.0.bn3.weight": torch.zeros(64)}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*layer1\.0\.bn3\.weight"):
        net.load_state_dict(both)
    missing = {key: value for key, value in net.state_dict().items() if "norm2.bias" not in key}
    with pytest.raises(RuntimeError, match=r"Missing key.*layer1\.0\.norm2\.bias"):
        net.load_state_dict(missing)


def test_the_stages_of_resnet18_see_whole_images():
    """The fork's final network has no max pooling after its first convolution."""
    seen = {}
    net = build(cifar10.GN_ResNet18)
    net.layer1.register_forward_hook(lambda _, x, __: seen.update(layer1=x[0].shape))
    net.layer4.register_forward_hook(lambda _, __, y: seen.update(layer4=y.shape))
    net(batch(2, 3, 32)[0])
    assert seen == {"layer1": (2, 64, 32, 32), "layer4": (2, 512, 4, 4)}


def test_rnet_trains_on_a_batch_of_one_sample():
    """As the last one of an epoch may be; plain batch norm has no statistics of one value."""
    net, plain = femnist_pair("RNET")
    x, y = batch(1, 1, 28)
    before = {name: b.clone() for name, b in net.named_buffers()}
    gradients = loss_and_gradients(net, x, y)
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    changed = {n for n, b in net.named_buffers() if not torch.equal(b, before[n])}
    assert "bn1.running_mean" in changed and not any(n.startswith("layer4.1") for n in changed)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        loss_and_gradients(plain, x, y)


@pytest.mark.parametrize("name", ["CNN", "LeNet"])
def test_ties_in_a_pooling_window_change_nothing(name):
    _, y = batch(4, 3, 32)
    flat = torch.zeros(4, 3, 32, 32)  # every window holds four equal values, above or below 0
    ours, theirs = (loss_and_gradients(net, flat, y) for net in pair(name))
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", ["CNN", "LeNet"])
def test_evaluation_leaves_the_input_alone(name):
    net = build(getattr(cifar10, name)).eval()
    x, _ = batch(4, 3, 32)
    kept = x.clone()
    with torch.inference_mode():
        assert net(x).shape == (4, 10)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", DIGITS)
def test_digits_networks_train(name):
    net = build(getattr(digits, name))
    x, y = batch(16, 1, 8)
    losses = []
    for _ in range(30):
        net.zero_grad()
        losses.append(loss_and_gradients(net, x, y)[0].item())
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.3 * parameter.grad
    assert net(x).shape == (16, 10)
    assert losses[-1] < 0.9 * losses[0]


def test_the_two_mlps_differ_by_dropout_only():
    plain, dropping = build(digits.MLP), build(digits.DropoutMLP)
    x, _ = batch(8, 1, 8)
    for mine, other in zip(plain.parameters(), dropping.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert not torch.equal(plain(x), dropping(x))
    torch.manual_seed(1)
    first = dropping(x)
    torch.manual_seed(1)
    assert torch.equal(first, dropping(x))
    assert torch.equal(plain.eval()(x), dropping.eval()(x))


def test_the_mlp_is_one_sequential_named_layers():
    assert [type(layer) for layer in build(digits.MLP).layers] == [
        nn.Flatten,
        nn.Linear,
        nn.ReLU,
        nn.Linear,
    ]


def test_the_sizes_are_those_of_the_built_models():
    counted = {}
    for name, model_class in all_models().items():
        net = build(model_class)
        floats = [b.numel() for b in net.buffers() if b.is_floating_point()]
        counted[name] = (sum(p.numel() for p in net.parameters()), sum(floats))
    said = {}
    for name in counted:
        found = Target(*name.rsplit(".", 1))
        said[name] = tuple(
            fact(found, key, 0, about="__init__") for key in ("n_parameters", "n_buffers")
        )
        assert fact(found, "evaluate_s", 0.0, about="__init__") > 0
        assert fact(found, "evaluate_s", 0.0) < fact(found, "train_s", 0.0, about="__init__") < 1
    assert counted == said


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("CNN", 62_006),
        ("LeNet", 89_834),
        ("ResNet8", 4_937_729),
        ("ResNet18", 11_198_932),
        ("GN_ResNet18", 11_189_312),
    ],
)
def test_the_whole_state_has_the_reference_systems_size(name, total):
    state = build(getattr(cifar10, name)).state_dict()
    assert sum(value.numel() for value in state.values()) == total


@pytest.mark.parametrize(
    ("name", "trained", "total"),
    [
        ("LogisticRegression", 48_670, 48_670),
        ("CNN", 1_690_046, 1_690_046),
        ("RNET", 2_811_678, 2_816_498),
        ("GN_RNET", 2_811_678, 2_811_678),
    ],
)
def test_femnist_networks_have_the_reference_systems_sizes(name, trained, total):
    net = build(getattr(femnist, name))
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == trained
    assert sum(value.numel() for value in net.state_dict().values()) == total


@pytest.mark.parametrize("model_class", all_models().values(), ids=all_models())
def test_every_model_has_an_evaluation_batch_and_documentation(model_class):
    assert isinstance(model_class.eval_batch, int)
    assert model_class.eval_batch > 0
    assert f"{sum(p.numel() for p in model_class().parameters()):,} parameters" in str(
        inspect.getdoc(model_class)
    )


def test_the_sizes_are_known_without_torch():
    code = """
        import sys
        from decentralizepy.registry import Target, fact
        mlp = Target("decentralizepy.models.digits", "MLP")
        assert fact(mlp, "n_parameters", 0) == 4810
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env={**os.environ})
