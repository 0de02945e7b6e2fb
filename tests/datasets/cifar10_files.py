"""Writes small CIFAR-10 folders in the true on-disk format.

The published files were written by Python 2 with pickle protocol 2: their strings and array bytes
are Python 2 strings (BINSTRING), which Python 3 cannot write. So the opcodes are put down by hand.
"""

import struct
from pathlib import Path

import numpy as np

TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
NAMES = (*TRAIN, "test_batch")


def short(text: str) -> bytes:
    """A Python 2 string of at most 255 bytes."""
    return b"U" + bytes([len(text)]) + text.encode()


def small(number: int) -> bytes:
    return b"K" + bytes([number]) if number < 256 else b"M" + struct.pack("<H", number)


def array(data: np.ndarray) -> bytes:
    """A uint8 matrix as Python 2's numpy pickles it."""
    rows, columns = data.shape
    raw = data.tobytes()
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    minus_one = b"J\xff\xff\xff\xff"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * minus_one + b"K\x00tb"
    shape = small(rows) + small(columns) + b"\x86"
    return empty + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<I", len(raw)) + raw + b"tb"


def listed(items: list[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def batch_bytes(data: np.ndarray, labels: list[int], title: str) -> bytes:
    """One batch file: batch_label, labels, data, filenames."""
    names = [short(f"image_{i}.png") for i in range(len(labels))]
    items = [
        short("batch_label") + short(title),
        short("labels") + listed([small(label) for label in labels]),
        short("data") + array(data),
        short("filenames") + listed(names),
    ]
    return b"\x80\x02}(" + b"".join(items) + b"u."


def content(name: str, count: int = 20) -> tuple[np.ndarray, list[int]]:
    """The images (uint8 [count, 3072], planes of red, green, blue) and labels of a batch."""
    rng = np.random.default_rng(NAMES.index(name))
    data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return data, [int(label) for label in rng.permutation(np.arange(count) % 10)]


def write_folder(root: Path, count: int = 20) -> Path:
    """All six batches in `root/cifar-10-batches-py`; returns that folder."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(batch_bytes(*content(name, count), title=name))
    return folder
