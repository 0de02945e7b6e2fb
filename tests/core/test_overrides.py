"""Keys of the INI that are set from outside: typed, checked and blamed like the INI's own."""

from __future__ import annotations

import json
from pathlib import Path

import core_examples as examples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.config import SECTIONS, parse_experiment
from decentralizepy.errors import ConfigError
from decentralizepy.ini import parse_ini
from decentralizepy.overrides import changed, from_flags, from_json, read_changed, with_key

PATH = Path("small.ini")


def refused(*given_: str, ini: str = "", path: Path = PATH) -> str:
    path.write_text(ini or examples.ini())
    with pytest.raises(ConfigError) as caught:
        read_changed(path, given_)
    return str(caught.value)


def test_values_are_typed_as_in_the_file(folder):
    PATH.write_text(examples.ini())
    found = read_changed(
        PATH,
        ["OPTIMIZER_PARAMS.lr=0.1", "TRAIN_PARAMS.BATCH_SIZE= 16", "DATASET.random_seed=7",
         "GRAPH.graph_package=decentralizepy.graphs.schedules",
         "GRAPH.graph_class=RandomRegularSchedule", "GRAPH.degree=6"],
    )  # fmt: skip
    assert found.optimizer.options["lr"] == 0.1 and found.training.options["batch_size"] == 16
    assert found.seed == 7 and found.graph_schedule.options == {"degree": 6}
    assert parse_experiment(found.text, PATH).training == found.training, "its text says it all"
    assert read_changed(PATH, []).text == examples.ini()


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ("OPTIMIZER_PARAM.lr=1", "no section [OPTIMIZER_PARAM] (did you mean 'OPTIMIZER_PARAMS'?)"),
        ("TRAIN_PARAMS.batchsize=4", "no option 'batchsize' (did you mean 'batch_size'?)"),
        ("TRAIN_PARAMS.rounds=many", "[TRAIN_PARAMS] rounds"),
        ("SHARING.sharing_class=Sharin", "no class Sharin (did you mean 'Sharing'?)"),
        ("DATASET.random_seed=-1", "random_seed = -1: a whole number, at least 0"),
        ("lr=0.1", "SECTION.key is expected, as OPTIMIZER_PARAMS.lr"),
        ("OPTIMIZER_PARAMS.lr", "SECTION.key=value is expected, as OPTIMIZER_PARAMS.lr=0.05"),
        ("OPTIMIZER_PARAMS.lr=0.1 ; high", "cannot be set in small.ini: a value is one line"),
    ],
)
def test_a_mistake_names_the_flag_the_key_and_the_nearest(folder, given_, words):
    said = refused("TRAIN_PARAMS.shuffle=True", given_)
    assert said.startswith(f"--set {given_}: ") and words in said


def test_twice_is_once_too_often(folder):
    said = refused("DATASET.random_seed=1", "DATASET.Random_Seed=2")
    assert said == "--set DATASET.Random_Seed=2: DATASET.random_seed is set twice; keep one"


def test_a_fault_of_the_file_is_not_blamed_on_a_flag(folder):
    said = refused("DATASET.random_seed=1", ini=examples.ini(OPTIMIZER_PARAMS__lrr="1"))
    assert said.startswith("small.ini: [OPTIMIZER_PARAMS]")


def test_values_of_json_are_those_of_an_ini():
    for value, text in [(0.05, "0.05"), (True, "True"), ([0.5, 0.5], "[0.5, 0.5]"), ("a b", "a b")]:
        assert from_json("DATASET.sizes", value, "my.json").text == text
    for value in (None, {"a": 1}):
        with pytest.raises(ConfigError, match=r"my\.json: INI: text, a number"):
            from_json("DATASET.sizes", value, "my.json: INI")


def test_the_rest_of_the_text_stays():
    text = "; first\n[A]\nx = 1 ; old\n  more\n\ny: 2\n\n; of B\n[B]\nz = 3"
    assert with_key(text, "A", "x", "5") == text.replace("1 ; old\n  more", "5")
    assert with_key(text, "A", "y", "2") == text
    assert with_key(text, "B", "new", "4") == f"{text}\nnew = 4\n"
    assert with_key(text, "C", "new", "") == f"{text}\n\n[C]\nnew =\n"


@given(
    st.sampled_from(SECTIONS),
    st.sampled_from(["lr", "rounds", "graph_degree", "Shards", "new_key"]),
    st.text(max_size=20),
)
def test_what_is_set_is_read_or_refused(section, key, text):
    try:
        overrides = from_flags([f"{section}.{key}={text}"])
        found = changed(examples.ini(), overrides, PATH)
    except ConfigError:
        return
    before, after = parse_ini(examples.ini(), PATH), parse_ini(found, PATH)
    assert after == before | {section: before.get(section, {}) | {key.lower(): text.strip()}}


def test_the_commands_take_it(call, folder):
    PATH.write_text(examples.ini(NODE__graph_degree=None, LR_SCHEDULE__step_size="0"))
    Path("ring.edges").write_text(examples.ring(4))
    words = ["check", "small.ini", "-gf", "ring.edges", "--set", "LR_SCHEDULE.step_size=3"]
    assert call(*words).code == 0
    done = call(*words, "--set", "DATASET.shard=2")
    assert done.code == 2
    assert "--set DATASET.shard=2: small.ini: [DATASET]" in done.err
    assert "did you mean 'shards'" in done.err


def test_what_ran_is_in_the_runs_folder(call, folder, tmp_path):
    """The log folder has the INI as it was run, and a resumed run must be the same."""
    PATH.write_text(examples.ini())
    Path("ring.edges").write_text(examples.ring(4))
    run = ["run", "-cf", "small.ini", "-gf", "ring.edges", "-is", "2", "-ta", "0", "-tea", "0",
           "-ld", "log", "--cache-dir", str(tmp_path / "cache"), "--workers", "1"]  # fmt: skip
    lr = "OPTIMIZER_PARAMS.lr=0.01"
    assert call(*run, "--checkpoint_after", "1", "--set", lr).code == 0
    kept = parse_ini(Path("log/small.ini").read_text(), PATH)
    assert kept["OPTIMIZER_PARAMS"]["lr"] == "0.01"
    assert json.loads(Path("log/args.json").read_text())["set"] == [lr]
    done = call(*run, "--resume")
    assert done.code == 2 and "different INI file" in done.err
    assert call(*run, "--resume", "--set", lr).code == 0
