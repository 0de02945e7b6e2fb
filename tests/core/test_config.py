"""The INI file: typed, complete, and every mistake named with its file, section and key."""

import string
from pathlib import Path

import core_examples as examples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.config import (
    DEFAULT_OFFSET,
    DEFAULT_SEED,
    SECTIONS,
    Component,
    Experiment,
    models_of,
    parse_experiment,
    read_experiment,
)
from decentralizepy.errors import ConfigError, nearest
from decentralizepy.registry import Target

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = sorted((REPOSITORY / "run_configuration").glob("*.ini"))

REFERENCE_STYLE = """\
# as in the reference's step_configs: capitals, colons, comments everywhere
[DATASET]
DATASET_PACKAGE = decentralizepy.datasets.CIFAR10
dataset_class: CIFAR10
MODEL_CLASS = LeNet
random_seed=99
partition_niid = False   ; uniform
sizes =
alpha = 0.1 ; of the dirichlet
train_dir = /data/cifar#10;x
test_dir =
test_batch_size = 64

[OPTIMIZER_PARAMS]
OPTIMIZER_PACKAGE = torch.optim
OPTIMIZER_CLASS = SGD
LR = 1e-1\t; tuned

[TRAIN_PARAMS]
training_package = decentralizepy.training.Training
training_class = Training
rounds = 3
Full_Epochs = False
batch_size = 8 # small
shuffle = True
loss_package = torch.nn.functional
loss = cross_entropy

[COMMUNICATION]
comm_package = decentralizepy.communication.TCP
comm_class = TCP
addresses_filepath = ip.json
OFFSET = 10000

[SHARING]
sharing_package = decentralizepy.sharing.PlainAverageSharing
sharing_class = PlainAverageSharing

[NODE]
graph_degree = 6
"""


def parse(text, path=Path("small.ini")):
    return parse_experiment(text, path)


def refused(text, path=Path("small.ini")):
    with pytest.raises(ConfigError) as caught:
        parse(text, path)
    return str(caught.value)


# ---------------------------------------------------------------- what is read


def test_everything_is_typed():
    found = examples.read(TRAIN_PARAMS__shuffle="True", OPTIMIZER_PARAMS__momentum="0")
    assert found.seed == 90 and found.path == Path("small.ini") and found.text.startswith("[DATAS")
    assert found.dataset.options == {"random_seed": 90, "partition_niid": "kshard", "shards": 2}
    assert found.model.target.dotted == "decentralizepy.models.digits.MLP"
    assert found.optimizer.options == {"lr": 0.05, "momentum": 0.0}
    assert found.training.options == {"rounds": 3, "batch_size": 8, "shuffle": True}
    assert found.loss.target.dotted == "torch.nn.CrossEntropyLoss" and not found.loss.options
    assert found.sharing.target.dotted == "decentralizepy.sharing.sharing.Sharing"
    assert (found.addresses_filepath, found.offset) == ("ip.json", DEFAULT_OFFSET)
    assert found.node.graph_degree == 4 and found.node.dynamic_avgrounds is False


def test_an_ini_of_the_references_form():
    found = parse(REFERENCE_STYLE)
    assert found.seed == 99 and found.offset == 10000 and found.node.graph_degree == 6
    assert found.dataset.options == {
        "random_seed": 99,
        "partition_niid": False,
        "alpha": 0.1,
        "train_dir": "/data/cifar#10;x",  # a mark without a blank before it is part of the value
        "test_dir": "",
        "test_batch_size": 64,
    }
    assert found.model.target.dotted == "decentralizepy.models.cifar10.LeNet"
    assert found.optimizer.options == {"lr": 0.1}
    assert found.training.options["batch_size"] == 8
    assert found.loss.target.dotted == "torch.nn.functional.cross_entropy"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_right(path):
    assert isinstance(read_experiment(path), Experiment)


def test_there_are_shipped_files():
    assert SHIPPED


def test_empty_values_count_as_absent():
    found = examples.read(
        DATASET__random_seed="",
        DATASET__sizes="",
        COMMUNICATION__offset="",
        COMMUNICATION__addresses_filepath="",
        NODE__graph_degree="",
    )
    assert found.seed == DEFAULT_SEED and "random_seed" not in found.dataset.options
    assert found.offset == DEFAULT_OFFSET and found.node.graph_degree is None
    assert "sizes" not in found.dataset.options


def test_only_the_sections_that_somebody_reads_are_needed():
    text = examples.ini().partition("[NODE]")[0]
    assert parse(text).node.graph_degree is None


def test_lists_and_none():
    found = examples.read(DATASET__sizes="[0.25, 0.75]", NODE__graph_degree="None")
    assert found.dataset.options["sizes"] == [0.25, 0.75] and found.node.graph_degree is None


