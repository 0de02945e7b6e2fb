"""INIs as the reference system's own: each family of data set, method and driver really runs.

The texts are put together from tables of sections, with the reference's packages, classes, keys
and values. They run as they are, but for the folder of the data, which holds generated files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from small_files import WRITERS, Keys

from decentralizepy import run_here
from decentralizepy.config import read_experiment
from decentralizepy.errors import ConfigError
from decentralizepy.graphs.generators import fully_connected, ring

#: class of a data set -> model, learning rate, loss, seed, further keys, keys of training
DATA: Mapping[str, tuple[str, str, str, str, str, str]] = {
    "CIFAR10": ("LeNet", "0.001", "CrossEntropyLoss", "99",
                "partition_niid = True\nshards = 4\nvalidation_source = Test\n"
                "validation_size = 0.1", "rounds = 2\nfull_epochs = False\nbatch_size = 8"),
    "Femnist": ("CNN", "0.001", "CrossEntropyLoss", "97", "",
                "rounds = 2\nfull_epochs = False\nbatch_size = 16"),
    "FemnistLabelSplit": ("RNET", "0.05", "CrossEntropyLoss", "90", "test_batch_size = 64",
                          "rounds = 1\nfull_epochs = False\nbatch_size = 5"),
    "Celeba": ("CNN", "0.001", "CrossEntropyLoss", "97", "",
               "rounds = 2\nfull_epochs = False\nbatch_size = 16"),
    "Shakespeare": ("LSTM", "0.1", "CrossEntropyLoss", "97", "",
                    "rounds = 1\nfull_epochs = False\nbatch_size = 5"),
    "Reddit": ("RNN", "0.001", "CrossEntropyLoss", "97", "",
               "rounds = 1\nfull_epochs = False\nbatch_size = 16"),
    "MovieLens": ("MatrixFactorization", "0.075", "MSELoss", "90", "",
                  "rounds = 1\nfull_epochs = True\nbatch_size = 32"),
    "AmazonReview": ("BERT", "0.05", "CrossEntropyLoss", "90", "",
                     "rounds = 1\nfull_epochs = False\nbatch_size = 8"),
}  # fmt: skip

#: data sets of text -> modules of the data set and of its training
TEXTS = {"AmazonReview": ("text.AmazonReview", "text.LLMTraining")}

_ATTACKED = "save_models_for_attacks = 100\nsave_all_models = False\nnb_models_to_save = 10"
_JWINS = """change_based_selection = True
alpha_list = [0.1,0.15,0.2,0.25,0.3,0.4,1.0]
wavelet=sym2
level= 4
accumulation = True
accumulate_averaging_changes = True
metadata_cap = 0.5
compress = True
compression_package = decentralizepy.compression.EliasFpzip
compression_class = EliasFpzip"""
_PART = "alpha = 0.1\naccumulation = True\ndict_ordered = True\nsave_shared = False\n"
#: family -> module below decentralizepy.sharing, and its options
METHODS: Mapping[str, tuple[str, str]] = {
    "full": ("Sharing", ""),
    "plain": ("PlainAverageSharing", "compress = False"),
    "subsampling": ("SubSampling", "alpha = 0.1\nlayerwise = False\npickle = True\n"
                    "metadata_cap = 1.0"),
    "topk": ("PartialModel", f"{_PART}metadata_cap = 1.0\nsave_accumulated = "),
    "topk elias": ("PartialModel", f"{_PART}compress = True\n"
                   "compression_package = decentralizepy.compression.Elias\n"
                   "compression_class = Elias"),
    "topk quantized": ("PartialModel", f"{_PART}compress = True\nfloat_precision = 1000\n"
                       "compression_package = decentralizepy.compression.EliasQuantization\n"
                       "compression_class = EliasQuantization"),
    "topk lz4": ("PartialModel", f"{_PART}compress = True\n"
                 "compression_package = decentralizepy.compression.Lz4Wrapper\n"
                 "compression_class = Lz4Wrapper"),
    "fft": ("JWINS.FFT", "alpha = 0.1\nchange_based_selection = True\naccumulation = True"),
    "wavelet": ("JWINS.Wavelet", "alpha = 0.1\nwavelet=sym2\nlevel= 4\nsave_accumulated ="),
    "jwins": ("JWINS.JWINS", _JWINS),
    "choco": ("Choco", "step_size = 0.5\nalpha = 0.1"),
    "stc": ("STC", "alpha = 0.1\ndict_ordered = True\ncompress = True\nfloat_precision = 8\n"
            "compression_package = decentralizepy.compression.EliasFpzipLossy\n"
            "compression_class = EliasFpzipLossy"),
    "baseline": ("SharingAsymmetric", _ATTACKED),
    "zerosum": ("ZeroSumSharing", f"{_ATTACKED}\nnoise_std = 0.05625 # 4th\n"
                "self_noise = True\nsharing_seed = 421"),
    "muffliato": ("Muffliato", f"{_ATTACKED}\nnoise_std = 0.003515625 ; 64th\n"
                  "sharing_seed = 421"),
    "anticor": ("AntiCorSharing", f"{_ATTACKED}\nnoise_std = 0.001757813"),
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A data set, a method and a driver; with flags, or keys in place of those of the table."""

    data: str
    method: str
    driver: str = "testing.py"
    node: str = ""
    flags: Mapping[str, int | float] = field(default_factory=dict)
    keys: str = ""

    def __str__(self) -> str:
        return "-".join([self.data, self.method, self.driver.removesuffix(".py"), self.keys[-12:]])


