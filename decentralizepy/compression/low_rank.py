"""The vector as a matrix of low rank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import CompressionError, Memory, ValueCoder, take
from decentralizepy.compression.draws import normals


class LowRank(ValueCoder):
    """P P^T X of the vector as a nearly square matrix X [m, c], by one step of power iteration a
    message: P is an orthonormal basis of X Q, and Q <- X^T P is where the next one starts
    (PowerSGD: Vogels, Karimireddy & Jaggi, NeurIPS 2019, algorithm 1).

    |C(x) - x|^2 = |x|^2 - |X^T P|^2: a projection, which never lets a vector grow; delta depends
    on the data and nears the share of the ``rank`` largest singular values as rounds go by. Sends
    (m + c) rank floats, which a value coder behind it, such as fp16, may encode.
    """

    name: ClassVar[str] = "low_rank"
    leaves_floats: ClassVar[bool] = True

    def __init__(self, *, rank: int = 4) -> None:
        if rank < 1:
            raise ValueError(f"rank = {rank}: at least 1 is expected")
        self.rank = rank

    def encode(
        self, x: Tensor, rng: np.random.Generator, memory: Memory
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """P [m r] and Q [c r], row by row."""
        m, c, r = self._shape(len(x))
        matrix = x.new_zeros(m * c)
        matrix[: len(x)] = x
        matrix = matrix.view(m, c)
        start = memory.get("q")
        if start is None or len(start) != c * r:
            start = normals(c * r, rng, x.device)
        p = torch.linalg.qr(matrix @ _own(start.to(x.device)).view(c, r)).Q
        q = (matrix.T @ p).contiguous()
        memory["q"] = q.view(-1)
        return {"p": p.contiguous().view(-1), "q": q.view(-1)}, {}

    def decode(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        m, c, r = self._shape(n)
        p, q = take(tensors, "p", None, m * r), take(tensors, "q", None, c * r)
        if p.dtype != torch.float32 or q.dtype != torch.float32:
            raise CompressionError(f"factors of {p.dtype} and {q.dtype}, not float32")
        return (_own(p).view(m, r) @ _own(q).view(c, r).T).reshape(-1)[:n]

    def floats(self, n: int) -> Mapping[str, int]:
        m, c, r = self._shape(n)
        return {"p": m * r, "q": c * r}

    def _shape(self, n: int) -> tuple[int, int, int]:
        """Rows, columns and rank of the matrix of n numbers."""
        columns = math.isqrt(n - 1) + 1 if n else 0
        rows = -(-n // columns) if n else 0
        return rows, columns, min(self.rank, rows)

    def contraction(self, n: int) -> float | None:
        return 0.0


def _own(x: Tensor) -> Tensor:
    """A copy where torch puts it: products round by where their operands begin in memory, and what
    was received or saved may begin anywhere."""
    return x.clone()
