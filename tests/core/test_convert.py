"""``decentralizepy convert``: every key of an INI explained, and a file that can run."""

from pathlib import Path

import core_examples as examples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy import reference
from decentralizepy.commands.convert import convert, table
from decentralizepy.config import parse_experiment
from decentralizepy.errors import ConfigError

ODD = """\
[DATASET]
dataset_package = decentralizepy.datasets.Digits
dataset_class = Digits
model_class = MLP
partition_niid = kshard
shard = 2
test_batch_size = 64
[OPTIMIZER_PARAMS]
optimizer_package = torch.optim
optimizer_class = SGD
lr = 0.05 ; gamma
[TRAIN_PARAMS]
training_package = decentralizepy.training.Training
training_class = Training
shuffle = False
loss_package = torch.nn
loss_class = CrossEntropyLoss
[COMMUNICATION]
comm_package = decentralizepy.communication.TCP
comm_class = TCP
addresses_filepath = ip.json
recv_timeout = 50
offset = 9100
[SHARINGS]
sharing_package = decentralizepy.sharing.Sharing
sharing_class = Sharing
compress = False
weighting_method = METRO
[NODE]
graph_degree = 4
timeout = 3
[NOTES]
who = me
"""


def verdicts(text, path):
    path.write_text(text)
    lines, cleaned = convert(path)
    assert len(list(table(lines))) == len(lines) + 1
    return {(line.section, line.key): (line.verdict, line.why) for line in lines}, cleaned


def test_each_key_has_its_verdict(tmp_path):
    found, cleaned = verdicts(ODD, tmp_path / "odd.ini")
    expected = {
        ("DATASET", "dataset_class"): ("as is", ""),
        ("DATASET", "model_class"): ("as is", ""),
        ("DATASET", "shard"): ("misspelt", "read as shards"),
        ("DATASET", "test_batch_size"): ("ignored", "constant of the model"),
        ("DATASET", "random_seed"): ("default", "97 for model, graphs and streams, 1234"),
        ("OPTIMIZER_PARAMS", "lr"): ("changed", "comment behind the value left out"),
        ("TRAIN_PARAMS", "shuffle"): ("changed", "batches go on"),
        ("TRAIN_PARAMS", "loss_class"): ("as is", ""),
        ("COMMUNICATION", "recv_timeout"): ("ignored", "polls"),
        ("COMMUNICATION", "offset"): ("changed", "a port for each worker"),
        ("SHARING", "sharing_class"): ("misspelt", "[SHARINGS] is read as [SHARING]"),
        ("SHARING", "compress"): ("misspelt", "[SHARINGS]"),
        ("SHARING", "weighting_method"): ("unknown", "nobody reads this key"),
        ("NODE", "graph_degree"): ("as is", ""),
        ("NODE", "timeout"): ("as is", ""),
        ("NOTES", "who"): ("unknown", "nobody reads this section"),
    }
    for place, (verdict, why) in expected.items():
        assert found[place][0] == verdict and why in found[place][1], place
    experiment = parse_experiment(cleaned, tmp_path / "clean.ini")
    assert experiment.dataset.options == {"partition_niid": "kshard", "shards": 2}
    assert experiment.optimizer.options == {"lr": 0.05} and experiment.offset == 9100
    assert experiment.node.graph_degree == 4
    again, same = verdicts(cleaned, tmp_path / "clean.ini")
    assert {verdict for verdict, _ in again.values()} == {"as is", "changed", "default"}
    assert same.split("\n", 1)[1] == cleaned.split("\n", 1)[1]


def test_a_class_that_is_not_here_takes_its_options_with_it(tmp_path):
    text = examples.ini(
        SHARING__sharing_package="decentralizepy.sharing.JWINS.JWINS",
        SHARING__sharing_class="JWINS",
        SHARING__alpha_list="[0.1, 1.0]",
    )
    found, cleaned = verdicts(text, tmp_path / "jwins.ini")
    verdict, why = found["SHARING", "sharing_class"]
    if verdict == "not here":
        assert "JWINS (decentralizepy.sharing.JWINS.JWINS)" in why
        assert found["SHARING", "alpha_list"] == ("not here", "an option of JWINS")
        with pytest.raises(ConfigError, match=r"\[SHARING\] JWINS"):
            parse_experiment(cleaned, tmp_path / "jwins.ini")