FAMILIES = [
    *(Family("CIFAR10", method) for method in METHODS if method != "stc"),
    *(Family("CIFAR10", "full", keys=keys) for keys in (
        "partition_niid = dirichlet\nalpha = 0.1", "partition_niid = iid",
        "partition_niid = False\ntest_batch_size = 256", "partition_niid = kshard\nshards = 2")),
    *(Family(data, method) for data, method in (
        ("Celeba", "full"), ("Celeba", "subsampling"), ("Femnist", "full"), ("Femnist", "topk"),
        ("Reddit", "wavelet"), ("Shakespeare", "full"), ("Shakespeare", "topk"),
        ("FemnistLabelSplit", "muffliato"), ("FemnistLabelSplit", "zerosum"),
        ("MovieLens", "baseline"), ("MovieLens", "zerosum"), ("MovieLens", "muffliato"))),
    Family("AmazonReview", "full"),
    Family("CIFAR10", "full", "testingManual.py"),
    Family("CIFAR10", "full", "testingPeerSampler.py"),
    Family("CIFAR10", "full", "testingPeerSamplerDynamic.py", "graph_degree = 2"),
    Family("CIFAR10", "full", "testingPeerSamplerDynamicManual.py", "graph_degree = 2"),
    Family("CIFAR10", "full", "testingFederated.py", flags={"working_rate": 0.5}),
    Family("MovieLens", "baseline", "testingFederated.py"),
    Family("MovieLens", "stc", "testingSTC.py"),
    Family("CIFAR10", "stc", "testingSTC.py"),
    Family("CIFAR10", "stc", "testingSTC.py", flags={"working_rate": 0.5}),
    Family("CIFAR10", "full", "testingKNN.py"),
    Family("CIFAR10", "full", "testingKFN.py"),
    Family("CIFAR10", "plain", "tutorial/EpidemicLearning/testingEL_Oracle.py",
           "graph_degree = 2 ; s (number of neighbours)"),
    Family("CIFAR10", "plain", "tutorial/EpidemicLearning/testingEL_Local.py",
           "graph_degree = 2 ; s (number of neighbours)"),
    *(Family("CIFAR10", method, "testingPeerSamplerMultipleAvgRounds.py",
             flags={"averaging_rounds": 3}) for method in ("zerosum", "muffliato")),
    Family("CIFAR10", "zerosum", "testingPeerSamplerDynamicMultipleAvgRounds.py",
           "graph_degree = 2", {"averaging_rounds": 2}),
    Family("CIFAR10", "zerosum", "testingPeerSamplerMultipleAvgRoundsDropout.py",
           "dropout_rate = 0.25\ndropout_correlation = 0.1", {"averaging_rounds": 2}),
]  # fmt: skip

