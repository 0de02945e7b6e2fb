"""CelebA, Shakespeare and Reddit: what models see of LEAF's files, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_files import LETTERS as TEXT
from small_files import USERS, WORDS, celeba, leaf, picture, reddit, shakespeare

from decentralizepy.datasets.celeba import Celeba
from decentralizepy.datasets.leaf import Leaf
from decentralizepy.datasets.prepare import Streamed
from decentralizepy.datasets.reddit import Reddit
from decentralizepy.datasets.shakespeare import LETTERS, NUM_CLASSES, Shakespeare, numbers


def prepared(kind: type[Leaf], keys: dict[str, str], root: Path, **more: Any) -> Any:
    data = kind(**{key.split(".")[1]: value for key, value in keys.items()}, **more)
    data.prepare(root / "cache")
    return data


def users(folder: str) -> list[dict[str, Any]]:
    """The content of each user, in the order of the files' names."""
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        content = json.loads(path.read_text())
        found += [content["user_data"][user] for user in content["users"]]
    return found


def test_users_are_dealt_as_in_the_reference(tmp_path: Path) -> None:
    keys = shakespeare(tmp_path)
    data = prepared(Shakespeare, keys, tmp_path, random_seed=90)
    order = list(range(USERS))
    random.Random(90).shuffle(order)
    for uid, part in enumerate(data.partition(3)):
        own = order[2 * uid : 2 * uid + 2]
        assert part.tolist() == [6 * user + k for user in own for k in range(6)]


# ------------------------------------------------------------------------- CelebA


def test_faces_are_pixels_as_pillow_resizes_them(tmp_path: Path) -> None:
    keys = celeba(tmp_path)
    data = prepared(Celeba, keys, tmp_path)
    names = [name for user in users(keys["DATASET.train_dir"]) for name in user["x"]]
    labels = [label for user in users(keys["DATASET.train_dir"]) for label in user["y"]]
    x, y = data.train().x, data.train().y
    assert x.shape == (30, 84, 84, 3) and x.dtype == np.uint8
    assert y.tolist() == labels
    for name, found in zip(names, x, strict=True):
        png = Path(keys["DATASET.images_dir"]) / name.replace(".jpg", ".png")
        assert np.array_equal(found, np.asarray(Image.open(png).resize((84, 84))))
    norm = data.normalization
    assert (norm.scale, norm.shift) == (1.0, 0.0), "models see 0 to 255, as in the reference"


