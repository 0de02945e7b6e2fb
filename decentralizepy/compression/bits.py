"""Numbers of any width in as many bits, without a loop over numbers.

`pack` and `unpack` are for numbers of one width, on any device: a number is cut into bytes, then
into parts of 4, 2 and 1 bits, and each kind of part fills bytes of its own. `Joined` is for numbers
that each have a width, in NumPy.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import CompressionError

#: widest number of `pack`, in bits
WIDEST: Final = 32
_ONE: Final = np.uint64(1)
_SIXTY_THREE: Final = np.uint64(63)


def packed_bytes(n: int, width: int) -> int:
    """Bytes of ``n`` numbers of ``width`` bits."""
    return sum(-(-n * part // 8) for part, _ in _parts(width))


def _parts(width: int) -> list[tuple[int, int]]:
    """(bits, shift) of the parts that a number of ``width`` bits is cut into: 12 is 8 and 4."""
    parts, shift = [], 0
    for bits in (8, 8, 8, 8, 4, 2, 1):
        if width - shift >= bits:
            parts.append((bits, shift))
            shift += bits
    return parts


def whole(numbers: Tensor, width: int) -> Tensor:
    """Whole numbers of ``width`` bits, held as floats, in the type that `pack` takes fastest."""
    return numbers.to(torch.uint8 if width <= 8 else torch.int32)


def pack(numbers: Tensor, width: int) -> Tensor:
    """Bytes [`packed_bytes`] uint8 of whole numbers [n], each from 0 to 2^width - 1."""
    pieces = []
    for bits, shift in _parts(width):
        part = (numbers >> shift).to(torch.uint8) if shift else numbers.to(torch.uint8)
        pieces.append(_together(part, bits) if bits < 8 else part)
    if len(pieces) == 1:
        return pieces[0]
    return torch.cat(pieces) if pieces else numbers.new_empty(0, dtype=torch.uint8)


def _together(part: Tensor, bits: int) -> Tensor:
    """Bytes of the low ``bits`` bits of each byte [n]; the last byte is filled up with zeros."""
    many, n = 8 // bits, len(part)
    if n % many:
        part = torch.nn.functional.pad(part, (0, many - n % many))
    lanes = (part & ((1 << bits) - 1)).view(-1, many)
    out = lanes[:, 0].clone()
    for lane in range(1, many):
        out |= lanes[:, lane] << (bits * lane)
    return out


def unpack(data: Tensor, n: int, width: int) -> Tensor:
    """The numbers [n] that `pack` was given: uint8 up to 8 bits, int32 up to 31, then int64.

    Raises `CompressionError` unless the length of ``data`` is that of so many numbers.
    """
    if data.dim() != 1 or len(data) != packed_bytes(n, width) or data.dtype != torch.uint8:
        raise CompressionError(f"{len(data)} bytes are not {n} numbers of {width} bits")
    dtype = torch.uint8 if width <= 8 else torch.int32 if width < 32 else torch.int64
    out, start = torch.zeros(n, dtype=dtype, device=data.device), 0
    for bits, shift in _parts(width):
        end = start + -(-n * bits // 8)
        part = data[start:end] if bits == 8 else _apart(data[start:end], bits)[:n]
        out = part.clone() if width == bits else out.bitwise_or_(part.to(dtype) << shift)
        start = end
    return out


def _apart(data: Tensor, bits: int) -> Tensor:
    many = 8 // bits
    lanes = torch.empty(len(data), many, dtype=torch.uint8, device=data.device)
    for lane in range(many):
        lanes[:, lane] = data >> (bits * lane)
    return lanes.view(-1) & ((1 << bits) - 1)


class Joined:
    """Numbers that each have a width, one behind the other in the bits of 64-bit words.

    Made for ``total`` bits, to `add` numbers in blocks; or for the bytes of another one, to `take`
    them again in blocks, which may be others.
    """

    def __init__(self, total: int, data: np.ndarray | None = None) -> None:
        self._total, self._at = total, 0
        self._words = np.zeros(total // 64 + 2, dtype=np.uint64)
        if data is not None:
            if len(data) != -(-total // 8):
                raise CompressionError(f"{len(data)} bytes are not {total} bits")
            self._words.view(np.uint8)[: len(data)] = data

    @property
    def data(self) -> np.ndarray:
        """All bytes uint8."""
        return self._words.view(np.uint8)[: -(-self._total // 8)]

    def add(self, numbers: np.ndarray, widths: np.ndarray) -> None:
        """Put down ``numbers`` [k] uint64, k > 0, number i in ``widths[i]`` bits, at most 63."""
        word, shift = self._places(widths)
        first = np.flatnonzero(np.concatenate([[True], word[1:] != word[:-1]]))
        self._words[word[first]] |= np.bitwise_or.reduceat(numbers << shift, first)
        # of the numbers that begin in a word only the last can reach into the next one
        last = np.append(first[1:], len(word)) - 1
        over = (numbers[last] >> _ONE) >> (_SIXTY_THREE - shift[last])
        self._words[word[last] + 1] |= over

    def take(self, widths: np.ndarray) -> np.ndarray:
        """The next numbers [k] uint64, k > 0, of these widths."""
        word, shift = self._places(widths)
        high = (self._words[word + 1] << _ONE) << (_SIXTY_THREE - shift)
        mask = (_ONE << widths.astype(np.uint64)) - _ONE
        return ((self._words[word] >> shift) | high) & mask

    def _places(self, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Word and first bit of the next numbers."""
        ends = np.cumsum(widths, dtype=np.int64)
        ends += self._at
        self._at = int(ends[-1])
        begins = ends - widths
        return begins >> 6, (begins & 63).astype(np.uint64)
