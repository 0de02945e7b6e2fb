"""INIs, drivers and classes of the reference system: run as they are, or say what is missing."""

from pathlib import Path

import core_examples as examples
import pytest

from decentralizepy import reference
from decentralizepy.commands.convert import convert
from decentralizepy.config import parse_experiment, read_experiment
from decentralizepy.drivers import DRIVERS, driver
from decentralizepy.errors import ConfigError
from decentralizepy.registry import fact, legacy, target

#: the reference's driver scripts
SCRIPTS = [
    "testing.py",
    "testingManual.py",
    "testingPeerSampler.py",
    "testingPeerSamplerDynamic.py",
    "testingPeerSamplerDynamicManual.py",
    "testingFederated.py",
    "testingSTC.py",
    "testingKNN.py",
    "testingKFN.py",
    "testingEL_Oracle.py",
    "testingEL_Local.py",
    "testingPeerSamplerMultipleAvgRounds.py",
    "testingPeerSamplerDynamicMultipleAvgRounds.py",
    "testingPeerSamplerMultipleAvgRoundsDropout.py",
]


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("form", ["{}.py", "{}", "eval/{}.py", "/somewhere/eval/{}"])
def test_every_driver_is_here(name, form):
    assert driver(form.format(name.removesuffix(".py"))) == DRIVERS[name]


def test_dynamic_drivers_are_dynamic():
    for name in SCRIPTS:
        if name in DRIVERS:
            fixed = fact(DRIVERS[name].schedule, "fixed", False)
            assert fixed != any(word in name for word in ("Dynamic", "Oracle", "EL_Local"))


@pytest.mark.parametrize("module", sorted(set(reference.MODULES) - set(legacy())))
def test_a_class_that_is_not_here_is_named(module):
    with pytest.raises(ConfigError) as caught:
        target(module, reference.MODULES[module])
    said = str(caught.value)
    assert f"{reference.MODULES[module]} ({module})" in said and "not in this version yet" in said
    assert "beside the INI" not in said


def test_it_is_named_with_its_section():
    module = "decentralizepy.communication.TCP_ACK"
    said = examples.refusal(COMMUNICATION__comm_package=module)
    assert f"small.ini: [COMMUNICATION] TCP ({module})" in said
    said = examples.refusal(SHARING__sharing_package="decentralizepy.sharing.PlainAverage")
    assert "no module decentralizepy.sharing.PlainAverage" in said and "did you mean" in said


#: as the reference's own files are written: every key that classes of ours have a say in
REFERENCE_INI = """\
# comments of both kinds, capitals, blanks around = or none
[DATASET]
dataset_package = decentralizepy.datasets.CIFAR10
dataset_class = CIFAR10
model_class = LeNet
train_dir = /datasets/CIFAR
test_dir = /datasets/CIFAR
; python list of fractions below
sizes = [0.25, 0.25, 0.5] ; of the training set
random_seed=90
partition_niid = dirichlet
alpha = 0.1 ; alpha (dirichlet parameter)
shards = 2
test_batch_size = 256

[OPTIMIZER_PARAMS]
optimizer_package = torch.optim
optimizer_class = SGD
lr = 1e-3 ; gamma
momentum = 0.9

[NODE]
graph_degree = 7 ; s (number of neighbours)
timeout = 1
dropout_rate = 0.25
dropout_correlation = 0.1

[TRAIN_PARAMS]
training_package = decentralizepy.training.Training
training_class = Training
rounds = 10 ; r
full_epochs = False
batch_size = 5
shuffle = True
loss_package = torch.nn
loss_class = CrossEntropyLoss

[SHARING]
sharing_package = decentralizepy.sharing.PlainAverageSharing ; no Metropolis-Hastings
sharing_class = PlainAverageSharing
compress = False
compression_package = decentralizepy.compression.Elias
compression_class = Elias
float_precision = 16
#TODO: something

# at the end, since a script may add an offset to it
[COMMUNICATION]
comm_package = decentralizepy.communication.TCP
comm_class = TCP
addresses_filepath = /ip.json
offset = 9000
recv_timeout = 50
"""