def test_images_of_any_kind_and_name_are_taken(tmp_path: Path) -> None:
    leaf(tmp_path / "train", {"a": (["1.jpg", "2.bmp", "3.png"], [0, 1, 1])})
    picture(tmp_path / "images" / "1.png", 1)
    picture(tmp_path / "images" / "1.jpg", 2)  # the PNG goes before it
    exact = picture(tmp_path / "images" / "2.bmp", 3, (84, 84))
    Image.fromarray(np.full((10, 20), 77, np.uint8)).save(tmp_path / "images" / "3.png")
    keys = {"d.train_dir": str(tmp_path / "train"), "d.images_dir": str(tmp_path / "images")}
    x = prepared(Celeba, keys, tmp_path).train().x
    assert np.array_equal(x[0], np.asarray(Image.open(tmp_path / "images/1.png").resize((84, 84))))
    assert np.array_equal(x[1], exact) and (x[2] == 77).all()


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (["nobody.jpg"], [1], "there is no image .*nobody.jpg"),
        (
            ["../1.png"],
            [1],
            r"a.json is not a LEAF file: user 'a': 'x': '../1.png' is not the name",
        ),
        ([""], [1], "'x': '' is not the name"),
        ([7], [1], "'x' is not a list of texts"),
        (["1.png", "1.png"], [1], "'x' names 2 images, 'y' has 1 labels"),
        (["1.png"], [2], "'y' is not a list of whole numbers from 0 to 1"),
        (["bad.png"], [1], "bad.png is not a readable image"),
    ],
)
def test_faces_that_are_refused(x: list[Any], y: list[int], said: str, tmp_path: Path) -> None:
    leaf(tmp_path / "train", {"a": (x, y)})
    picture(tmp_path / "images" / "1.png", 1)
    (tmp_path / "images" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    keys = {"d.train_dir": str(tmp_path / "train"), "d.images_dir": str(tmp_path / "images")}
    with pytest.raises(ValueError, match=said):
        prepared(Celeba, keys, tmp_path)
    assert not list((tmp_path / "cache").glob("celeba-*")), "nothing half is left"


def test_a_streamed_array_is_what_it_says(tmp_path: Path) -> None:
    blocks = [np.ones((2, 3), np.int16), np.zeros((1, 3), np.int16)]
    for shape, dtype, said in (
        ((3, 3), np.int16, ""),
        ((4, 3), np.int16, "3 rows"),
        ((3, 2), np.int16, "a block"),
        ((3, 3), np.int32, "a block"),
    ):
        with (tmp_path / "a.npy").open("wb") as file:
            array = Streamed(shape, np.dtype(dtype), blocks)
            if said:
                with pytest.raises(RuntimeError, match=said):
                    array.save(file)
                continue
            array.save(file)
        assert np.array_equal(np.load(tmp_path / "a.npy"), np.concatenate(blocks))


# -------------------------------------------------------------------- Shakespeare


def test_letters_are_numbered_as_in_the_reference() -> None:
    """A dictionary made in the order of the letters: of one that is there twice, the last place."""
    assert NUM_CLASSES == 92 and set(TEXT) <= set(LETTERS)
    table = {letter: k for k, letter in enumerate(LETTERS)}
    assert numbers(LETTERS).tolist() == [table[letter] for letter in LETTERS]
    assert table["d"] == 0 and table[">"] == 91 and table["{"] == 87
    for letter in ("é", "\0", "~", "\U0001f600", "\ud800", "|"):
        with pytest.raises(ValueError, match="none of the 92"):
            numbers(f"ab{letter}")


def test_texts_are_tokens_and_each_thirtieth_is_tested(tmp_path: Path) -> None:
    keys = shakespeare(tmp_path)
    data = prepared(Shakespeare, keys, tmp_path)
    table = {letter: k for k, letter in enumerate(LETTERS)}
    texts = [text for user in users(keys["DATASET.train_dir"]) for text in user["x"]]
    nexts = [letter for user in users(keys["DATASET.train_dir"]) for letter in user["y"]]
    x = data.train().x
    assert x.dtype == np.int16 and x.tolist() == [[table[c] for c in text] for text in texts]
    assert data.train().y.tolist() == [table[letter] for letter in nexts]
    tested = [text for user in users(keys["DATASET.test_dir"]) for text in user["x"]]
    assert len(tested) == 72 and len(data.test()) == 3
    assert data.test().x.tolist() == [[table[c] for c in text] for text in tested[::30]]
    assert len(prepared(Shakespeare, keys, tmp_path, test_every=1).test()) == 72
    with pytest.raises(ValueError, match="test_every = 0"):
        Shakespeare(train_dir="x", test_every=0)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (["short"], ["a"], "'x' is not a list of texts of 80"),
        (["a" * 80], ["ab"], "'y' is not a list of texts of 1"),
        (["a" * 80], [], "'num_samples'|'x' has 1 texts"),
        (["a" * 79 + "é"], ["a"], "a.json is not a LEAF file: user 'a': the letter 'é'"),
    ],
)
def test_plays_that_are_refused(x: list[Any], y: list[Any], said: str, tmp_path: Path) -> None:
    leaf(tmp_path / "train", {"a": (x, y)})
    with pytest.raises(ValueError, match=said):
        prepared(Shakespeare, {"d.train_dir": str(tmp_path / "train")}, tmp_path)


# ------------------------------------------------------------------------- Reddit