TEXT = """\
# comments of both kinds, blanks around = or none
[DATASET]
dataset_package = decentralizepy.datasets.{module}
dataset_class = {data}
model_class = {model}
{folders}
; python list of fractions below
sizes =
random_seed={seed}
{keys}

[OPTIMIZER_PARAMS]
optimizer_package = torch.optim
optimizer_class = SGD
lr = {lr} ; gamma

# There are 12 samples
[TRAIN_PARAMS]
training_package = decentralizepy.training.{trainer}
training_class = {training_class}
{training}
shuffle = True
loss_package = torch.nn
loss_class = {loss}

[COMMUNICATION]
comm_package = decentralizepy.communication.TCP
comm_class = TCP
addresses_filepath = /mnt/nfs/shared/eval/ip.json
{communication}
[SHARING]
sharing_package = decentralizepy.sharing.{method} ; weighting_method METRO|AMNESIA
sharing_class = {name}
{options}

[NODE]
{node}
"""


def text(family: Family, folders: str, communication: str = "") -> str:
    """The INI of a family."""
    model, lr, loss, seed, keys, training = DATA[family.data]
    method, options = METHODS[family.method]
    module, trainer = TEXTS.get(family.data, (family.data, "Training"))
    return TEXT.format(
        module=module, trainer=trainer, training_class=trainer.split(".")[-1],
        data=family.data, model=model, folders=folders, seed=seed, keys=family.keys or keys, lr=lr,
        training=training, loss=loss, communication=communication, method=method,
        name=method.split(".")[-1], options=options, node=family.node,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data() -> dict[str, Keys]:
    """The files that were written so far: class of a data set -> keys that lead to them."""
    return {}


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_family_runs_as_it_is(
    family: Family, data: dict[str, Keys], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if family.data not in data:
        data[family.data] = WRITERS[family.data](tmp_path_factory.mktemp(family.data))
    found = data[family.data]
    mine = {key: value for key, value in found.items() if key.startswith("DATASET.")}
    folders = "\n".join(f"{key.removeprefix('DATASET.')} = {v}" for key, v in mine.items())
    path = tmp_path_factory.mktemp("ini") / "Their_Config.ini"
    path.write_text(text(family, folders, "offset = 9100\nrecv_timeout = 50\n"))
    graph = fully_connected(4) if "EL_" in family.driver else ring(4)
    outcome = run_here(
        path, graph, 2, eval_file=family.driver, test_after=2, train_evaluate_after=0,
        reset_optimizer=0, cache_dir=tmp_path_factory.getbasetemp() / "cache", **family.flags,
        set=[f"{key}={v}" for key, v in found.items() if key not in mine],
    )  # fmt: skip
    losses = [row["test_loss"] for row in outcome.records if "test_loss" in row]
    assert len(losses) >= 1 and all(math.isfinite(loss) for loss in losses)
    if "Federated" not in family.driver and "STC" not in family.driver:
        assert {row["uid"] for row in outcome.records} == set(range(4))


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("method", METHODS)
def test_every_pair_is_understood(name: str, method: str, tmp_path: Path) -> None:
    folders = "train_dir = /mnt/nfs/shared/leaf/train\ntest_dir = /mnt/nfs/shared/leaf/test"
    more = "\nimages_dir = /mnt/nfs/shared/leaf/raw" if name == "Celeba" else ""
    path = tmp_path / "theirs.ini"
    path.write_text(text(Family(name, method), folders + more))
    found = read_experiment(path)
    module, _ = METHODS[method]
    assert type(found.sharing.build()).__name__ == module.split(".")[-1]
    assert found.seed == int(DATA[name][3])


def test_a_misspelt_key_is_named_with_the_one_that_is_meant(tmp_path: Path) -> None:
    """One file of the reference says ``shard``: it never ran there either."""
    path = tmp_path / "theirs.ini"
    family = Family("CIFAR10", "full", keys="partition_niid = kshard\nshard = 2")
    path.write_text(text(family, "train_dir = /datasets/CIFAR"))
    with pytest.raises(ConfigError, match=r"shard.*did you mean.*shards"):
        read_experiment(path)
