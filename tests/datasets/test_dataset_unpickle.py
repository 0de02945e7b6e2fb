"""Batch files are read; nothing that a pickle asks for is run."""

import os
import pickle

import numpy as np
import pytest
from cifar10_files import batch_bytes, content

from decentralizepy.datasets.unpickle import load_batch


class Canary:
    """Makes a folder when it is unpickled the usual way."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "data_batch_1"


def test_a_python_2_batch_is_read(file):
    data, labels = content("data_batch_1")
    file.write_bytes(batch_bytes(data, labels, "training batch 1 of 5"))
    batch = load_batch(file)
    assert np.array_equal(batch[b"data"], data)
    assert batch[b"data"].dtype == np.uint8
    assert batch[b"labels"] == labels
    assert batch[b"batch_label"] == b"training batch 1 of 5"
    assert batch[b"filenames"][3] == b"image_3.png"


def test_the_test_files_are_pickles_that_numpy_reads_alike(file):
    data, labels = content("test_batch")
    value = pickle.loads(batch_bytes(data, labels, "x"), encoding="bytes")
    assert np.array_equal(value[b"data"], data)
    assert value[b"labels"] == labels


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_a_batch_written_again_with_python_3_is_read(file, protocol):
    data, labels = content("data_batch_1", 3)
    for written in (data, np.asfortranarray(data)):
        file.write_bytes(pickle.dumps({"data": written, b"labels": labels}, protocol))
        batch = load_batch(file)
        assert np.array_equal(batch[b"data"], data)
        assert batch[b"labels"] == labels


@pytest.mark.parametrize("dtype", ["<f4", ">i8", "bool", "u2"])
def test_other_plain_numbers_are_read(file, dtype):
    data = np.arange(6).reshape(2, 3).astype(dtype)
    file.write_bytes(pickle.dumps({b"data": data}, 2))
    assert np.array_equal(load_batch(file)[b"data"], data)
    assert load_batch(file)[b"data"].dtype == data.dtype


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_and_does_nothing(file, tmp_path, protocol):
    hatched = tmp_path / "hatched"
    file.write_bytes(pickle.dumps({b"data": Canary(hatched), b"labels": []}, protocol))
    with pytest.raises(ValueError, match=rf"data_batch_1.*{os.name}\.mkdir"):
        load_batch(file)
    assert not hatched.exists()


def test_the_canary_would_have_worked(tmp_path):
    hatched = tmp_path / "hatched"
    pickle.loads(pickle.dumps({b"data": Canary(hatched)}, 2))
    assert hatched.is_dir()


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "builtins.getattr", "numpy.load", "copyreg.__newobj__"]
)
def test_other_names_are_refused(file, name):
    file.write_bytes(b"\x80\x02c" + name.replace(".", "\n").encode() + b"\n.")
    with pytest.raises(ValueError, match=name):
        load_batch(file)


@pytest.mark.parametrize("data", [np.array([None]), np.array(["a"]), np.zeros(2, "u1,f4")])
def test_arrays_of_anything_but_numbers_are_refused(file, data):
    file.write_bytes(pickle.dumps({b"data": data}, 2))
    with pytest.raises(ValueError, match="data_batch_1"):
        load_batch(file)


def test_a_type_whose_flags_lie_is_refused(file):
    # numpy itself would let this turn the raw bytes of an object array into pointers.
    raw = batch_bytes(*content("test_batch", 2), title="x").replace(b"U\x02u1", b"U\x02O8")
    file.write_bytes(raw)
    with pytest.raises(ValueError, match="plain numbers"):
        load_batch(file)


def test_a_shape_that_lies_is_refused(file):
    data, labels = content("test_batch", 2)
    raw = batch_bytes(data, labels, "x").replace(b"K\x02M\x00\x0c\x86", b"K\x09M\x00\x0c\x86")
    file.write_bytes(raw)
    with pytest.raises(ValueError, match="shape"):
        load_batch(file)


@pytest.mark.parametrize("cut", [0, 1, 30, 5_000, -1])
def test_a_cut_file_is_refused(file, cut):
    whole = batch_bytes(*content("data_batch_1"), title="x")
    file.write_bytes(whole[:cut])
    with pytest.raises(ValueError, match="data_batch_1 is not a readable"):
        load_batch(file)


def test_random_bytes_are_refused(file):
    for seed in range(50):
        file.write_bytes(b"\x80\x02" + np.random.default_rng(seed).bytes(200))
        with pytest.raises(ValueError, match="data_batch_1"):
            load_batch(file)


def test_anything_but_a_dictionary_is_refused(file):
    file.write_bytes(pickle.dumps([1, 2], 2))
    with pytest.raises(ValueError, match="holds a list"):
        load_batch(file)
