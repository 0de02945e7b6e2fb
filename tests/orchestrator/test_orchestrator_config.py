"""The JSON: typed, with one clear message for whatever is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestrator_fakes import REPOSITORY, values

from decentralizepy.errors import ConfigError
from orchestrator.config import Config, keys, schema_text
from orchestrator.planning.inputs import MAX_BYTES, parse_config, read_config

PATH = Path("my.json")


def config(**changes: Any) -> Config:
    return parse_config(json.dumps(values(**changes)), PATH)


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse_config(text, PATH)
    return str(error.value)


def test_defaults_are_those_of_the_reference() -> None:
    found = config()
    assert (found.AVERAGING_STEPS, found.DOWNLOAD_ALL, found.queue, found.job_type) == (
        1,
        False,
        "default",
        (),
    )
    assert found.RESET_OPTIMIZER == 0
    assert found.train_evaluate_after == found.TEST_AFTER == 5
    assert found.LOCAL_SAVE_DIR == "results/my_results"
    assert found.walltime_seconds is None


@pytest.mark.parametrize(("given_", "expected"), [("True", True), ("False", False), (True, True)])
def test_download_all_may_be_a_word(given_: Any, expected: bool) -> None:
    assert config(DOWNLOAD_ALL=given_).DOWNLOAD_ALL is expected


def test_never_is_zero_as_for_the_core() -> None:
    found = config(NB_ITERATION=0, TEST_AFTER=0)
    assert (found.NB_ITERATION, found.TEST_AFTER, found.train_evaluate_after) == (0, 0, 0)
    assert found.records_nothing
    assert config(TRAIN_EVALUATE_AFTER=0).train_evaluate_after == 0
    assert config(TRAIN_EVALUATE_AFTER=0).resolved()["TRAIN_EVALUATE_AFTER"] == 0
    assert not config(TRAIN_EVALUATE_AFTER=0).records_nothing
    assert not config(TEST_AFTER=0, TRAIN_EVALUATE_AFTER=3).records_nothing
    for key in ("NB_ITERATION", "TEST_AFTER", "TRAIN_EVALUATE_AFTER"):
        assert f"my.json: {key} = -1: " in refused(json.dumps(values(**{key: -1})))


def test_a_name_that_no_file_can_have() -> None:
    assert "my.json: job_name = " in refused(json.dumps(values(job_name="n" * 300)))
    assert "300 characters are too many: take at most 200" in refused(
        json.dumps(values(job_name="n" * 300))
    )
    assert "202 bytes in UTF-8" in refused(json.dumps(values(job_name="é" * 101)))
    assert config(job_name="é" * 100).job_name == "é" * 100


@pytest.mark.parametrize(
    ("given_", "expected"),
    [("night", ("night",)), (["a", "b"], ("a", "b")), ([[]], ()), ([], ())],
)
def test_job_type_is_a_name_or_names_or_the_sentinel(given_: Any, expected: Any) -> None:
    assert config(job_type=given_).job_type == expected


def test_an_unknown_key_names_the_nearest_the_file_and_all_known_ones() -> None:
    message = refused(json.dumps(values(NB_AGENT=3)))
    assert "my.json: unknown key 'NB_AGENT' (did you mean 'NB_AGENTS'?)" in message
    assert all(key in message for key in keys())


def test_everything_wrong_is_told_at_once() -> None:
    message = refused(
        json.dumps(
            values(
                NB_AGENTS="16",
                NB_ITERATION=-1,
                TEST_AFTER=True,
                LOG_LEVEL="LOUD",
                walltime="1h",
                job_name=None,
                typo=1,
            )
        )
    )
    for key in ("NB_AGENTS", "NB_ITERATION", "TEST_AFTER", "LOG_LEVEL", "walltime", "job_name"):
        assert f"my.json: {key} = " in message or f"needs the key '{key}'" in message
    assert "H:MM:SS" in message
    assert "unknown key 'typo'" in message
    assert len(message.splitlines()) == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"job_name": "x",\n  1}', "line 2, column 3"),
        ("", "line 1, column 1"),
        ("[1, 2]", "no JSON object"),
        ('{"a": 1, "a": 2}', "the key 'a' appears twice"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100_000, "nested too deeply"),
        ('{"job_name": "\\ud800"}', "surrogate"),
        ('{"job_name": "a\\u0000b"}', "NUL"),
        ('{"NB_AGENTS": 1' + "0" * 5000 + "}", "not valid JSON"),
    ],
)
def test_what_is_no_json_object_is_told_with_its_place(text: str, expected: str) -> None:
    assert expected in refused(text)


def test_fewer_nodes_than_machines_is_an_error() -> None:
    message = refused(json.dumps(values(NB_AGENTS=2, NB_MACHINE=3)))
    assert "NB_AGENTS = 2, NB_MACHINE = 3" in message
    assert "lower NB_MACHINE to 2" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "local"),
        ({"cluster": "local"}, "local"),
        ({"cluster": "paravance"}, "grid5000"),
        ({"cluster": "paravance", "BACKEND": "local"}, "local"),
        ({"BACKEND": "slurm"}, "slurm"),
    ],
)
def test_the_cluster_implies_the_back_end(changes: dict[str, Any], expected: str) -> None:
    assert config(**changes).backend == expected


@pytest.mark.parametrize(
    ("cpus", "workers", "expected"), [(8, None, 4), (5, None, 2), (1, None, 1), (8, 3, 3)]
)
def test_workers_share_the_cpus(cpus: int, workers: int | None, expected: int) -> None:
    assert config(WORKERS=workers).workers(cpus) == expected


@pytest.mark.parametrize(
    ("text", "seconds"), [("1:30:00", 5400), ("0:00:05", 5), ("12:00:01", 43201)]
)
def test_walltime(text: str, seconds: int) -> None:
    assert config(walltime=text).walltime_seconds == seconds
    assert "walltime" in refused(json.dumps(values(walltime="0:00:00")))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ON_LOSS": "wait"}, "set CHECKPOINT_AFTER to 1 or more"),
        ({"ON_LOSS": "ignore"}, "ON_LOSS = \"ignore\": Input should be 'fail', 'drop' or 'wait'"),
        ({"CHECKPOINT_AFTER": -1}, "CHECKPOINT_AFTER = -1"),
        ({"WAIT_LIMIT": -0.5}, "WAIT_LIMIT = -0.5"),
        ({"PROGRESS_LIMIT": 0}, "PROGRESS_LIMIT = 0"),
        ({"SIMULATE": "s.json"}, "NB_MACHINE = 2: set it to 1, and give virtual 'machines' in s"),
        ({"SIMULATE": "s.json", "NB_MACHINE": 1, "WORKERS": 2}, "WORKERS = 2: leave it out"),
        (
            {"SIMULATE": "s.json", "NB_MACHINE": 1, "ON_LOSS": "wait", "CHECKPOINT_AFTER": 5},
            "ON_LOSS = 'wait', but simulated time does not go back",
        ),
    ],
)
def test_what_losses_and_simulations_need(changes: dict[str, Any], expected: str) -> None:
    assert expected in refused(json.dumps(values(**changes)))


def test_a_simulation_has_one_worker() -> None:
    assert config(SIMULATE="s.json", NB_MACHINE=1, WORKERS=None).workers(8) == 1


def test_the_resolved_configuration_is_a_configuration() -> None:
    resolved = config(job_type=[[]], cluster="x", BACKEND="local").resolved()
    again = parse_config(json.dumps(resolved), PATH)
    assert again.resolved() == resolved
    assert resolved["TRAIN_EVALUATE_AFTER"] == 5
    assert resolved["BACKEND"] == "local"


def test_the_resolved_configuration_holds_nothing_of_this_computer() -> None:
    """With 3 CPUs and with 64 it is the same; what is asked for stays."""
    found = config(WORKERS=None)
    assert found.workers(cpus=64) == 32
    assert found.resolved()["WORKERS"] is None and found.resolved()["OFFSET"] is None
    assert config(WORKERS=3).resolved()["WORKERS"] == 3


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"TRAIN_PARAM.lr": 1}, "no section [TRAIN_PARAM] (did you mean 'TRAIN_PARAMS'?)"),
        ({"lr": 1}, "SECTION.key is expected"),
        ({"OPTIMIZER_PARAMS.lr": None}, "text, a number, true, false or a list"),
        ({"OPTIMIZER_PARAMS.lr": 1, "OPTIMIZER_PARAMS.LR": 2}, "set twice"),
        (["OPTIMIZER_PARAMS.lr"], "an object is expected"),
    ],
)
def test_keys_of_the_ini_are_checked(given_: Any, expected: str) -> None:
    message = refused(json.dumps(values(INI=given_)))
    assert message.startswith("my.json: INI = ") and expected in message


def test_keys_of_the_ini_stay_in_the_resolved_configuration() -> None:
    keys_of_ini = {"OPTIMIZER_PARAMS.lr": 0.1, "DATASET.sizes": [0.5, 0.5]}
    assert config(INI=keys_of_ini).resolved()["INI"] == keys_of_ini
    assert config().resolved()["INI"] == {}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b'{"job_name": "\xe9"}')
    (tmp_path / "big.json").write_bytes(b" " * (MAX_BYTES + 1))
    os.mkfifo(tmp_path / "pipe.json")
    for name, expected in [("absent.json", "No such file"), ("latin.json", "UTF-8"),
                           ("big.json", "has more than 1 MiB"),
                           ("pipe.json", "not a regular file"), (".", "directory")]:  # fmt: skip
        with pytest.raises(ConfigError, match=expected):
            read_config(tmp_path / name)


def test_the_published_schema_is_current() -> None:
    shipped = (REPOSITORY / "g5k_config" / "schema.json").read_text(encoding="utf-8")
    assert shipped == schema_text(), "python -m orchestrator.config > g5k_config/schema.json"
    assert json.loads(shipped)["additionalProperties"] is False
    assert set(json.loads(shipped)["properties"]) == set(keys())


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(keys()) | st.text(max_size=8), ANYTHING, max_size=6))
def test_no_value_raises_anything_but_a_config_error(changes: dict[str, Any]) -> None:
    try:
        found = parse_config(json.dumps(values() | changes), PATH)
    except ConfigError as error:
        assert str(error).startswith("my.json")
    else:
        json.dumps(found.resolved(), ensure_ascii=False).encode()


@given(st.text(max_size=60) | st.integers(1, 200).map(lambda cut: json.dumps(values())[:-cut]))
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(text, PATH)