def test_a_users_module_beside_the_ini(tmp_path):
    (tmp_path / "my_sharing.py").write_text(
        "from decentralizepy.sharing.sharing import Sharing\n"
        "class Mine(Sharing):\n    def __init__(self, *, strength: float = 1.0): ...\n"
    )
    path = tmp_path / "my.ini"
    mine = {"SHARING__sharing_package": "my_sharing", "SHARING__sharing_class": "Mine"}
    path.write_text(examples.ini(**mine, SHARING__strength="2"))
    found = read_experiment(path).sharing
    assert found.options == {"strength": 2.0} and str(tmp_path) in found.target.search
    words = examples.refusal(path, **mine, SHARING__strenght="2")
    assert f"{path}: [SHARING]: Mine has no option 'strenght' (did you mean 'strength'?)" in words


def test_a_users_data_set_brings_its_own_model(tmp_path):
    (tmp_path / "my_data.py").write_text(
        "class Mine:\n    def __init__(self, *, random_seed: int = 0, **kw): ...\nclass Net: ...\n"
    )
    keys = {
        "DATASET__dataset_package": "my_data",
        "DATASET__dataset_class": "Mine",
        "DATASET__shards": None,
        "DATASET__partition_niid": None,
    }
    found = examples.read(tmp_path / "my.ini", **keys, DATASET__model_class="Net")
    assert found.model.target.dotted == "my_data.Net"
    found = examples.read(
        tmp_path / "my.ini", **keys, DATASET__model_package="decentralizepy.models.digits"
    )
    assert found.model.target.dotted == "decentralizepy.models.digits.MLP"
    assert models_of("decentralizepy.datasets.CIFAR10") == "decentralizepy.models.cifar10"


def test_components_are_built_and_say_what_is_wrong():
    made = Component(Target("decentralizepy.config", "NodeOptions"), {"graph_degree": 3})
    assert made.build().graph_degree == 3 and made.build(graph_degree=5).graph_degree == 5
    with pytest.raises(ConfigError, match=r"decentralizepy.config.NodeOptions: .*'degree'"):
        made.build(degree=5)
    with pytest.raises(ConfigError, match=r"digits.Digits: shards = 0 must be at least 1"):
        examples.read(DATASET__shards="0").dataset.build()
    with pytest.raises(ConfigError, match=r"^\[TRAIN_PARAMS\] stacked = maybe"):
        examples.read(TRAIN_PARAMS__stacked="maybe").training.build()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("section", [name for name in SECTIONS if name not in ("NODE", "GRAPH")])
def test_an_unknown_key_is_named_in_every_section(section):
    words = examples.refusal(**{f"{section}__colour": "blue"})
    assert words.startswith(f"small.ini: [{section}]: ") and "has no option 'colour'" in words
    assert "its options: " in words
    assert "has no option 'colour'" in examples.refusal(**{f"{section}__colour": ""})


def test_an_unknown_key_of_node_is_named():
    words = examples.refusal(NODE__graph_degre="4")
    assert "small.ini: [NODE] has no option 'graph_degre' (did you mean 'graph_degree'?)" in words
    assert "dynamic_avgrounds=False" in words


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("DATASET__shard", "shards"),
        ("OPTIMIZER_PARAMS__momentun", "momentum"),
        ("TRAIN_PARAMS__batchsize", "batch_size"),
        ("COMMUNICATION__offsets", "offset"),
        ("NODE__dynamic_avg_rounds", "dynamic_avgrounds"),
    ],
)
def test_the_nearest_key_is_offered(key, near):
    assert f"(did you mean '{near}'?)" in examples.refusal(**{key: "1"})


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("DATASET", "dataset_package"),
        ("DATASET", "dataset_class"),
        ("DATASET", "model_class"),
        ("OPTIMIZER_PARAMS", "optimizer_package"),
        ("OPTIMIZER_PARAMS", "optimizer_class"),
        ("TRAIN_PARAMS", "training_package"),
        ("TRAIN_PARAMS", "training_class"),
        ("TRAIN_PARAMS", "loss_package"),
        ("TRAIN_PARAMS", "loss_class"),
        ("COMMUNICATION", "comm_package"),
        ("COMMUNICATION", "comm_class"),
        ("SHARING", "sharing_package"),
        ("SHARING", "sharing_class"),
    ],
)
def test_missing_keys_are_named(section, key):
    for value in (None, ""):
        words = examples.refusal(**{f"{section}__{key}": value})
        assert f"small.ini: [{section}] needs the key '{key}'" in words