#: data set, model, optimizer's lr, loss and further keys of [DATASET], as the reference's files
#: of each data set have them
DATA = [
    ("Celeba", "CNN", "0.001", "CrossEntropyLoss",
     {"images_dir": "/mnt/nfs/shared/leaf/data/celeba/data/raw/img_align_celeba"}),
    ("Shakespeare", "LSTM", "0.1", "CrossEntropyLoss", {}),
    ("Reddit", "RNN", "0.001", "CrossEntropyLoss", {"random_seed": "97"}),
    ("MovieLens", "MatrixFactorization", "0.075", "MSELoss", {}),
    ("Femnist", "CNN", "0.01", "CrossEntropyLoss", {"random_seed": "97"}),
    ("FemnistLabelSplit", "RNET", "0.05", "CrossEntropyLoss",
     {"random_seed": "90", "test_batch_size": "64"}),
    ("CIFAR10", "LeNet", "0.01", "CrossEntropyLoss",
     {"random_seed": "99", "partition_niid": "True", "shards": "4",
      "validation_source": "Test", "validation_size": "0.1"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "model", "lr", "loss", "more"), DATA, ids=lambda v: str(v)[:12])
def test_the_files_of_each_data_set_run_as_they_are(name, model, lr, loss, more, tmp_path):
    keys = {"train_dir": "/datasets/train", "test_dir": "/datasets/test", "sizes": "", **more}
    head = [f"dataset_package = decentralizepy.datasets.{name}", f"dataset_class = {name}"]
    lines = [*head, f"model_class = {model}", *(f"{key} = {value}" for key, value in keys.items())]
    rest = REFERENCE_INI[REFERENCE_INI.index("[OPTIMIZER_PARAMS]") :]
    text = "[DATASET]\n" + "\n".join(lines) + "\n\n" + rest.replace("CrossEntropyLoss", loss)
    path = tmp_path / "theirs.ini"
    path.write_text(text.replace("lr = 1e-3", f"lr = {lr}"))
    found = read_experiment(path)
    data = found.dataset.build()
    assert data.train_dir == "/datasets/train" and data.sizes is None
    assert found.model.target.module == f"decentralizepy.models.{name.lower()}".replace(
        "femnistlabelsplit", "femnist"
    )
    lines, _ = convert(path)
    assert {line.verdict for line in lines} <= {"as is", "ignored", "changed", "default"}


def parse(text):
    return parse_experiment(text, Path("their.ini"))


def test_an_ini_of_the_reference_runs_as_it_is():
    found = parse(REFERENCE_INI)
    assert found.dataset.options["sizes"] == [0.25, 0.25, 0.5]
    assert found.dataset.options["alpha"] == 0.1 and found.seed == 90
    assert found.optimizer.options == {"lr": 0.001, "momentum": 0.9}
    assert found.training.options["rounds"] == 10 and found.node.graph_degree == 7
    assert found.addresses_filepath == "/ip.json" and found.offset == 9000
    assert found.sharing.target.name == "PlainAverageSharing" and not found.sharing.options


def test_what_is_off_may_stand_there_and_what_is_on_is_named():
    for (section, key), (off, feature) in reference.OFF.items():
        for value in off or {"7"}:
            assert reference.is_off(section, key, value.title())
        if off is not None:
            assert not reference.is_off(section, key, "7")
            assert reference.feature(section, key) == feature


def test_compression_of_the_reference_is_taken_when_it_is_on():
    found = parse(REFERENCE_INI.replace("compress = False", "compress = True"))
    (chain,) = found.compression
    assert chain.target.name == "Elias" and chain.options == {"float_precision": 16}
    assert not parse(REFERENCE_INI).compression


def test_a_class_of_ones_own_is_asked_for_its_options_alone(tmp_path):
    (tmp_path / "my_method_plain.py").write_text("class Mine:\n    def __init__(self): ...\n")
    said = examples.refusal(
        tmp_path / "a.ini",
        SHARING__sharing_package="my_method_plain",
        SHARING__sharing_class="Mine",
        SHARING__compress="False",
    )
    assert "Mine has no option 'compress'" in said


#: sections of sharing methods as the reference's own files have them
SHARING = {
    "PartialModel": "alpha = 0.5\naccumulation = True\ndict_ordered = True\nsave_shared = False",
    "SubSampling": "alpha = 0.3\npickle = True\nlayerwise = False",
    "Choco": "step_size = 0.5\nalpha = 0.1\ncompress = False",
    "STC": "alpha = 0.1\ndict_ordered = True",
    "SharingAsymmetric": "save_models_for_attacks = 100\nsave_all_models = False\n"
    "nb_models_to_save = 10",
    "JWINS.FFT": "alpha = 0.1\nchange_based_selection = True\naccumulation = True",
    "JWINS.Wavelet": "change_based_selection = True\nalpha = 0.5\nwavelet=sym2\nlevel= 4\n"
    "accumulation = True\nsave_accumulated =",
    "JWINS.JWINS": "change_based_selection = True\n"
    "alpha_list = [0.1,0.15,0.2,0.25,0.3,0.4,1.0]\nwavelet=sym2\nlevel= 4\n"
    "accumulation = True\naccumulate_averaging_changes = True\nmetadata_cap = 0.5\n"
    "compression_package = decentralizepy.compression.EliasFpzip\n"
    "compression_class = EliasFpzip\ncompress = True",
}


@pytest.mark.parametrize("module", SHARING)
def test_sections_of_sharing_methods_run_as_they_are(module):
    text = REFERENCE_INI[: REFERENCE_INI.index("[SHARING]")] + (
        f"[SHARING]\nsharing_package = decentralizepy.sharing.{module}\n"
        f"sharing_class = {module.split('.')[-1]}\n{SHARING[module]}\n"
    )
    text += REFERENCE_INI[REFERENCE_INI.index("# at the end") :]
    found = parse(text)
    built = found.sharing.build()
    assert type(built).__name__ == module.split(".")[-1]
    assert len(found.compression) == ("compress = True" in text)
    if module == "JWINS.JWINS":
        assert built.alpha_list == [0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 1.0]
