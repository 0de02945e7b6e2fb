"""Damaged files of every kind: refused with a message or read, never a crash, never unbounded."""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cifar10_files
import core_examples as examples
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mutations import bounded, mutated, swaps

from decentralizepy.codec import WordError, decode, encode, value_of
from decentralizepy.commands import arguments, convert, flags
from decentralizepy.datasets import cifar10, leaf
from decentralizepy.datasets.digits import Digits
from decentralizepy.engine.checkpoints import CheckpointSets
from decentralizepy.errors import ConfigError
from decentralizepy.graphs.files import read_graph
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.node.membership import epochs_of
from decentralizepy.runfolder import MachineFolder, machine_records, write_legacy_results
from decentralizepy.settings import Resilience
from decentralizepy.supervision.agreement import Agreement
from decentralizepy.words import FROM_MACHINES, Hello, Paused, Ready
from orchestrator.planning.inputs import read_config
from results.load import load_run

REPOSITORY = Path(__file__).resolve().parents[2]


def fuzz(most: int = 60) -> Callable:
    return settings(
        max_examples=most, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def tells(error: Exception, *names: str) -> None:
    """One message, which names the file (the command cuts what quotes too much of it)."""
    text = str(error)
    assert len(text) > 10 and "Traceback" not in text, text
    assert any(name in text for name in names), text


# ------------------------------------------------------------ all input of a run

FAULTS = [
    {"kill": {"node": 3}, "round": 2},
    {"slow_link": {"from": 0, "to": 1, "factor": 2.5, "delay_s": 0.1}, "rounds": [1, 2]},
    {"partition": [[0, 1], [2, 3]], "seconds": [0.5, 2]},
]
SIMULATION = {
    "links": {"latency_s": 0.1, "bandwidth_Bps": 1e6, "queue": "machine",
              "machine_pairs": {"0-1": {"latency_s": 1}}, "edges": {"0>1": {"latency_s": 2}}},
    "compute": {"seconds_per_iteration": {"default": 1.5, "3": 2}},
    "machines": [4, 4],
}  # fmt: skip
INPUT = {
    "small.ini": examples.ini(TRAIN_PARAMS__rounds="by.json").encode(),
    "ring.edges": examples.ring(8).encode(),
    "ip.json": b'{"0": "127.0.0.1", "1": "::1"}',
    "by.json": b'{"0": 3, "7": 0, "default": 1}',
    "plan.json": json.dumps(FAULTS).encode(),
    "sim.json": json.dumps(SIMULATION).encode(),
}
FLAGS = {
    "sim.json": ["--simulate", "sim.json"],
    "plan.json": ["--faults", "plan.json", "--simulate", "sim.json"],
}


@pytest.mark.parametrize("name", INPUT)
@fuzz()
@given(data=st.data())
def test_the_input_of_a_run(name, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / f"fuzz-{name}"
    folder.mkdir(exist_ok=True)
    for other, content in INPUT.items():
        (folder / other).write_bytes(content)
    (folder / name).write_bytes(data.draw(mutated([INPUT[name]])))
    with pytest.MonkeyPatch.context() as patch, bounded():
        patch.chdir(folder)
        parser = argparse.ArgumentParser()
        flags.add_arguments(parser)
        more = FLAGS.get(name, ["-ms", "2", "-mid", "0"])
        args = parser.parse_args(
            ["-cf", "small.ini", "-gf", "ring.edges", "-is", "9", "-ld", "log", *more]
        )
        try:
            arguments.settings_of(args)
        except ConfigError as error:
            tells(error, *INPUT, "[", "-ms", "graph")
    assert not (folder / "log").exists()


@fuzz()
@given(mutated([INPUT["small.ini"]]))
def test_explaining_an_ini(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed.ini"
    path.write_bytes(data)
    with bounded():
        try:
            lines, _ = convert.convert(path)
            list(convert.table(lines))
        except ConfigError as error:
            tells(error, path.name)


@fuzz(100)
@given(mutated([b"3\n1 2\n\n0\n", b"4\n1\n2\n3\n0\n"]), st.booleans())
@example(b"1000000000000\n", True)
@example(b"1000000\n", False)
def test_graph_files(tmp_path_factory, data, edges):
    path = tmp_path_factory.getbasetemp() / ("fuzzed.edges" if edges else "fuzzed.adj")
    path.write_bytes(data)
    with bounded():
        try:
            read_graph(path)
        except ValueError as error:
            tells(error, path.name)


SHIPPED = [path.read_bytes() for path in sorted((REPOSITORY / "g5k_config").glob("*.json"))]


@fuzz(100)
@given(mutated([data for data in SHIPPED if b"NB_AGENTS" in data and b"$defs" not in data]))
def test_the_json_of_an_experiment(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_bytes(data)
    with bounded():
        try:
            read_config(path)
        except ConfigError as error:
            assert path.name in str(error) and "Traceback" not in str(error)


# ------------------------------------------------------------ what a run has left

ROWS = [
    {"iteration": t, "uid": uid, "machine": 0, "rank": uid, "train_loss": 0.5, "elapsed_s": 1.5}
    for t in (1, 2)
    for uid in range(2)
]
RECORDS = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
LEGACY = json.dumps({"train_loss": {"1": 0.5, "2": 0.25}, "test_acc": {}}).encode()


@fuzz()
@example(b'{"uid": 0, "iteration": 1, "\\ud800": 0.5}\n', b"")
@given(mutated([RECORDS]), mutated([b'{"machine_id": 0, "procs_per_machine": [2]}']))
def test_records(tmp_path_factory, data, args):
    folder = MachineFolder(tmp_path_factory.getbasetemp() / "fuzzed_records")
    folder.root.mkdir(exist_ok=True)
    for old in folder.all_results():
        old.unlink()
    folder.records(0).write_bytes(data)
    folder.args.write_bytes(args)
    with bounded():
        rows = machine_records(folder).rows
        write_legacy_results(folder)
    assert all(type(row["uid"]) is int and type(row["iteration"]) is int for row in rows)
    loads(folder.root)


@fuzz()
@example(b'{"\\ud800": {"1": 0.5}, "test_acc": {"1": 2}}', b"")
@given(mutated([LEGACY]), mutated([b'{"machine_id": 0, "procs_per_machine": 2}']))
def test_results_of_the_reference(tmp_path_factory, data, args):
    folder = MachineFolder(tmp_path_factory.getbasetemp() / "fuzzed_results")
    folder.root.mkdir(exist_ok=True)
    folder.results(0).write_bytes(data)
    folder.args.write_bytes(args)
    loads(folder.root)


def loads(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load_run(folder)
        except ValueError as error:
            tells(error, folder.name)


MARK = (
    b'{"uids": [0, 1], "crc32": {"0": 1, "1": 2}, '
    b'"left": [{"before": 1, "left": [2], "why": "lost"}]}'
)


@fuzz()
@given(mutated([MARK]))
def test_marks_of_checkpoint_sets(tmp_path_factory, data):
    folder = MachineFolder(tmp_path_factory.getbasetemp() / "fuzzed_sets")
    sets = CheckpointSets(folder)
    sets.folder(4).mkdir(parents=True, exist_ok=True)
    header = b'{"row":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    for uid in (0, 1):
        whole = len(header).to_bytes(8, "little") + header + b"x"
        (sets.folder(4) / f"{uid}.safetensors").write_bytes(whole)
    (sets.folder(4) / "set.json").write_bytes(data)
    with bounded():
        sets.usable(verify=True)
        found = {t: epochs_of(sets.read(t)["left"]) for t in sets.usable()}
        decode(encode(Hello(1, {}, found)), FROM_MACHINES)
        Agreement(Mapping((4,)), Resilience()).take(0, Hello(1, {}, found))


# ------------------------------------------------------------ control plane

NEWS = [
    {"machine": 1, "hello": True, "workers": 2, "digests": {"a": "b"},
     "sets": {"4": [{"before": 1, "left": [2], "why": "x"}]}, "attempt": 0},
    {"machine": 1, "ready": 0}, {"machine": 1, "saved": 4}, {"machine": 1, "ended": 4},
    {"machine": 1, "done": 0},
    {"machine": 1, "lost": [3], "workers": [[1, 0]], "why": "gone"},
    {"machine": 1, "paused": 1, "round": 7}, {"machine": 1, "failed": "why", "config": True},
]  # fmt: skip


@pytest.mark.parametrize("policy", ["fail", "drop", "wait"])
@fuzz(80)
@given(st.lists(mutated([json.dumps(news).encode() for news in NEWS]), min_size=1, max_size=6))
@example([json.dumps(NEWS[0] | {"workers": 10**12}).encode()])
def test_messages_between_supervisors(policy, messages):
    """Whatever a member says, the coordinator goes on; and it can still lose that member."""
    agreement = Agreement(Mapping((2, 2)), Resilience(policy))
    with bounded():
        agreement.take(0, Hello(1, {"a": "b"}, {4: ()}))
        for data in messages:
            with suppress(WordError):
                word = decode(data, FROM_MACHINES)
                if not isinstance(word, Hello) or word.fits(2):
                    json.dumps([value_of(news) for news in agreement.take(1, word)])
        agreement.take(0, Ready(0))
        agreement.take(0, Paused(1, 3))
        agreement.lost(1)


# ------------------------------------------------------------ data sets

LEAF = json.dumps(
    {"users": ["a", "b"], "num_samples": [1, 2],
     "user_data": {"a": {"x": [[0.5, 1.0]], "y": [3]}, "b": {"x": [[0, 1], [1, 0]], "y": [1, 2]}}}
).encode()  # fmt: skip


def pairs(x, y):
    """Two numbers a sample, and one of 62 labels."""
    found = leaf.labels(y, 62)
    return leaf.images(x, len(found), 2), found


@fuzz(100)
@given(mutated([LEAF]))
def test_leaf_files(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed_leaf.json"
    path.write_bytes(data)
    with bounded():
        try:
            for share in leaf.read_file(path, pairs):
                assert share.x.shape == (len(share.y), 2)
        except ValueError as error:
            tells(error, path.name)


BATCH = cifar10_files.batch_bytes(*cifar10_files.content("test_batch", 2), title="x")
#: a memo of 4 billion entries, a zeroed gigabyte, nested names of builtins
BOMBS = [
    b"\x80\x02}r\xff\xff\xff\xff.",
    b"\x80\x05\x96" + (1 << 30).to_bytes(8, "little") + b".",
    b"\x80\x02cbuiltins\nbytes\nJ\x00\x00\x00\x40\x85R.",
]


@fuzz(100)
@given(mutated([BATCH, pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1]}, 2)]))
@example(BOMBS[0])
@example(BOMBS[1])
@example(BOMBS[2])
def test_cifar_batches(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed_batch"
    path.write_bytes(data)
    with bounded():
        try:
            cifar10._read([path], lambda _: None)
        except ValueError as error:
            tells(error, path.name)


def test_prepared_arrays(tmp_path):
    dataset = Digits()
    dataset.prepare(tmp_path)
    (folder,) = tmp_path.iterdir()
    whole = (folder / "train_y.npy").read_bytes()

    @fuzz(40)
    @given(mutated([whole[:256]]))
    def damage(data):
        (folder / "train_y.npy").write_bytes(data + whole[256:])
        with bounded():
            try:
                Digits().prepare(tmp_path)
            except ValueError as error:
                tells(error, "train_y.npy")

    damage()


def test_the_mutations_find_what_they_are_for():
    """Readers without care fail: the corpus does reach depth, other types, text that is none."""
    seen = set()
    for data in swaps(LEAF):
        try:
            value = json.loads(data)
            sum(value["num_samples"]) + value["user_data"]["b"]["y"][1]
        except Exception as error:
            seen.add(type(error))
    assert {RecursionError, json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError} <= seen
    with pytest.raises(MemoryError), bounded():
        bytearray(1 << 30)
