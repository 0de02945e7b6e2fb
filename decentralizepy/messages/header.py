"""The header in front of every message, and so the number of bytes a message takes.

A message is one JSON header, padded with spaces to a multiple of `ALIGNMENT` bytes, followed by
its tensors as raw little-endian bytes in frames of about 1 MB. This module is free of torch, so
that a plan can count bytes exactly before anything runs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

ALIGNMENT: Final = 128
MAX_HEADER: Final = 1 << 20
MAX_TENSORS: Final = 1024
MAX_DIMS: Final = 8
#: Bytes of tensors in one message. The limit is the same wherever the receivers are, so that what
#: passes on one worker passes on many machines; `message.check_size` tells the sender.
MAX_PAYLOAD: Final = 4 << 30
#: servers have the numbers -1, -2, ...
MAX_SERVERS: Final = 1 << 31
_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode
_KEYS: Final = {"from", "round", "tensors", "meta"}
#: A header without meta, as it is written here: most are; sender, round, and the text of tensors.
_NUMBER: Final = rb"(0|[1-9]\d{0,17})"
_PLAIN: Final = re.compile(
    rb'\{"from":(0|-?[1-9]\d{0,9}),"round":\[%b,%b\],"tensors":(\[.*\]),"meta":\{\}\} *\Z'
    % (_NUMBER, _NUMBER)
)
#: Descriptions of tensors that are remembered, and the longest header that is read so, in bytes.
_KEPT: Final = 1024
_MOST_KEPT: Final = 4096
#: A frame's payload; larger ones starve heart-beats and are slower.
FRAME_BYTES: Final = 1 << 20
#: name on the wire -> bytes per element
DTYPES: Final[dict[str, int]] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "complex128": 16,
    "complex64": 8,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


class MessageError(ValueError):
    """A message that does not say what it should; it is refused before memory is taken for it."""


class TensorInfo(NamedTuple):
    """Name, dtype and shape of one tensor of a message."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype]


@dataclass(frozen=True)
class Header:
    """Who says what in which round: ``round`` is (iteration, averaging round), 0-based.

    ``sender`` is a node's uid; servers have negative ones.
    """

    sender: int
    round: tuple[int, int]
    tensors: tuple[TensorInfo, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    asks: bool = False

    @property
    def payload_bytes(self) -> int:
        return _payload(self.tensors)

    def encode(self) -> bytes:
        """The header as padded JSON."""
        meta = _to_json(dict(self.meta)) if self.meta else "{}"
        asks = ',"asks":true' if self.asks else ""
        said = f'"from":{self.sender:d},"round":[{self.round[0]:d},{self.round[1]:d}]'
        text = f'{{{said},"tensors":{_described(self.tensors)},"meta":{meta}{asks}}}'.encode()
        if len(text) > MAX_HEADER:
            raise MessageError(f"header of {len(text)} bytes, more than {MAX_HEADER}")
        return text.ljust(padded(len(text)))


def padded(nbytes: int) -> int:
    """Bytes of a header whose text has ``nbytes``."""
    return -nbytes // ALIGNMENT * -ALIGNMENT


@lru_cache(maxsize=_KEPT)
def _payload(tensors: tuple[TensorInfo, ...]) -> int:
    return sum(info.nbytes for info in tensors)


@lru_cache(maxsize=_KEPT)
def _described(tensors: tuple[TensorInfo, ...]) -> str:
    """The JSON of tensors: most messages are like the one before."""
    return _to_json([[t.name, t.dtype, list(t.shape)] for t in tensors])


def decode(data: bytes | memoryview, limit: int = MAX_PAYLOAD) -> Header:
    """Check and read a header; ``limit`` bounds the payload in bytes.

    Raises `MessageError` for anything but a well-formed header whose payload fits the limit.
    """
    if len(data) > MAX_HEADER:
        raise MessageError(f"header of {len(data)} bytes, more than {MAX_HEADER}")
    header = _decoded_plain(bytes(data)) or _decoded(data)
    if header.payload_bytes > limit:
        raise MessageError(f"payload of {header.payload_bytes} bytes, more than {limit}")
    return header


def _decoded_plain(data: bytes) -> Header | None:
    """A header without meta as `Header.encode` writes it; None for what has to be looked at
    closely. Tensors that were read before are not read again."""
    found = _PLAIN.match(data) if len(data) <= _MOST_KEPT else None
    if found is None:
        return None
    try:
        tensors = _read_tensors(found[4])
    except (ValueError, RecursionError):
        return None
    return Header(_node(int(found[1])), (int(found[2]), int(found[3])), tensors)


@lru_cache(maxsize=_KEPT)
def _read_tensors(text: bytes) -> tuple[TensorInfo, ...]:
    return _tensors(json.loads(text))


def _decoded(data: bytes | memoryview) -> Header:
    """Any header."""
    try:
        value = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise MessageError(f"header is not JSON: {type(error).__name__}") from None
    if not isinstance(value, dict) or value.keys() - {"asks"} != _KEYS:
        raise MessageError("header does not have the keys from, round, tensors, meta")
    if type(value.get("asks", False)) is not bool:
        raise MessageError("asks is neither true nor false")
    header = Header(
        _node(value["from"]), _round(value["round"]), _tensors(value["tensors"]), value["meta"],
        value.get("asks", False),
    )  # fmt: skip
    if not isinstance(header.meta, dict):
        raise MessageError("meta is not an object")
    return header


def _node(value: Any) -> int:
    if type(value) is int and -MAX_SERVERS <= value < 0:
        return value
    return _natural(value)


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise MessageError(f"not a natural number: {value!r:.40}")
    return value


def _round(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise MessageError("round is not a pair")
    return _natural(value[0]), _natural(value[1])


def _tensors(value: Any) -> tuple[TensorInfo, ...]:
    if not isinstance(value, list) or len(value) > MAX_TENSORS:
        raise MessageError(f"tensors is not a list of at most {MAX_TENSORS}")
    tensors = tuple(_tensor(item) for item in value)
    if len({info.name for info in tensors}) < len(tensors):
        raise MessageError("two tensors have the same name")
    return tensors


def _tensor(item: Any) -> TensorInfo:
    if not isinstance(item, list) or len(item) != 3:
        raise MessageError("a tensor is not [name, dtype, shape]")
    name, dtype, shape = item
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in DTYPES:
        raise MessageError(f"unknown tensor {name!r:.40} of {dtype!r:.40}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS:
        raise MessageError(f"tensor {name!r:.40} has no proper shape")
    info = TensorInfo(name, dtype, tuple(_natural(size) for size in shape))
    if math.prod(size for size in info.shape if size) >= 1 << 62:  # also beside a 0
        raise MessageError(f"tensor {name!r:.40} is too large")
    return info


def row_message_bytes(row_length: int, n_nodes: int, rounds: int, steps: int) -> tuple[int, int]:
    """(payload, header) bytes of the message of a method that sends its whole float32 row.

    The header is the same for all nodes and rounds as long as the padding absorbs the digits;
    the largest is returned, and `Header.encode` of the smallest is asserted to be equal in tests.
    """
    info = TensorInfo("params", "float32", (row_length,))
    header = Header(n_nodes - 1, (max(rounds - 1, 0), max(steps - 1, 0)), (info,))
    return info.nbytes, len(header.encode())
