"""A worker's own rows: which are free, which somebody still reads, and whose they are."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decentralizepy.memory.arena import Arena
from decentralizepy.messages.meta import shown

_LOOK_AT = 8


class WrittenError(ValueError):
    """A program has written into a row of its node."""


@dataclass(eq=False, slots=True)
class Row:
    """Memory of one row: ``index`` in the arena, or None for memory of this process alone.

    ``tensor`` is what the trainer writes into. ``view`` is what a program has seen of it, while the
    owner remembers that; it is leased, so that the row is not written before the last one who has
    it lets go. A private row that has been ``seen`` is never written again.
    """

    tensor: Tensor
    index: int | None
    view: Tensor | None = None
    version: int = 0
    seen: bool = False


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
        self._sent_here = self._sent_to[worker]
        self._rows: list[Row | None] = [None] * len(own)
        self._length = arena.plan.length
        self._retired: deque[int] = deque()
        self._row_bytes = arena.plan.row_bytes
        self._start = arena.start + self._first * self._row_bytes
        self._end = arena.start + self._stop * self._row_bytes
        self._private: dict[int, weakref.ref[Tensor]] = {}
        self._releases: dict[int, Callable[[], object]] = {}

    def acquire(self) -> Row:
        """A row that may be written."""
        index = self.acquire_shared()
        if index is None:
            tensor = torch.empty(self.arena.plan.length, device=self._device)
            name = id(tensor)
            self._private[name] = weakref.ref(tensor, lambda _: self._private.pop(name, None))
            return Row(tensor, None)
        row = self._rows[index - self._first]
        if row is None:
            row = self._rows[index - self._first] = Row(self.tensor(index), index)
        row.version, row.seen = 0, False
        return row

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
        return self.arena.row(index)

    def place(self, tensor: Tensor) -> tuple[int, int, int] | None:
        """(row, first byte, bytes) of a tensor that is a row of this worker or a part of one.

        None for all others: those have to be copied to travel.
        """
        if not self.shares:
            return None
        start, nbytes = tensor.data_ptr(), tensor.nbytes
        if not self._start <= start < self._end or not tensor.is_contiguous():
            return None
        if tensor.is_conj() or tensor.is_neg():  # lazily so: the row does not say it
            return None
        index, first = divmod(start - self.arena.start, self._row_bytes)
        return (index, first, nbytes) if first + nbytes <= self._row_bytes else None

    def keeps(self, tensor: Tensor) -> bool:
        """Whether a tensor is a row, or a part of one in the arena: it stays as it is as long as
        anybody has it."""
        if id(tensor) in self._private and self._private[id(tensor)]() is tensor:
            return True
        return self.place(tensor) is not None

    def view(self, row: Row) -> Tensor:
        """The row for a program to read and keep: nobody writes it as long as anybody has it."""
        view = row.view
        if view is None:
            row.seen = True
            if row.index is None:
                view, row.version = row.tensor, row.tensor._version
            else:
                view, row.version = self.lease(row.index), 0
            row.view = view
        return view

    def publish(self, row: int, readers: Iterable[int]) -> None:
        """Note that a message with a reference to the row is on its way to each worker."""
        for worker in readers:
            self._sent[row - self._first] += 1
            self._sent_to[worker][row - self._first] += 1

    def publish_all(self, rows: Iterable[int], reader: int) -> None:
        """Note that a worker is told of many rows."""
        sent, sent_to, first = self._sent, self._sent_to[reader], self._first
        for row in rows:
            sent[row - first] += 1
            sent_to[row - first] += 1

    def lease(self, index: int) -> Tensor:
        """An own row [P] for readers on this worker, held until the last of them has let go."""
        at = index - self._first
        self._sent[at] += 1
        self._sent_here[at] += 1
        return self.reading(index)

    def reading(self, index: int) -> Tensor:
        """A row [P] of any worker of the machine that was published for this one."""
        buffer = self.arena.lease(index, self._releases.get(index) or self.releaser(index))
        return torch.frombuffer(buffer, dtype=torch.float32, count=self._length)

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
        """Whether somebody but its owner may still read the row."""
        row.view = None
        return row.seen if row.index is None else self._is_read(row.index)

    def _is_read(self, index: int) -> bool:
        return self._sent[index - self._first] != self.arena.counters.released(index)

    def retire(self, row: Row) -> None:
        """Give a row back; it is handed out again once nobody reads it."""
        row.view = None
        if row.index is not None:
            self._retired.append(row.index)

    def retire_shared(self, index: int) -> None:
        """Give back a row that `acquire_shared` gave."""
        self._retired.append(index)


@dataclass(frozen=True, slots=True)
class Aside:
    """What is being written in place of a row, and the row as it was ``before``."""

    copy: Row
    before: Tensor


class NodeRows(MutableMapping[str, Tensor]):
    """The rows of one node by name: its parameters ``x``, and what else it keeps as rows.

    To a program a row is a value: what it has read or sent stays as it was, however long it keeps
    it. Assigning adopts: a tensor becomes the row itself if it was lent by `lend`, else it is
    copied into one. Only the trainer writes in place, and only what nobody else has (`thaw`).
    """

    __slots__ = ("_held", "_pool", "_spare")

    def __init__(self, pool: RowPool) -> None:
        self._pool = pool
        self._held: dict[str, Row] = {}
        self._spare: Row | None = None

    def __getitem__(self, name: str) -> Tensor:
        try:
            row = self._held[name]
        except KeyError:
            raise KeyError(f"{name!r:.40}: no such row; name it in row_names") from None
        return row.view if row.view is not None else self._pool.view(row)

    def __setitem__(self, name: str, value: Tensor) -> None:
        held = self._held.get(name)
        if held is not None:
            _check_unwritten(name, held)
            if value is held.view:
                return
        spare = self._spare
        if spare is not None and value is spare.view:
            self._held[name], self._spare = spare, None
            spare.version = value._version
        else:
            self._held[name] = self._filled(value)
        if held is not None:
            self._pool.retire(held)

    def _filled(self, value: Tensor) -> Row:
        if not isinstance(value, Tensor):
            remedy = "torch.from_numpy(array)" if isinstance(value, np.ndarray) else "torch.tensor"
            raise TypeError(f"a row is a tensor [P], not {shown(value)}: make one with {remedy}")
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

    def lend(self) -> Tensor:
        """A free row [P] to write the next value into."""
        spare = self._spare
        if spare is not None and self._pool.read(spare):  # whoever borrowed it still has it
            self._pool.retire(spare)
            spare = None
        if spare is None:
            spare = self._spare = self._pool.acquire()
        return self._pool.view(spare)

    def held(self, name: str) -> Row:
        """The memory behind a row."""
        return self._held[name]

    def shared(self, name: str) -> int | None:
        """Where a row lies in the arena, to which it is moved if need be; None without room."""
        held = self._held[name]
        _check_unwritten(name, held)
        if held.index is None:
            index = self._pool.acquire_shared() if self._pool.shares else None
            if index is None:
                return None
            moved = self._held[name] = Row(self._pool.tensor(index), index)
            moved.tensor.copy_(held.tensor)
            self._pool.retire(held)
            return index
        return held.index

    def replace(self, name: str, row: Row) -> Row:
        """Have other memory behind a row; returns the former, which is the caller's to retire."""
        former, self._held[name] = self._held[name], row
        return former

    def thaw(self, name: str) -> Tensor:
        """A row for writing in place: a copy if anybody else has it."""
        held = self._held[name]
        _check_unwritten(name, held)
        if self._pool.read(held):
            fresh = self._pool.acquire()
            fresh.tensor.copy_(held.tensor)
            self._pool.retire(held)
            self._held[name] = held = fresh
        return held.tensor

    def aside(self, name: str) -> Aside:
        """A copy of a row to be written while the row itself stays as it is."""
        held = self._held[name]
        _check_unwritten(name, held)
        copy = self._pool.acquire()
        copy.tensor.copy_(held.tensor)
        return Aside(copy, self[name])

    def take_back(self, name: str, aside: Aside) -> None:
        """The written copy becomes the row; if a new one was assigned meanwhile, that gets what
        writing has changed."""
        now, copy = self[name], aside.copy
        _check_unwritten(name, self._held[name])
        if torch.equal(now, aside.before):
            self._pool.retire(self.replace(name, copy))
        else:
            self[name] = now + (copy.tensor - aside.before)
            self._pool.retire(copy)

    def clear(self) -> None:
        """Give all rows back."""
        for row in self._held.values():
            self._pool.retire(row)
        if self._spare is not None:
            self._pool.retire(self._spare)
        self._held, self._spare = {}, None


def _check_unwritten(name: str, row: Row) -> None:
    """Raise `WrittenError` if a program wrote into a row: others may be reading it."""
    if row.view is not None and row.view._version != row.version:
        it = "self.x" if name == "x" else f"self.rows[{name!r}]"
        raise WrittenError(
            f"the row '{name}' was written in place; rows are values, which others may be reading: "
            f"assign a new one, as in {it} = {it} + 1"
        )
