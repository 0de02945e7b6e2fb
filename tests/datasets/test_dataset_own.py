"""Reviews, and data of one's own: files of NumPy, image folders, what `datasets` saved."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_files import Keys, amazon_review, bert, image_folder, numpy_files, picture

from decentralizepy.datasets import tokens as texts
from decentralizepy.datasets.amazon_review import AmazonReview, read_file
from decentralizepy.datasets.base import Dataset
from decentralizepy.datasets.hugging_face import HuggingFace
from decentralizepy.datasets.image_folder import ImageFolder
from decentralizepy.datasets.numpy_files import NumpyFiles
from decentralizepy.datasets.tokens import tokens


def prepared(kind: type[Dataset], keys: Keys, root: Path, **more: Any) -> Any:
    options = {k.split(".")[1]: value for k, value in keys.items() if k.startswith("DATASET.")}
    data = kind(**(options | more))
    data.prepare(root / "cache")
    return data


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Keys]:
    root = tmp_path_factory.mktemp("reviews")
    return root, amazon_review(root)


# ------------------------------------------------------------------------ reviews


def test_reviews_are_tokens_of_the_tokenizer(reviews: tuple[Path, Keys]) -> None:
    """Word pieces by hand: what stands between brackets is BERT's own."""
    root, keys = reviews
    data = prepared(AmazonReview, keys, root)
    pieces = (root / "bert" / "vocab.txt").read_text().split("\n")
    files = sorted((root / "train").glob("*.csv"))
    rows = [row for path in files for row in csv.DictReader(path.open(newline=""))]
    for found, row in zip(data.train().x, rows, strict=True):
        words = row["data_path"].replace('"', ' " ').replace(",", " , ").replace("?", " ? ")
        expected = ["[CLS]", *words.split(), "[SEP]"]
        assert [pieces[k] for k in found[: len(expected)]] == expected
        assert not found[len(expected) :].any(), "filled up with padding, 0"
    assert data.train().y.tolist() == [int(row["label_name"]) - 1 for row in rows]
    assert data.train().x.shape[1] == data.test().x.shape[1], "as long as the longest of all"
    short = prepared(AmazonReview, keys, root, max_length=5)
    assert short.train().x.shape[1] == 5 and (short.train().x[:, 4] == 3).all(), "[SEP] stays"


