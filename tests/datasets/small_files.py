"""Writes small files of every data set in its true on-disk format; always the same ones.

Each function writes below ``root`` and returns the keys of [DATASET] and [MODEL] that lead there.
"""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cifar10_files
import femnist_files
import numpy as np

Keys = dict[str, str]
USERS = 6
LETTERS = "to be, or not to be: that is the question. Whether 'tis nobler in the mind to suffer;\n"
WORDS = ("<PAD>", "<UNK>", "<BOS>", "<EOS>", "who", "is", "there", "?", "nobody", "!")


def leaf(folder: Path, users: Mapping[str, tuple[list[Any], list[Any]]]) -> Path:
    """One file of LEAF's for each user: name -> x, y."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (x, y) in users.items():
        content = {"users": [name], "num_samples": [len(y)], "user_data": {name: {"x": x, "y": y}}}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def both(root: Path) -> Keys:
    return {"DATASET.train_dir": str(root / "train"), "DATASET.test_dir": str(root / "test")}


def picture(path: Path, number: int, size: tuple[int, int] = (178, 218)) -> np.ndarray:
    """An image of a colour of its own; returns its pixels [H, W, 3]."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    image = small.resize(size)
    image.save(path)
    return np.asarray(image)


def celeba(root: Path) -> Keys:
    """LEAF's: names of JPEGs in the JSON, PNGs in the folder."""
    number = 0
    for part, count in (("train", 5), ("test", 2)):
        users = {}
        for user in range(USERS):
            names = [f"{number + i + 1:06}.jpg" for i in range(count)]
            for name in names:
                number += 1
                picture(root / "images" / name.replace(".jpg", ".png"), number)
            users[str(100 + user)] = names, [(user + i) % 2 for i in range(count)]
        leaf(root / part, users)
    return {**both(root), "DATASET.images_dir": str(root / "images")}


def shakespeare(root: Path) -> Keys:
    """LEAF's: 80 letters, and the next one."""
    text = LETTERS * 6
    for part, count in (("train", 6), ("test", 12)):
        users = {}
        for user in range(USERS):
            at = [(37 * user + 5 * i) % 400 for i in range(count)]
            users[f"PLAY_{user}_ROLE"] = [text[k : k + 80] for k in at], [text[k + 80] for k in at]
        leaf(root / part, users)
    return both(root)


def reddit(root: Path) -> Keys:
    """LEAF's: comments of sequences of ten words, and a pickled vocabulary."""
    folder = root / "vocab"
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    symbols = {"size": len(WORDS), "unk_symbol": 1, "pad_symbol": 0}
    (folder / "reddit_vocab.pck").write_bytes(pickle.dumps({"vocab": vocabulary, **symbols}))
    for part in ("train", "test"):
        leaf(root / "data" / part, {f"u{user}": _comments(user) for user in range(USERS)})
    return both(root / "data")


def _comments(user: int) -> tuple[list[Any], list[Any]]:
    """Four comments of a user; every second one has a further sequence of padding alone."""
    x, y = [], []
    for k in range(4):
        words = [WORDS[4 + (user + k + i) % 6] for i in range(8)]
        target = [*words[1:], "unheard-of" if k == 3 else WORDS[4 + (user + k) % 6]]
        first = ["<BOS>", *words[:-1], "<PAD>", "<PAD>"], [*target, "<PAD>", "<PAD>"]
        more = [["<PAD>"] * 10] if k % 2 else []
        x.append([first[0], *more])
        y.append({"target_tokens": [first[1], *more], "count_tokens": 8})
    return x, y


def movielens(root: Path) -> Keys:
    """GroupLens's: 12 users who rate 10 of 30 films each, whose numbers have gaps."""
    folder = root / "ml-latest-small"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(1, 13):
        films = np.sort(rng.choice(30, 10, replace=False)) * 7 + 1
        lines += [f"{user},{film},{rng.integers(1, 11) / 2:.1f},96498{film:04}" for film in films]
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    return {"DATASET.train_dir": str(root), "DATASET.test_dir": str(root)}