def test_words_are_numbers_and_the_last_one_is_the_target(tmp_path: Path) -> None:
    keys = reddit(tmp_path)
    data = prepared(Reddit, keys, tmp_path)
    known = {word: k for k, word in enumerate(WORDS)}
    x, y = [], []
    for user in users(keys["DATASET.train_dir"]):
        for comment, target in zip(user["x"], user["y"], strict=True):
            for sequence, words in zip(comment, target["target_tokens"], strict=True):
                kept = [word for word in words if word != "<PAD>"]
                if kept:
                    x.append([known.get(word, 1) for word in sequence])
                    y.append(known.get(kept[-1], 1))
    assert data.train().x.tolist() == x and data.train().y.tolist() == y
    assert len(y) == 4 * USERS and 1 in y, "sequences of padding alone are left out"
    assert data.train().x.dtype == np.int16 and data.num_classes == 9_999


def test_a_word_beyond_the_models_is_unknown(tmp_path: Path) -> None:
    keys = reddit(tmp_path)
    other = tmp_path / "other.pck"
    words = {word: k for k, word in enumerate(WORDS)} | {"nobody": 9_999}
    other.write_bytes(
        pickle.dumps({"vocab": words, "size": 10_000, "unk_symbol": 1, "pad_symbol": 0})
    )
    data = prepared(Reddit, keys, tmp_path, vocab_file=str(other))
    plain = prepared(Reddit, keys, tmp_path)
    assert np.array_equal(data.train().x == 8, np.zeros(data.train().x.shape, bool))
    assert np.array_equal((data.train().x == 1), (plain.train().x == 8) | (plain.train().x == 1))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def test_a_vocabulary_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = reddit(tmp_path)
    path = tmp_path / "vocab" / "reddit_vocab.pck"
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "evil"))
    path.write_bytes(pickle.dumps({"vocab": Evil(), "unk_symbol": 1, "pad_symbol": 0}))
    with pytest.raises(ValueError, match=r"reddit_vocab.pck is not a readable pickle.*mkdir"):
        prepared(Reddit, keys, tmp_path)
    assert not (tmp_path / "evil").exists()
    pickle.loads(path.read_bytes())  # which would have run it
    assert (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "value",
    [
        [], {}, {"vocab": {}}, {"vocab": {"a": "b"}, "unk_symbol": 1, "pad_symbol": 0},
        {"vocab": {"a": 1}, "unk_symbol": -1, "pad_symbol": 0},
        {"vocab": {"a": 1}, "unk_symbol": 9_999, "pad_symbol": 0},
        {"vocab": {1: 1}, "unk_symbol": 1, "pad_symbol": 0},
    ],
)  # fmt: skip
def test_vocabularies_that_are_refused(value: Any, tmp_path: Path) -> None:
    keys = reddit(tmp_path)
    (tmp_path / "vocab" / "reddit_vocab.pck").write_bytes(pickle.dumps(value))
    with pytest.raises(ValueError, match="is not LEAF's vocabulary"):
        prepared(Reddit, keys, tmp_path)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([["a"] * 10], [{"target_tokens": [["a"] * 10]}], "'x' is not a list of texts"),
        ([[["a"] * 9]], [{"target_tokens": [["a"] * 10]}], "'x': a sequence is not of 10 words"),
        ([[["a"] * 10]], [[["a"] * 10]], "objects with 'target_tokens'"),
        ([[["a"] * 10]], [{"target_tokens": []}], "'x' has 1 sequences, 'y' 0"),
        ([[["a"] * 10]], [{}], "'y' is not a list of comments"),
    ],
)
def test_comments_that_are_refused(x: list[Any], y: list[Any], said: str, tmp_path: Path) -> None:
    keys = reddit(tmp_path)
    leaf(Path(keys["DATASET.train_dir"]), {"z": (x, y)})
    with pytest.raises(ValueError, match=said):
        prepared(Reddit, keys, tmp_path)