def test_a_misspelt_key_in_place_of_a_needed_one():
    words = examples.refusal(SHARING__sharing_clas="Sharing", SHARING__sharing_class=None)
    assert "needs the key 'sharing_class' (did you mean 'sharing_clas'?)" in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"DATASET__random_seed": "x"}, "[DATASET] random_seed = x: a whole number, at"),
        ({"DATASET__model_class": "MPL"}, "digits has no class MPL (did you mean 'MLP'?)"),
        ({"OPTIMIZER_PARAMS__optimizer_class": "Adm"}, "(did you mean 'Adam'?)"),
        ({"OPTIMIZER_PARAMS__lr": "fast"}, "[OPTIMIZER_PARAMS] lr = fast: float is expected"),
        ({"TRAIN_PARAMS__rounds": "2.5"}, "rounds = 2.5: a whole number is expected"),
        ({"TRAIN_PARAMS__shuffle": "maybe"}, "shuffle = maybe: bool is expected"),
        ({"NODE__graph_degree": "four"}, "[NODE] graph_degree = four: int is expected"),
        ({"SHARING__sharing_package": "my_methd"}, "put my_methd.py beside the INI file"),
        ({"COMMUNICATION__offset": "port"}, "[COMMUNICATION] offset = port: int is expected"),
    ],
)
def test_mistakes_name_section_and_key(changes, words):
    found = examples.refusal(**changes)
    assert words in found and found.startswith("small.ini: [")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "[DATASET] needs the key 'dataset_package'"),
        ("rounds = 3\n", "no section headers"),
        ("[SHARNG]\n", "unknown section [SHARNG] (did you mean 'SHARING'?); known: DATASET, OPT"),
        ("[dataset]\n", "unknown section [dataset] (did you mean 'DATASET'?)"),
        ("[DATASET]\nlonely\n", "small.ini"),
        ("[NODE]\na = 1\nA = 2\n", "option 'a' in section 'NODE' already exists"),
        ("[NODE]\n[NODE]\n", "section 'NODE' already exists"),
    ],
)
def test_files_that_are_no_proper_ini(text, words):
    found = refused(text)
    assert words in found and "small.ini" in found


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere.ini: No such file"):
        read_experiment(tmp_path / "nowhere.ini")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_experiment(tmp_path)
    path = tmp_path / "latin.ini"
    path.write_bytes(examples.ini().encode() + b"; \xe9t\xe9\n")
    with pytest.raises(ConfigError, match=r"latin.ini is not UTF-8 text"):
        read_experiment(path)


def test_a_byte_order_mark_and_dos_line_ends_are_harmless(tmp_path):
    path = tmp_path / "dos.ini"
    path.write_bytes(b"\xef\xbb\xbf" + examples.ini().replace("\n", "\r\n").encode())
    assert read_experiment(path).seed == 90


def test_values_are_never_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = "__import__('pathlib').Path('canary').touch()"
    for key in ("DATASET__sizes", "DATASET__random_seed", "NODE__graph_degree", "SHARING__x"):
        examples.refusal(**{key: call})
    examples.refusal(SHARING__sharing_package=call)
    assert examples.read(DATASET__train_dir=call).dataset.options["train_dir"] == call
    assert examples.read(DATASET__train_dir="%(home)s").dataset.options["train_dir"] == "%(home)s"
    assert not list(tmp_path.iterdir())


def test_a_users_module_is_not_run_by_reading_it(tmp_path):
    (tmp_path / "mine_canary.py").write_text(
        f"open({str(tmp_path / 'canary')!r}, 'w')\nclass Mine: ...\n"
    )
    keys = {"SHARING__sharing_package": "mine_canary", "SHARING__sharing_class": "Mine"}
    assert examples.read(tmp_path / "x.ini", **keys).sharing.options == {}
    assert not (tmp_path / "canary").exists()


# ---------------------------------------------------------------- any text

KEYS = [(section, key) for section, keys in examples.SECTIONS.items() for key in keys]
KEYS += [("DATASET", "sizes"), ("DATASET", "alpha"), ("DATASET", "model_package"), ("NODE", "")]
WORDS = [value for keys in examples.SECTIONS.values() for value in keys.values()]
NASTY = [
    "/",
    "..",
    "a" * 5000,
    "{[]: 1}",
    "9" * 400,
    "-" * 3000,
    "[0.5, 0.5]",
    "True",
    "None",
    "%(x)s",
]
pieces = st.one_of(
    st.sampled_from(NASTY),
    st.text(max_size=12),
    st.text(alphabet="[](){}'\"\\-+0123456789.,ejxTrueNone\0/", max_size=20),
    st.sampled_from(WORDS),
)


@given(st.sampled_from(KEYS), pieces)
@settings(max_examples=400)
def test_any_value_of_any_key_is_read_or_refused(where, value):
    section, key = where
    _read_or_refuse(examples.ini(**{f"{section}__{key or value.replace('__', '')}": value}))


@given(st.lists(pieces | st.sampled_from([f"[{name}]\n" for name in SECTIONS] + ["\n", " = "])))
@settings(max_examples=200)
def test_any_text_is_read_or_refused(parts):
    _read_or_refuse("".join(parts))


def _read_or_refuse(text):
    try:
        assert isinstance(parse(text), Experiment)
    except ConfigError as error:
        assert str(error)


@given(st.text(alphabet=string.ascii_letters + "_", max_size=30))
def test_nearest_offers_a_known_name_or_nothing(word):
    known = ("batch_size", "Shuffle", "rounds")
    assert nearest(word, known) in ["", *(f" (did you mean '{name}'?)" for name in known)]
    assert all(nearest(name.upper(), known) == f" (did you mean '{name}'?)" for name in known)