def amazon_review(root: Path) -> Keys:
    """FedScale's: a CSV per client; and a tiny BERT with its vocabulary."""
    for part, count in (("train", 6), ("test", 2)):
        (root / part).mkdir(parents=True, exist_ok=True)
        for client in range(USERS):
            with (root / part / f"{client}.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["client_id", "data_path", "label_name", "label_id"])
                for k in range(count):
                    text = f'who is "there", {"nobody " * (k + 1)}?\n{WORDS[4 + client % 6]}'
                    table.writerow([client, text, 1 + (client + k) % 5, (client + k) % 5])
    model = str(bert(root / "bert"))
    return {**both(root), "DATASET.tokenizer": model, "MODEL.folder": model}


def bert(folder: Path) -> Path:
    """A BERT of 2,000 weights with a vocabulary of 15 pieces, as `save_pretrained` writes them."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS[4:], '"', ",", "##s", "a"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(pieces), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, num_labels=5, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def image_folder(root: Path) -> Keys:
    """Three classes; images of several formats and sizes."""
    for part, count in (("train", 8), ("test", 2)):
        for number, label in enumerate(("bee", "cat", "dog")):
            for k in range(count):
                name = f"{k}.{('png', 'jpg', 'bmp')[k % 3]}"
                picture(root / part / label / name, 100 * number + k, (40 + k, 30))
    return both(root)


def numpy_files(root: Path) -> Keys:
    """Eight numbers a sample, three labels, and whose each sample is."""
    rng = np.random.default_rng(5)
    for part, count in (("train", 48), ("test", 12)):
        (root / part).mkdir(parents=True, exist_ok=True)
        labels = np.arange(count) % 3
        x = rng.normal(size=(count, 8)) + labels[:, None]
        np.save(root / part / "x.npy", x)
        np.save(root / part / "y.npy", labels)
    np.save(root / "train" / "users.npy", np.array([f"u{k % 5}" for k in range(48)]))
    return both(root)


def hugging_face(root: Path) -> Keys:
    """A `DatasetDict` of reviews, saved to disk; and a tiny BERT."""
    import datasets

    words = WORDS[4:]

    def part(count: int) -> Any:
        texts = [" ".join(words[(k + i) % 6] for i in range(3 + k % 4)) for k in range(count)]
        rows = {"text": texts, "label": [k % 2 for k in range(count)]}
        return datasets.Dataset.from_dict({**rows, "writer": [f"w{k % 5}" for k in range(count)]})

    whole = datasets.DatasetDict({"train": part(40), "test": part(8)})
    whole.save_to_disk(str(root / "saved"))
    model = str(bert(root / "bert"))
    keys = {"DATASET.train_dir": str(root / "saved"), "DATASET.tokenizer": model}
    return {**keys, "MODEL.folder": model}


def cifar10(root: Path) -> Keys:
    cifar10_files.write_folder(root)
    return {"DATASET.train_dir": str(root), "DATASET.test_dir": str(root)}


def femnist(root: Path) -> Keys:
    femnist_files.per_user(root / "train", [6] * USERS)
    femnist_files.write(root / "test", {"t.json": {"t1": 4, "t2": 3}}, "test")
    return both(root)


def femnist_label_split(root: Path) -> Keys:
    femnist_files.write_pairs(root / "train", [6] * USERS)
    femnist_files.write(root / "test", {"t.json": {"t1": 4, "t2": 3}}, "test")
    return both(root)


#: class of a data set -> what writes its files
WRITERS: dict[str, Callable[[Path], Keys]] = {
    "AmazonReview": amazon_review,
    "CIFAR10": cifar10,
    "Celeba": celeba,
    "Digits": lambda root: {},
    "Femnist": femnist,
    "FemnistLabelSplit": femnist_label_split,
    "HuggingFace": hugging_face,
    "ImageFolder": image_folder,
    "MovieLens": movielens,
    "NumpyFiles": numpy_files,
    "Reddit": reddit,
    "Shakespeare": shakespeare,
}
