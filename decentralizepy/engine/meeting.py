"""The mean of all nodes' parameters at an evaluation, which waits for nobody."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import torch
from torch import Tensor

from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.messages.header import MessageError
from decentralizepy.messages.message import Message

#: past all iterations
END: Final = 1 << 40
#: sums that are kept after the mean was told
_KEPT_SUMS: Final = 2


class Frontier:
    """The least of some counts that only grow, each member's own."""

    def __init__(self) -> None:
        self._at: dict[int, int] = {}
        self._members: Counter[int] = Counter()
        self._least: int | None = None

    def move(self, member: int, to: int) -> None:
        """A member has come to ``to``; who is new joins there."""
        before = self._at.get(member)
        if before == to:
            return
        self._at[member] = to
        self._members[to] += 1
        if before is not None:
            self._drop(before)
        elif self._least is not None and to < self._least:
            self._least = None

    def beyond(self, member: int, at: int) -> bool:
        """Whether a member has come further than ``at``."""
        return self._at.get(member, at) > at

    def leave(self, member: int) -> None:
        """A member does not count any more."""
        before = self._at.pop(member, None)
        if before is not None:
            self._drop(before)

    def _drop(self, at: int) -> None:
        self._members[at] -= 1
        if not self._members[at]:
            del self._members[at]
            if at == self._least:
                self._least = None

    @property
    def least(self) -> int | None:
        """The least count of all members; None without any."""
        if self._least is None and self._members:
            self._least = min(self._members)
        return self._least


class Meeting:
    """The mean of the nodes that reported an iteration, over any number of workers.

    Each worker adds up its own nodes once all of them have reported that iteration or a later one,
    or have ended, and sends the sum to the root worker; where it has none, it says only how far it
    is past. The root adds the sums in the order of the workers and sends the mean to all; there is
    none if a worker has given the iteration up, for its nodes would be missing. When workers are
    lost, the first one left is the root, and everybody says again what it may not have
    heard.
    """

    def __init__(
        self,
        me: WorkerId,
        placement: Placement,
        n_parameters: int,
        send: Callable[[WorkerId, str, Message], None],
        arrived: Callable[[int, Tensor | None], None],
    ) -> None:
        self.me, self._n = me, n_parameters
        self._send, self._arrived = send, arrived
        self._all = [w for w in placement.all() if len(placement.uids(w))]
        self._workers = list(self._all)
        self._sums: dict[int, dict[int, tuple[Tensor | None, int]]] = {}
        self._past = [0] * len(self._all)
        self._said: dict[int, tuple[Tensor | None, int]] = {}
        self._told: deque[int] = deque()
        self._at = 0

    def join(self, t: int, rows: Mapping[int, Tensor]) -> None:
        """All nodes of this worker are past the evaluation of iteration ``t``; ``rows`` are those
        that took part in it."""
        total = torch.zeros(self._n, dtype=torch.float64)
        for uid in sorted(rows):
            total += rows[uid][: self._n].cpu()
        self._said[t] = total, len(rows)
        self._say(t)

    def forgo(self, t: int) -> None:
        """All nodes of this worker are past iteration ``t``, but their sum was given up."""
        self._said[t] = None, 0
        self._say(t)

    def past(self, t: int | None) -> None:
        """This worker has nothing to say of iterations before ``t``; with None, of any at all."""
        self._at = END if t is None else t
        self._say_past()

    def leave(self, dead: Iterable[WorkerId]) -> None:
        """Workers are lost; what was said to a root that is no more is said again."""
        gone = set(dead)
        root = self._workers[0]
        self._workers = [worker for worker in self._workers if worker not in gone]
        for sums in self._sums.values():
            for worker in gone:
                sums.pop(self._all.index(worker), None)
        if not self._workers:
            return
        if root in gone:
            for t in sorted(self._said):
                self._say(t)
            self._say_past()
        elif self.me == root:
            self._finish_all()

    def _say(self, t: int) -> None:
        total, count = self._said[t]
        number = self._all.index(self.me)
        if self.me == self._workers[0]:
            self._add(t, number, total, count)
        else:
            self._send(self._workers[0], "S", _message_of(total, t, count, number))

    def _say_past(self) -> None:
        number = self._all.index(self.me)
        if self.me == self._workers[0]:
            self._add_past(number, self._at)
        else:
            said = Message({}, {"past": self._at}, number, (0, 0))
            self._send(self._workers[0], "S", said)

    def take(self, kind: str, message: Message) -> None:
        """A sum for the root, how far a worker is past, or the mean from the root has come."""
        t, meta, values = message.round[0], message.meta, message.tensors.get("sum")
        number = message.sender if kind == "S" else 0
        if not 0 <= number < len(self._all):
            raise MessageError(f"a sum of worker {number}, which there is not")
        if kind == "S" and values is None and type(meta.get("past")) is int:
            self._add_past(number, meta["past"])
            return
        if values is None and meta.get("nodes") == 0 and type(meta["nodes"]) is int:
            self._take(kind, t, number, None, 0)
            return
        if values is None or values.dtype != torch.float64 or values.shape != (self._n,):
            raise MessageError(f"no sum of {self._n} numbers")
        if type(meta.get("nodes")) is not int or meta["nodes"] < 1:
            raise MessageError("a sum of no nodes")
        self._take(kind, t, number, values, meta["nodes"])

    def _take(self, kind: str, t: int, number: int, values: Tensor | None, count: int) -> None:
        if kind == "S":
            self._add(t, number, values, count)
        else:
            self._tell(t, values)

    def _add(self, t: int, number: int, total: Tensor | None, count: int) -> None:
        if self._all[number] in self._workers:
            self._sums.setdefault(t, {})[number] = total, count
            self._finish(t)

    def _add_past(self, number: int, t: int) -> None:
        self._past[number] = max(self._past[number], t)
        self._finish_all()

    def _finish_all(self) -> None:
        for t in sorted(self._sums):
            self._finish(t)

    def _finish(self, t: int) -> None:
        """Tell the mean once all have said their sums, or that they have none."""
        sums = self._sums[t]
        expected = (self._all.index(worker) for worker in self._workers)
        if not all(number in sums or self._past[number] > t for number in expected):
            return
        del self._sums[t]
        if not sums:
            return
        mean, nodes = self._mean(sums)
        for worker in self._workers[1:]:
            self._send(worker, "A", _message_of(mean, t, nodes, 0))
        self._tell(t, mean)

    def _mean(self, sums: Mapping[int, tuple[Tensor | None, int]]) -> tuple[Tensor | None, int]:
        """The mean and of how many rows it is; None where a worker has given its sum up."""
        mean = torch.zeros(self._n, dtype=torch.float64)
        nodes = 0
        for number in sorted(sums):
            part, count = sums[number]
            if part is None:
                return None, 0
            mean += part
            nodes += count
        return mean / nodes, nodes

    def _tell(self, t: int, mean: Tensor | None) -> None:
        self._told.append(t)
        if len(self._told) > _KEPT_SUMS:  # a root that is lost may have told some and not others
            self._said.pop(self._told.popleft(), None)
        self._arrived(t, mean)


def _message_of(total: Tensor | None, t: int, count: int, sender: int) -> Message:
    """A sum or a mean; without tensors where it was given up."""
    if total is None:
        return Message({}, {"nodes": 0}, sender, (t, 0))
    return sum_message(total, t, count, sender)


def sum_message(total: Tensor, t: int, count: int, sender: int) -> Message:
    """A partial sum of ``count`` rows for the evaluation of iteration ``t``."""
    return Message({"sum": total}, {"nodes": count}, sender, (t, 0))