def test_the_command(call, folder):
    Path("odd.ini").write_text(ODD)
    done = call("convert", "odd.ini")
    assert done.code == 2 and "misspelt" in done.out
    assert "odd.ini cannot run: odd.ini: unknown section [SHARINGS]" in done.err
    done = call("convert", "odd.ini", "-o", "clean.ini")
    assert done.code == 0 and "clean.ini can run" in done.out
    assert call("check", "clean.ini").code == 0
    assert call("convert", "clean.ini").code == 0
    done = call("convert", "odd.ini", "-o", "clean.ini")
    assert done.code == 2 and "clean.ini exists: choose another name (-o)" in done.err
    done = call("convert", "odd.ini", "-o", "odd.ini/clean.ini")
    assert done.code == 2 and "cannot write odd.ini/clean.ini" in done.err


@pytest.mark.parametrize("change", [{"DATASET__shards": "0"}, {"TRAIN_PARAMS__rounds": "many"}])
def test_nothing_is_written_that_cannot_run(call, folder, change):
    Path("bad.ini").write_text(examples.ini(**change))
    done = call("convert", "bad.ini", "-o", "out.ini")
    assert done.err.count("out.ini") == 1 and "out.ini is not written: [" in done.err
    assert (
        done.code == 2
        and "bad.ini cannot run, even cleaned" in done.err
        and not Path("out.ini").exists()
    )


def test_a_data_set_that_is_not_here_is_named_and_not_its_models(tmp_path, monkeypatch):
    name, package = "Twitter", "decentralizepy.datasets.Twitter"
    monkeypatch.setitem(reference.MODULES, package, name)
    changes = {"DATASET__dataset_package": package, "DATASET__dataset_class": name}
    said = examples.refusal(**changes)
    assert f"small.ini: [DATASET] {name} ({package}) of the reference system is not in" in said
    assert "decentralizepy.models" not in said and "did you mean" not in said
    found, _ = verdicts(examples.ini(**changes), tmp_path / "theirs.ini")
    assert found["DATASET", "dataset_class"][0] == "not here"
    assert found["DATASET", "model_class"] == ("not here", f"a model of {name}")


def test_a_loss_beside_a_loss_class_does_nothing(tmp_path):
    text = examples.ini(TRAIN_PARAMS__loss="no_such_function")
    experiment = parse_experiment(text, tmp_path / "both.ini")
    assert experiment.loss is not None and experiment.loss.target.name == "CrossEntropyLoss"
    found, cleaned = verdicts(text, tmp_path / "both.ini")
    assert found["TRAIN_PARAMS", "loss"][0] == "ignored"
    assert "loss_class goes before it" in found["TRAIN_PARAMS", "loss"][1]
    assert "no_such_function" not in cleaned


def test_validation_sets_have_other_samples_than_the_references(tmp_path):
    keys = {"DATASET__validation_source": "Train", "DATASET__validation_size": "0.1"}
    found, _ = verdicts(examples.ini(**keys), tmp_path / "with.ini")
    for key in ("validation_source", "validation_size"):
        assert found["DATASET", key][0] == "changed" and "other samples" in found["DATASET", key][1]
    keys = dict.fromkeys(keys, "")
    found, _ = verdicts(examples.ini(**keys), tmp_path / "without.ini")
    assert found["DATASET", "validation_source"] == ("as is", "")


@given(st.text(alphabet="[]NODESHARING=:;# \n\tabx5offset", max_size=80))
def test_no_text_breaks_it(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "any.ini"
    try:
        verdicts(text, path)
    except ConfigError as error:
        assert str(error).startswith(str(path))
