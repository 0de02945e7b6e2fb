"""A worker's own rows: which are free, which somebody still reads, and whose they are."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor

from decentralizepy.memory.arena import Arena

_LOOK_AT = 8
#: references to a row's tensor that are the owner's: the arena's, the `Row`'s, the question itself
_REFERENCES = 3
#: and to its storage: the tensor's, the question itself
_USES = 2


@dataclass(eq=False, slots=True)
class Row:
    """Memory of one row: ``index`` in the arena, or None for memory of this process alone, of which
    only copies are sent."""

    tensor: Tensor
    index: int | None


class RowPool:
    """Hands out the rows of one worker; a row that was sent comes back when all have read it.

    Every message that carries a row by reference holds one reference per worker that receives it.
    The receiving side counts what it has let go in the arena; this side compares. There is always a
    row: when those of the arena are all being read, it lies in private memory, and what is sent of
    it is copied. On a device (``device``) all rows are private.
    """

    def __init__(self, arena: Arena, worker: int, device: torch.device | str = "cpu") -> None:
        self.arena, self._worker, self._device = arena, worker, torch.device(device)
        own = arena.plan.own_rows(worker)
        self.shares = self._device.type == "cpu"
        self._free = list(reversed(own)) if self.shares else []
        self._first, self._stop = own.start, own.stop
        self._sent = [0] * len(own)
        self._sent_to = [[0] * len(own) for _ in range(arena.plan.workers)]
        self._retired: deque[int] = deque()
        self._row_bytes = arena.plan.row_bytes
        self._mine: dict[int, int] = {}
        self._releases: dict[int, Callable[[], object]] = {}

    def acquire(self) -> Row:
        """A row that may be written."""
        index = self.acquire_shared()
        if index is None:
            return Row(torch.empty(self.arena.plan.length, device=self._device), None)
        return Row(self.tensor(index), index)

    def acquire_shared(self) -> int | None:
        """A row of the arena that may be written; None while all are being read."""
        for _ in range(min(_LOOK_AT, len(self._retired))):
            row = self._retired.popleft()
            if not self._is_read(row):
                return row
            self._retired.append(row)
        return self._free.pop() if self._free else None

    def tensor(self, index: int) -> Tensor:
        """The tensor of an own row, always the same."""
        tensor = self.arena.row(index)
        self._mine[id(tensor)] = index
        return tensor

    def place(self, tensor: Tensor) -> tuple[int, int, int] | None:
        """(row, first byte, bytes) of a tensor that is a row of this worker or a part of one.

        None for all others: those have to be copied to travel.
        """
        index = self._mine.get(id(tensor))
        if index is not None:
            return index, 0, 4 * self.arena.plan.length
        start, nbytes = tensor.data_ptr(), tensor.nbytes
        if not self.arena.start <= start < self.arena.stop or not tensor.is_contiguous():
            return None
        index, first = divmod(start - self.arena.start, self._row_bytes)
        if not self._first <= index < self._stop or first + nbytes > self._row_bytes:
            return None
        return index, first, nbytes

    def publish(self, row: int, readers: Iterable[int]) -> None:
        """Note that a message with a reference to the row is on its way to each worker."""
        for worker in readers:
            self._sent[row - self._first] += 1
            self._sent_to[worker][row - self._first] += 1

    def lease(self, index: int) -> Tensor:
        """An own row [P] for readers on this worker, held until the last of them has let go."""
        self.publish(index, (self._worker,))
        return self.reading(index)

    def reading(self, index: int) -> Tensor:
        """A row [P] of any worker of the machine that was published for this one."""
        buffer = self.arena.lease(index, self.releaser(index))
        return torch.frombuffer(buffer, dtype=torch.float32, count=self.arena.plan.length)

    def releaser(self, index: int) -> Callable[[], object]:
        """What says that this worker has let go one reference to a row."""
        found = self._releases.get(index)
        if found is None:
            counters, worker = self.arena.counters, self._worker
            found = self._releases[index] = lambda: counters.release(worker, index)
        return found

    def forgive(self, worker: int) -> None:
        """A worker is dead: what it still held is free."""
        for i, sent in enumerate(self._sent_to[worker]):
            held = sent - self.arena.counters.released_by(worker, self._first + i)
            self._sent[i] -= held
            self._sent_to[worker][i] -= held

    def read(self, row: Row) -> bool:
        """Whether somebody may still read the row."""
        return row.index is not None and self._is_read(row.index)

    def _is_read(self, index: int) -> bool:
        return self._sent[index - self._first] != self.arena.counters.released(index)

    def retire(self, row: Row) -> None:
        """Give a row back; it is handed out again once nobody reads it."""
        if row.index is not None:
            self._retired.append(row.index)

    def retire_shared(self, index: int) -> None:
        """Give back a row that `acquire_shared` gave."""
        self._retired.append(index)


class NodeRows(MutableMapping[str, Tensor]):
    """The rows of one node by name: its parameters ``x``, and what else it keeps as rows.

    To a program a row is a value. Assigning adopts: a tensor becomes the row itself if it was lent
    by `lend`, else it is copied into one. What a program has read or sent stays as it was: only the
    trainer writes in place, and only what nobody has seen (`thaw`).
    """

    def __init__(self, pool: RowPool) -> None:
        self._pool = pool
        self._held: dict[str, Row] = {}
        self._spare: Row | None = None
        self._lent = False
        self._seen: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self._seen.add(name)
        return self._held[name].tensor

    def __setitem__(self, name: str, value: Tensor) -> None:
        held = self._held.get(name)
        if held is not None and value is held.tensor:
            return
        spare = self._spare
        if spare is not None and value is spare.tensor:
            self._held[name], self._spare, self._lent = spare, None, False
        else:
            self._held[name] = self._filled(value)
        self._seen.discard(name)
        if held is not None:
            self._pool.retire(held)

    def _filled(self, value: Tensor) -> Row:
        """A row with a copy of ``value``; not the one that is lent, for that may still be read."""
        row = self._pool.acquire()
        if value.shape != row.tensor.shape:
            self._pool.retire(row)
            raise ValueError(
                f"a row has the shape {tuple(row.tensor.shape)}, not {tuple(value.shape)}"
            )
        row.tensor.copy_(value.detach())
        return row

    def __delitem__(self, name: str) -> None:
        self._pool.retire(self._held.pop(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def lend(self) -> Tensor | None:
        """A free row [P] to write the next value into; None while the last one is still held."""
        if self._lent and _is_held(self._spare):
            return None
        if self._spare is None:
            self._spare = self._pool.acquire()
        self._lent = True
        return self._spare.tensor

    def held(self, name: str) -> Row:
        """The memory behind a row."""
        return self._held[name]

    def thaw(self, name: str) -> Tensor:
        """A row for writing in place: a copy if somebody reads it, or the program has seen it."""
        held = self._held[name]
        if name in self._seen or self._pool.read(held):
            self._seen.discard(name)
            fresh = self._pool.acquire()
            fresh.tensor.copy_(held.tensor)
            self._pool.retire(held)
            self._held[name] = held = fresh
        return held.tensor

    def clear(self) -> None:
        """Give all rows back."""
        for row in self._held.values():
            self._pool.retire(row)
        if self._spare is not None:
            self._pool.retire(self._spare)
        self._held, self._spare = {}, None


def _is_held(row: Row | None) -> bool:
    """Whether anybody but its owner has a lent row, or a view of it."""
    assert row is not None
    use_count = getattr(torch._C, "_storage_Use_Count", None)
    if use_count is None or sys.getrefcount(row.tensor) > _REFERENCES:
        return True
    return use_count(row.tensor.untyped_storage()._cdata) > _USES
