"""FEMNIST from LEAF's files and from those of the label split: who gets what, what is refused."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from femnist_files import content, labels, per_user, pixels, write, write_pairs

from decentralizepy.datasets import leaf, saved_tensors
from decentralizepy.datasets.femnist import Femnist, FemnistLabelSplit

COUNTS = [5, 3, 8, 2, 6, 4, 7]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return per_user(tmp_path / "train", COUNTS)


@pytest.fixture
def test(tmp_path: Path) -> Path:
    return write(tmp_path / "test", {"b.json": {"t2": 2, "t3": 3}, "a.json": {"t1": 4}}, "test")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def prepared(cache: Path, kind: type[Femnist] = Femnist, **options) -> Femnist:
    data = kind(**{key: str(v) if isinstance(v, Path) else v for key, v in options.items()})
    data.prepare(cache)
    return data


def test_images_are_bytes_and_labels_whole_numbers(train, test, cache):
    data = prepared(cache, train_dir=train, test_dir=test)
    assert data.counts() == (sum(COUNTS), 9)
    x, y = data.train().x, data.train().y
    assert x.shape == (35, 28, 28, 1) and x.dtype == np.uint8 and y.dtype == np.int64
    assert np.array_equal(x.reshape(35, 784)[:5], pixels("u00", 5))
    assert np.array_equal(x.reshape(35, 784)[5:8], pixels("u01", 3))
    assert y[:5].tolist() == labels("u00", 5)
    seen = data.test()
    assert np.array_equal(seen.x.reshape(9, 784)[:4], pixels("t1", 4, "test"))  # a.json, then b
    assert seen.y.tolist() == labels("t1", 4) + labels("t2", 2) + labels("t3", 3)
    norm = data.normalization
    assert np.allclose(x * norm.scale + norm.shift, x / 255.0)


def reference_deal(count: int, n: int, seed: int, sizes: list[float] | None = None):
    """The reference's: files by name, shuffled with Python's generator, cut by fractions."""
    if sizes is None:
        sizes = [(count // n) / count] * n
        sizes[-1] += 1.0 - sizes[0] * n
    order = list(range(count))
    random.Random(seed).shuffle(order)
    parts = []
    for size in sizes:
        length = int(size * count)
        parts.append(order[:length])
        order = order[length:]
    return parts


@pytest.mark.parametrize(("n", "sizes"), [(1, None), (3, None), (7, None), (2, [0.3, 0.6])])
def test_users_are_dealt_whole_and_as_in_the_reference(train, cache, n, sizes):
    data = prepared(cache, train_dir=train, random_seed=90, sizes=sizes)
    starts = np.cumsum([0, *COUNTS])
    for part, users in zip(data.partition(n), reference_deal(7, n, 90, sizes), strict=True):
        wanted = np.concatenate([np.arange(starts[u], starts[u + 1]) for u in users])
        assert part.tolist() == wanted.tolist() and part.dtype == np.int64
    other = prepared(cache, train_dir=train, random_seed=91, sizes=sizes)
    if n == 7:
        assert not np.array_equal(data.partition(n)[0], other.partition(n)[0])


def test_a_file_of_many_users_gives_each_of_them_apart(tmp_path, cache):
    users = {f"u{i:02}": count for i, count in enumerate(COUNTS)}
    one = prepared(cache, train_dir=write(tmp_path / "one", {"all.json": users}), random_seed=90)
    many = prepared(cache, train_dir=per_user(tmp_path / "many", COUNTS), random_seed=90)
    assert np.array_equal(one.train().x, many.train().x)
    for mine, other in zip(one.partition(3), many.partition(3), strict=True):
        assert np.array_equal(mine, other)


def test_too_few_users_or_samples_are_explained(tmp_path, train, cache):
    with pytest.raises(ValueError, match="8 nodes but 7 users of femnist; use fewer nodes"):
        prepared(cache, train_dir=train).partition(8)
    with pytest.raises(ValueError, match="sizes has 1 fractions for 2 nodes"):
        prepared(cache, train_dir=train, sizes=[1.0]).partition(2)
    empty = per_user(tmp_path / "empty", [3, 0])
    with pytest.raises(ValueError, match="would get no training sample"):
        prepared(cache, train_dir=empty).partition(2)
    assert sum(map(len, prepared(cache, train_dir=empty).partition(1))) == 3


def test_pixels_that_are_no_bytes_stay_floats(tmp_path, cache):
    folder = write(tmp_path / "f", {"a.json": {"a": 2}, "b.json": {"b": 2}})
    given = content({"b": 2})
    given["user_data"]["b"]["x"] = np.linspace(-1, 2, 2 * 784).reshape(2, 784).tolist()
    (folder / "b.json").write_text(json.dumps(given))
    data = prepared(cache, train_dir=folder)
    x = data.train().x
    assert x.dtype == np.float32
    seen = x.reshape(4, 784) * np.float32(data.normalization.scale)
    assert np.allclose(seen[:2], pixels("a", 2) / 255, atol=1e-6)
    assert np.allclose(seen[2:], given["user_data"]["b"]["x"], atol=1e-6)


def test_a_part_may_be_absent_but_not_both(train, test, cache):
    assert prepared(cache, train_dir=train).counts() == (35, 0)
    only = prepared(cache, test_dir=test)
    assert only.counts() == (0, 9)
    with pytest.raises(ValueError, match="2 nodes but 0 users"):
        only.partition(2)
    with pytest.raises(ValueError, match="set train_dir"):
        prepared(cache)


def test_a_changed_file_is_read_again_and_others_are_not_looked_at(train, cache):
    said: list[str] = []
    for _ in range(2):
        Femnist(train_dir=str(train)).prepare(cache, said.append)
    (train / "notes.txt").write_text("no data")
    Femnist(train_dir=str(train)).prepare(cache, said.append)
    assert sum("reading" in message for message in said) == 7
    write(train, {"u00.json": {"u00": 6}})
    assert prepared(cache, train_dir=train).counts() == (36, 0)


def test_the_reference_writes_a_bare_count_into_files_of_one_user(tmp_path, cache):
    given = content({"a": 3}) | {"num_samples": 3}
    (tmp_path / "a.json").write_text(json.dumps(given))
    assert prepared(cache, train_dir=tmp_path).counts() == (3, 0)


def without(key):
    def damage(given):
        del given[key]

    return damage


def put(*path_and_value):
    *path, last, value = path_and_value

    def damage(given):
        for key in path:
            given = given[key]
        given[last] = value

    return damage


A = ("user_data", "a")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("users"), "look at 'users'"),
        (without("user_data"), "look at 'user_data'"),
        (without("num_samples"), "'num_samples' does not fit"),
        (put("num_samples", [3, 3]), "'num_samples' does not fit"),
        (put("num_samples", 5), "'num_samples' does not fit"),
        (put("users", [["a"], "b"]), "list of different names"),
        (put("users", ["a", "a"]), "list of different names"),
        (put("users", ["a", "c"]), "name different users"),
        (put(*A, [1]), "'num_samples' does not fit"),
        (put(*A, "y", [1, 62]), "'a': 'y' is not a list of whole numbers from 0 to 61"),
        (put(*A, "y", [1, -1]), "'a': 'y'"),
        (put(*A, "y", [1.5, 2]), "'a': 'y'"),
        (put(*A, "y", ["1", "2"]), "'a': 'y'"),
        (put(*A, "y", [True, False]), "'a': 'y'"),
        (put(*A, "y", [[1], [2]]), "'a': 'y'"),
        (put(*A, "y", [1, 10**30]), "'a': 'y'"),
        (put(*A, "x", None), "'a': 'x' is not 2 lists of 784 finite numbers"),
        (put(*A, "x", [[0.0] * 784]), "'a': 'x'"),
        (put(*A, "x", [[0.0] * 784, [0.0] * 783]), "'a': 'x'"),
        (put(*A, "x", 0, [0.0] * 783), "'a': 'x'"),
        (put(*A, "x", 0, 5, "0.5"), "'a': 'x'"),
        (put(*A, "x", 0, 5, None), "'a': 'x'"),
        (put(*A, "x", 0, 5, float("nan")), "'a': 'x'"),
        (put(*A, "x", 0, 5, float("inf")), "'a': 'x'"),
    ],
)
def test_a_malformed_file_is_named_with_what_is_wrong(tmp_path, cache, damage, message):
    given = content({"a": 2, "b": 3})
    damage(given)
    (tmp_path / "bad.json").write_text(json.dumps(given))
    with pytest.raises(ValueError, match=r"bad\.json is not a LEAF file: .*" + message):
        prepared(cache, train_dir=tmp_path)
    assert not list(cache.iterdir())


@pytest.mark.parametrize("data", [b"", b"{", b"[1, 2", b"\x00", b"[" * 100_000, b'{"\xff": 1}'])
def test_what_is_no_json_is_named(tmp_path, cache, data):
    (tmp_path / "bad.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"bad\.json is not a readable JSON file"):
        prepared(cache, train_dir=tmp_path)


@pytest.mark.parametrize("value", [None, 3, [], "text", {}])
def test_json_that_is_no_leaf_file_is_named(tmp_path, cache, value):
    (tmp_path / "bad.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r"bad\.json is not a LEAF file: it needs the keys"):
        prepared(cache, train_dir=tmp_path)


def test_a_user_in_two_files_is_refused(tmp_path, cache):
    write(tmp_path, {"all.json": {"a": 2, "b": 2}, "more.json": {"b": 2}})
    with pytest.raises(ValueError, match=r"more\.json: user 'b' also stands in .*all\.json"):
        prepared(cache, train_dir=tmp_path)


@pytest.mark.parametrize("key", ["train_dir", "test_dir"])
def test_folders_without_files_are_named_by_their_option(tmp_path, train, cache, key):
    with pytest.raises(ValueError, match=f"{key}: cannot look into the folder .*No such file"):
        prepared(cache, **{key: tmp_path / "nowhere"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"{key}: the folder .*empty has no file \*\.json"):
        prepared(cache, **{key: tmp_path / "empty"})


def test_reading_json_needs_no_torch(train, cache):
    code = (
        "import sys; from pathlib import Path; from decentralizepy.datasets.femnist import Femnist;"
        "d = Femnist(train_dir=sys.argv[1]); d.prepare(Path(sys.argv[2]));"
        "assert d.counts() == (35, 0) and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(train), str(cache)], check=True, timeout=60)


# ------------------------------------------------------------------------- the label split


def test_node_uid_trains_on_the_file_of_its_uid(tmp_path, test, cache):
    folder = write_pairs(tmp_path / "pairs", [3, 5, 2, *[1] * 9])  # data_10 comes after data_9
    data = prepared(cache, FemnistLabelSplit, train_dir=folder, test_dir=test)
    assert data.counts() == (19, 9)
    whole = data.train()
    for uid, (part, count) in enumerate(zip(data.partition(12), [3, 5, 2, *[1] * 9], strict=True)):
        assert np.array_equal(whole.x[part].reshape(count, 784), pixels(f"k{uid}", count))
        assert whole.y[part].tolist() == labels(f"k{uid}", count)
    first = data.partition(2)  # fewer nodes than files: the first ones, as in the reference
    assert [len(part) for part in first] == [3, 5]
    with pytest.raises(ValueError, match=r"13 nodes but 12 files data_<uid>\.pt in .*pairs"):
        data.partition(13)


def test_sizes_mean_nothing_to_a_label_split(tmp_path, cache):
    folder = write_pairs(tmp_path / "pairs", [3, 5])
    with pytest.raises(ValueError, match="sizes: the files of the label split are the parts"):
        prepared(cache, FemnistLabelSplit, train_dir=folder, sizes=[0.5, 0.5]).partition(2)


def test_a_gap_in_the_files_is_named(tmp_path, cache):
    folder = write_pairs(tmp_path / "pairs", [1, 1, 1])
    (folder / "data_1.pt").unlink()
    with pytest.raises(ValueError, match=r"lacks data_1\.pt"):
        prepared(cache, FemnistLabelSplit, train_dir=folder)


class Poison:
    """What a pickle may do to who reads it."""

    def __reduce__(self):
        return os.mkdir, (os.environ["POISON"],)


def test_a_poisoned_file_is_refused_and_nothing_runs(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("POISON", str(tmp_path / "fired"))
    folder = write_pairs(tmp_path / "pairs", [1, 1])
    torch.save([(torch.zeros(784), Poison())], folder / "data_1.pt")
    with pytest.raises(ValueError, match=r"data_1\.pt was not loaded"):
        prepared(cache, FemnistLabelSplit, train_dir=folder)
    assert not (tmp_path / "fired").exists()
    torch.load(folder / "data_1.pt", weights_only=False)  # the poison does work
    assert (tmp_path / "fired").exists()


@pytest.mark.parametrize(
    "value",
    [
        {"x": 1},
        [1, 2],
        [(torch.zeros(783), 1)],
        [(torch.zeros(784), torch.tensor([1, 2]))],
        [(torch.zeros(784), 1.5)],
        [(torch.zeros(784), 62)],
        [(torch.zeros(784), torch.tensor(-1))],
        [(torch.full((784,), torch.nan), 1)],
        [(torch.zeros(784, dtype=torch.complex64), 1)],
        [(torch.zeros(784).to_sparse(), 1)],
        [(torch.zeros(784), 1, 2)],
    ],
    ids=range(11),
)
def test_a_file_of_anything_else_is_named(tmp_path, cache, value):
    folder = write_pairs(tmp_path / "pairs", [1])
    torch.save(value, folder / "data_0.pt")
    with pytest.raises(ValueError, match=r"data_0\.pt"):
        prepared(cache, FemnistLabelSplit, train_dir=folder)


@pytest.mark.parametrize("cut", [0, 10, 1_000, -10])
def test_a_cut_file_is_named(tmp_path, cache, cut):
    folder = write_pairs(tmp_path / "pairs", [2])
    path = folder / "data_0.pt"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"data_0\.pt was not loaded"):
        prepared(cache, FemnistLabelSplit, train_dir=folder)


def test_other_shapes_types_and_plain_labels_are_read(tmp_path, cache):
    folder = write_pairs(tmp_path / "pairs", [1])
    image = torch.arange(784, dtype=torch.bfloat16).reshape(1, 28, 28) % 2
    torch.save([[image, 3], (torch.ones(784, requires_grad=True), torch.tensor([4]))],
               folder / "data_0.pt")  # fmt: skip
    data = prepared(cache, FemnistLabelSplit, train_dir=folder).train()
    assert data.y.tolist() == [3, 4]
    assert data.x[0].reshape(-1)[:4].tolist() == [0, 255, 0, 255] and (data.x[1] == 255).all()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file with a few bytes changed, cut out or doubled."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed))
        kind = rng.randrange(3)
        if kind == 0:
            changed[at] = rng.choice(b'"{}[]:,-.eE0159 Nn\\\x00\xff')
        elif kind == 1:
            del changed[at : at + rng.randint(1, 40)]
        else:
            changed[at:at] = changed[at : at + rng.randint(1, 40)]
    return bytes(changed)


def test_mutated_files_are_read_or_refused_by_name(tmp_path):
    """Never another exception; and most of them are refused, or the test would show nothing."""
    rng = random.Random(1)
    write(tmp_path, {"a.json": {"a": 1, "b": 2}})
    write_pairs(tmp_path, [2])
    readers = {
        "a.json": lambda path: leaf.read_file(path, Femnist().decode),
        "data_0.pt": lambda path: saved_tensors.read_pairs(path, 784, 62),
    }
    for name, read in readers.items():
        whole, refused = (tmp_path / name).read_bytes(), 0
        for _ in range(200):
            (tmp_path / name).write_bytes(mutated(whole, rng))
            try:
                read(tmp_path / name)
            except ValueError as error:
                refused += 1
                assert name in str(error) and len(str(error)) < 600
        assert refused > 100


def test_a_prepared_object_travels_as_a_path(train, cache):
    data = prepared(cache, train_dir=train)
    data.partition(2)
    assert len(pickle.dumps(data)) < 2_000