def test_each_node_gets_one_client_as_in_the_reference(reviews: tuple[Path, Keys]) -> None:
    root, keys = reviews
    files = list(range(6))
    random.Random(97).shuffle(files)
    parts = prepared(AmazonReview, keys, root, random_seed=97).partition(4)
    assert [part[0] // 6 for part in parts] == files[:4]
    assert [len(part) for part in parts] == [6] * 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "needs the columns data_path and label_name"),
        ("data_path,label_name\nfine,6\n", "label_name = '6' is not 1 to 5 stars"),
        ("data_path,label_name\nfine,2.5\n", "not 1 to 5 stars"),
        ("data_path,label_name\nfine\n", "label_name = None"),
        ('data_path,label_name\n"fine,1\n', "not a file of reviews"),
        ("", "needs the columns"),
    ],
)
def test_reviews_that_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_file(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("data_path,label_name\n,1.0\n")
    assert read_file(tmp_path / "a.csv") == [("", 1)]


def test_a_tokenizer_that_is_nowhere_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", None)
    for name in ("BERT", "nobody/nothing", "/nowhere"):
        with pytest.raises(ValueError, match=f"tokenizer = {name}: not a folder"):
            tokens(["who"], name, 8)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'decentralizepy\[text\]'"):
        tokens(["who"], "BERT", 8)
    assert texts.PUBLISHED["BERT"].endswith("bert-base-uncased")


# ------------------------------------------------------------------ files of NumPy


def test_files_of_numpy_are_taken_as_they_are(tmp_path: Path) -> None:
    keys = numpy_files(tmp_path)
    data = prepared(NumpyFiles, keys, tmp_path, scale=0.5, shift=-1.0, task="rating")
    assert np.array_equal(data.train().x, np.load(tmp_path / "train" / "x.npy"))
    assert data.task == "rating" and data.normalization.shift == -1.0
    assert [len(part) for part in data.partition(4)] == [12] * 4
    skewed = prepared(NumpyFiles, keys, tmp_path, partition_niid="kshard")
    assert [len(set(skewed.train().y[part])) for part in skewed.partition(3)] != [3, 3, 3]
    alone = prepared(NumpyFiles, keys, tmp_path, test_dir="")
    assert alone.counts() == (48, 0) and alone.test().x.shape == (0, 8)


def test_samples_of_a_user_stay_together(tmp_path: Path) -> None:
    keys = numpy_files(tmp_path)
    owners = np.load(tmp_path / "train" / "users.npy")
    data = prepared(NumpyFiles, keys, tmp_path, by_user=True)
    order = np.argsort(owners, kind="stable")
    assert np.array_equal(data.train().x, np.load(tmp_path / "train" / "x.npy")[order])
    seen = [set(owners[order][part]) for part in data.partition(5)]
    assert all(len(one) == 1 for one in seen) and len(set.union(*seen)) == 5
    np.save(tmp_path / "train" / "users.npy", owners[1:])
    with pytest.raises(ValueError, match="no user for each training sample"):
        prepared(NumpyFiles, keys, tmp_path, by_user=True)


def test_grey_images_get_a_channel(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 9, 9), np.uint8))
    np.save(tmp_path / "y.npy", np.arange(4))
    data = prepared(NumpyFiles, {"DATASET.train_dir": str(tmp_path)}, tmp_path)
    assert data.train().x.shape == (4, 9, 9, 1)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.zeros((3, 2)), np.zeros(4), "x.npy has 3 samples, y.npy 4 targets"),
        (np.zeros(3, dtype="U4"), np.zeros(3), "not numbers"),
        (np.float64(3), np.zeros(3), "not one array with a row for each sample"),
        (np.array([{}, {}]), np.zeros(2), "x.npy is not an array of NumPy"),
    ],
)
def test_arrays_that_are_refused(x: Any, y: Any, said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    with pytest.raises(ValueError, match=said):
        prepared(NumpyFiles, {"DATASET.train_dir": str(tmp_path)}, tmp_path)


# ------------------------------------------------------------------------- images


def test_a_folder_is_a_class(tmp_path: Path) -> None:
    keys = image_folder(tmp_path)
    data = prepared(ImageFolder, keys, tmp_path, side=16, partition_niid="kshard")
    assert data.train().x.shape == (24, 16, 16, 3) and data.train().x.dtype == np.uint8
    assert data.train().y.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    bees = sorted((tmp_path / "train" / "bee").iterdir())
    for path, found in zip(bees, data.train().x[:8], strict=True):
        assert np.array_equal(found, np.asarray(Image.open(path).convert("RGB").resize((16, 16))))
    assert any(len(set(data.train().y[part].tolist())) < 3 for part in data.partition(3))
    grey = prepared(ImageFolder, keys, tmp_path, side=16, channels=1)
    assert grey.train().x.shape == (24, 16, 16, 1)
    norm = data.normalization
    assert (0 * norm.scale + norm.shift, 255 * norm.scale + norm.shift) == (-1.0, 1.0)


def test_a_changed_image_is_read_anew(tmp_path: Path) -> None:
    keys = image_folder(tmp_path)
    before = prepared(ImageFolder, keys, tmp_path).train().x[0].copy()
    picture(tmp_path / "train" / "bee" / "0.png", 999, (50, 60))
    assert not np.array_equal(prepared(ImageFolder, keys, tmp_path).train().x[0], before)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    keys = image_folder(tmp_path)
    (tmp_path / "train" / "eel").mkdir()
    with pytest.raises(ValueError, match="train/eel has no image"):
        prepared(ImageFolder, keys, tmp_path)
    (tmp_path / "train" / "eel").rmdir()
    picture(tmp_path / "test" / "fox" / "1.png", 1)
    with pytest.raises(ValueError, match="test_dir has the class fox, which train_dir lacks"):
        prepared(ImageFolder, keys, tmp_path)
    with pytest.raises(ValueError, match="train/bee has no folder of a class"):
        prepared(ImageFolder, {"DATASET.train_dir": str(tmp_path / "train" / "bee")}, tmp_path)
    for wrong in ({"channels": 2}, {"side": 0}):
        with pytest.raises(ValueError, match="channels"):
            prepared(ImageFolder, keys, tmp_path, **wrong)


def test_pillow_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = image_folder(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ValueError, match=r"pip install 'decentralizepy\[images\]'"):
        prepared(ImageFolder, keys, tmp_path)


# ---------------------------------------------------------------- Hugging Face's


def saved(folder: Path, columns: dict[str, list[Any]], split: str = "") -> str:
    import datasets

    part = datasets.Dataset.from_dict(columns)
    whole = datasets.DatasetDict({split: part}) if split else part
    whole.save_to_disk(str(folder))
    return str(folder)


def test_numbers_lists_and_users_of_columns(tmp_path: Path) -> None:
    rows = {"features": [[k, k / 2] for k in range(10)], "stars": [k / 2 for k in range(10)]}
    folder = saved(tmp_path / "saved", rows | {"who": [f"w{k % 3}" for k in range(10)]}, "all")
    options: dict[str, Any] = {"input": "features", "target": "stars", "task": "rating"}
    options |= {"train_split": "all", "test_split": "", "by_user": True, "user": "who"}
    data = prepared(HuggingFace, {"DATASET.train_dir": folder}, tmp_path, **options)
    order = [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
    assert data.train().x.dtype == np.float32 and data.train().x[:, 0].tolist() == order
    assert data.train().y.tolist() == [k / 2 for k in order]
    assert sorted(map(len, data.partition(3))) == [3, 3, 4] and data.counts() == (10, 0)


def test_images_of_a_column(tmp_path: Path) -> None:
    import datasets

    paths = []
    for k in range(4):
        picture(tmp_path / f"{k}.png", k, (20, 10))
        paths.append(str(tmp_path / f"{k}.png"))
    part = datasets.Dataset.from_dict({"image": paths, "label": [0, 1, 0, 1]})
    part = part.cast_column("image", datasets.Image())
    part.save_to_disk(str(tmp_path / "saved"))
    keys = {"DATASET.train_dir": str(tmp_path / "saved")}
    data = prepared(HuggingFace, keys, tmp_path, input="image", test_split="", side=8)
    wanted = [np.asarray(Image.open(path).resize((8, 8))) for path in paths]
    assert np.array_equal(data.train().x, np.stack(wanted))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"input": "nothing"}, "no column 'nothing'; there are text, label, ragged"),
        ({"input": "text", "train_split": "all"}, "train_split = all: .* has the parts train"),
        ({"input": "label", "target": "text"}, "column 'text' holds neither numbers nor"),
        ({"input": "ragged"}, "lists of column 'ragged' have different lengths"),
    ],
)
def test_columns_that_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    columns = {"text": ["who", "is"], "label": [0, 1], "ragged": [[1], [1, 2]]}
    keys = {"DATASET.train_dir": saved(tmp_path / "saved", columns, "train")}
    keys["DATASET.tokenizer"] = str(bert(tmp_path / "bert"))
    with pytest.raises(ValueError, match=said):
        prepared(HuggingFace, keys, tmp_path, test_split="", **options)
    with pytest.raises(ValueError, match="by_user: name the column"):
        HuggingFace(input="text", by_user=True)
