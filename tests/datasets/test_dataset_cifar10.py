"""CIFAR-10 from files in the published format: images, labels, options, and what goes wrong."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cifar10_files import NAMES, TRAIN, batch_bytes, content, write_folder

from decentralizepy.datasets.cifar10 import CIFAR10


@pytest.fixture
def root(tmp_path):
    write_folder(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def dataset(root: Path, **options) -> CIFAR10:
    return CIFAR10(train_dir=str(root), test_dir=str(root), **options)


def prepared(root: Path, cache: Path, **options) -> CIFAR10:
    data = dataset(root, **options)
    data.prepare(cache)
    return data


def test_images_have_colours_last_and_labels_are_whole_numbers(root, cache):
    data = prepared(root, cache)
    train, test = data.train(), data.test()
    assert data.counts() == (len(train), len(test)) == (100, 20)
    assert train.x.shape == (100, 32, 32, 3)
    assert test.x.shape == (20, 32, 32, 3)
    assert train.x.dtype == test.x.dtype == np.uint8
    assert train.y.dtype == test.y.dtype == np.int64
    for start, name in enumerate(TRAIN):
        planes, labels = content(name)
        images = train.x[20 * start : 20 * start + 20]
        for colour in range(3):
            plane = planes[:, 1024 * colour : 1024 * (colour + 1)].reshape(20, 32, 32)
            assert np.array_equal(images[..., colour], plane)
        assert train.y[20 * start : 20 * start + 20].tolist() == labels
    assert test.y.tolist() == content("test_batch")[1]


def test_arrays_are_mapped_read_only_and_c_ordered(root, cache):
    train = prepared(root, cache).train()
    assert isinstance(train.x, np.memmap)
    assert train.x.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        train.x[0] = 0


def test_normalization_maps_bytes_to_minus_one_and_one():
    norm = CIFAR10.normalization
    x = np.array([0, 51, 255], dtype=np.float32)
    assert np.allclose(x * norm.scale + norm.shift, (x / 255 - 0.5) / 0.5, atol=1e-6)


def test_the_folder_itself_may_be_named(root, cache):
    whole = prepared(root, cache)
    inner = prepared(root / "cifar-10-batches-py", cache)
    assert np.array_equal(whole.train().x, inner.train().x)
    assert whole.identity() == inner.identity()


def test_source_folders_may_be_read_only(root, cache):
    folder = root / "cifar-10-batches-py"
    before = sorted(p.name for p in root.rglob("*"))
    for path in [*folder.iterdir(), folder, root]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert prepared(root, cache).counts() == (100, 20)
        assert sorted(p.name for p in root.rglob("*")) == before
    finally:
        folder.chmod(0o755)
        root.chmod(0o755)


def test_an_empty_folder_name_means_no_such_part(root, cache):
    only_train = CIFAR10(train_dir=str(root))
    only_train.prepare(cache)
    assert only_train.counts() == (100, 0)
    assert only_train.test().x.shape == (0, 32, 32, 3)
    only_test = CIFAR10(test_dir=str(root))
    only_test.prepare(cache)
    assert only_test.counts() == (0, 20)
    with pytest.raises(ValueError, match="only 0 training samples"):
        only_test.partition(2)
    with pytest.raises(ValueError, match="set train_dir"):
        CIFAR10().prepare(cache)


def test_train_and_test_may_come_from_different_folders(root, tmp_path, cache):
    other = write_folder(tmp_path / "other", count=5)
    data = CIFAR10(train_dir=str(root), test_dir=str(other))
    data.prepare(cache)
    assert data.counts() == (100, 5)


def test_a_changed_source_is_prepared_again(root, cache):
    said: list[str] = []
    dataset(root).prepare(cache, said.append)
    assert sum(message.startswith("reading") for message in said) == 6
    dataset(root).prepare(cache, said.append)
    assert len(said) == 7
    data, labels = content("test_batch", 4)
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(batch_bytes(data, labels, "x"))
    assert prepared(root, cache).counts() == (100, 4)
    assert len(list(cache.glob("cifar10-*[!k]"))) == 2


def test_partitions_follow_the_options(root, cache):
    simple = prepared(root, cache).partition(4)
    assert [part.tolist() for part in simple] == [list(range(i, i + 25)) for i in (0, 25, 50, 75)]
    first = prepared(root, cache, partition_niid=False, random_seed=1).partition(4)
    again = prepared(root, cache, partition_niid="iid", random_seed=1).partition(4)
    other = prepared(root, cache, partition_niid="iid", random_seed=2).partition(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    sharded = prepared(root, cache, partition_niid=True, shards=2)
    labels = sharded.train().y
    assert all(len(np.unique(labels[part])) <= 8 for part in sharded.partition(5))
    sized = prepared(root, cache, sizes=[0.7, 0.3]).partition(2)
    assert [len(part) for part in sized] == [70, 30]
    skewed = prepared(root, cache, partition_niid="dirichlet", alpha=1.0).partition(4)
    assert sum(len(part) for part in skewed) == 100


def test_a_prepared_object_travels_as_a_path(root, cache):
    data = prepared(root, cache)
    data.train()
    wire = pickle.dumps(data)
    assert len(wire) < 2_000
    assert np.array_equal(pickle.loads(wire).train().y, data.train().y)


def test_asking_before_preparing_is_a_programming_error(root):
    with pytest.raises(RuntimeError, match="prepare"):
        dataset(root).train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition_niid": "shards"}, "partition_niid = 'shards'"),
        ({"alpha": 0.0}, "alpha = 0.0 must be above 0"),
        ({"alpha": float("nan")}, "alpha = nan"),
        ({"shards": 0}, "shards = 0"),
        ({"test_batch_size": 0}, "test_batch_size = 0"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        CIFAR10(train_dir="anywhere", **options)


def test_missing_files_are_named_with_the_remedy(tmp_path, cache):
    with pytest.raises(ValueError, match=r"train_dir.*lacks data_batch_1, .*Put the folder"):
        dataset(tmp_path / "nowhere", download=False).prepare(cache)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("inner", [True, False])
def test_one_missing_file_is_named_and_nothing_is_downloaded(root, cache, inner):
    folder = root / "cifar-10-batches-py"
    (folder / "data_batch_3").unlink()
    with pytest.raises(ValueError, match=r"lacks data_batch_3\. Put"):
        dataset(root if inner else folder).prepare(cache)


def test_a_folder_without_permission_is_named(tmp_path, cache, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ValueError, match=r"may not look into .*Permission denied"):
        dataset(tmp_path).prepare(cache)


def test_a_folder_of_training_files_only_is_not_mistaken_for_an_empty_one(root, cache):
    folder = root / "cifar-10-batches-py"
    (folder / "test_batch").unlink()
    with pytest.raises(ValueError, match=r"test_dir.* lacks test_batch\. Put"):
        dataset(folder).prepare(cache)


def damaged_cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1_000])


def damaged_flip(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"numpy.core.multiarray", b"numpy.core.multiarrax"))


def damaged_label(file: Path) -> None:
    data, labels = content(file.name)
    file.write_bytes(batch_bytes(data, [10, *labels[1:]], "x"))


def damaged_count(file: Path) -> None:
    data, labels = content(file.name)
    file.write_bytes(batch_bytes(data, labels[1:], "x"))


def damaged_width(file: Path) -> None:
    data, labels = content(file.name)
    file.write_bytes(batch_bytes(data[:, :3000], labels, "x"))


def damaged_empty(file: Path) -> None:
    file.write_bytes(b"\x80\x02}.")


@pytest.mark.parametrize(
    "damage",
    [damaged_cut, damaged_flip, damaged_label, damaged_count, damaged_width, damaged_empty],
)
def test_a_damaged_batch_is_named_and_nothing_is_cached(root, cache, damage):
    damage(root / "cifar-10-batches-py" / "data_batch_2")
    with pytest.raises(ValueError, match="data_batch_2"):
        dataset(root).prepare(cache)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_four_processes_prepare_one_copy(root, cache):
    code = (
        "import sys; from pathlib import Path; from decentralizepy.datasets.cifar10 import CIFAR10;"
        "d = CIFAR10(train_dir=sys.argv[1], test_dir=sys.argv[1]);"
        "d.prepare(Path(sys.argv[2]), print); print(d.counts());"
        "assert not {'torch', 'sklearn'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(root), str(cache)]
    racers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
        for _ in range(4)
    ]
    outputs = [racer.communicate(timeout=60)[0] for racer in racers]
    assert all("(100, 20)" in output for output in outputs)
    assert "".join(outputs).count("reading") == len(NAMES)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1
