"""Plain gossip between the nodes of one machine, summing for many nodes at once.

Unmodified `Sharing` sends whole rows and takes their weighted sum. With small models the messages,
and a kernel for each of them, cost several times the arithmetic. So where nobody has to see a
message on its way, `Average` does without both: a table of the round says where each node's row
lies, other workers are told of many rows in one notice, and when no program can go on and nobody
has to train, all sums whose rows are there are worked out together, reading each row once.

The bits are those of `weighted_sum`: the same order, one multiply-add for each row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Final, TypeVar

import numpy as np
from torch import Tensor

from decentralizepy.compression.chain import VALUES
from decentralizepy.engine.seat import Seat, Strand
from decentralizepy.engine.sums import Around, Sums, weighted_sums
from decentralizepy.errors import RunError
from decentralizepy.graphs.graph import Graph
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory.arena import Arena
from decentralizepy.memory.rows import Row, RowPool
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import Average, Round
from decentralizepy.node.node import Node
from decentralizepy.sharing.sharing import weighted_sum
from decentralizepy.transport.router import Router

_Item = TypeVar("_Item")
#: in a table: not there yet, or not in the arena
_NONE: Final = -1
_PRIVATE: Final = -2
#: comes before all rounds
_BEFORE: Final = -1, -1
#: bytes of sums that are worked out before they are put where they belong: a core's cache
_AT_ONCE: Final = 1 << 20
#: rows of one notice
_PAIRS: Final = 512
#: with more open rounds than this, look for ones that nobody here will take part in
_MANY: Final = 8


@dataclass(eq=False, slots=True)
class Table:
    """A round: where rows lie, and who waits.

    ``places`` [n] are rows of the arena; ``private`` holds those that are not in it. ``owed`` are
    nodes of this worker that have not had their sums; None until one of them says what the graph
    is. ``strands`` wait, of the nodes ``arounds``; ``there`` of the ``needed`` rows have come.
    ``old`` are rows that nodes of this worker had, ``others`` those of other workers: all are given
    back when nothing is owed any more. ``untold`` are pairs of node and row that other workers have
    yet to be told.
    """

    key: Round
    places: list[int]
    digits: int
    owed: set[int] | None = None
    strands: list[Strand] = field(default_factory=list)
    arounds: list[Around] = field(default_factory=list)
    private: dict[int, Message] = field(default_factory=dict)
    old: list[Row] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    untold: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    there: int = 0
    needed: int = 0


class Averaging:
    """The `Average` effects of one worker's nodes."""

    def __init__(
        self,
        me: WorkerId,
        placement: Placement,
        arena: Arena,
        pool: RowPool,
        router: Router,
        seats: Mapping[int, Seat],
        go_on: Callable[[Strand, bool], None],
        stopwatch: Callable[[], float],
    ) -> None:
        self._me, self._placement = me, placement
        self._arena, self._pool, self._router = arena, pool, router
        self._go_on, self._stopwatch = go_on, stopwatch
        router.announced = self.take
        self._here = tuple(uid for uid in seats if uid >= 0)
        self._methods = {uid: seats[uid].node.sharing for uid in self._here}
        self._tables: dict[Round, Table] = {}
        self._around: dict[int, Around] = {}
        self._graph: tuple[Graph | None, frozenset[int], int] = None, frozenset(), 0
        self._sums: Sums | None = None
        self._headers: dict[int, int] = {}
        self._latest: dict[int, Round] = {}
        self._ended: set[int] = set()
        self._chunk = max(1, _AT_ONCE // arena.plan.row_bytes)
        #: whether anything has come since the last `settle`
        self.stirred = False
        #: whether some may be able to go on, but wait for others
        self.postponed = False

    # ------------------------------------------------------------------- joining

    def join(self, strand: Strand, effect: Average) -> bool:
        """A node puts its row on the table and waits; False if it has no neighbours."""
        seat = strand.seat
        uid, around = seat.uid, self._look(seat.node, effect.graph)
        if seat.node.sharing is not self._methods[uid]:
            raise RunError(
                f"node {uid} has another sharing method than at the start: a class that changes it "
                "says averages_together = False"
            )
        before, self._latest[uid] = self._latest.get(uid, _BEFORE), effect.round
        if effect.round <= before:
            raise _twice(uid, effect.round)
        if around.alone:
            return False
        table = self._table(effect.round)
        if table.owed is None:
            table.owed, table.needed = self._taking_part(effect.graph)
        if len(self._tables) > 1:
            self._pass(uid, effect.round)
        self._say(seat, around, table)
        self._count(seat, around, table)
        strand.since = self._stopwatch()
        table.strands.append(strand)
        table.arounds.append(around)
        self.stirred = True
        return True

    def _look(self, node: Node, graph: Graph) -> Around:
        """The node in this graph, worked out once for a static one."""
        mixed, uid = node.around(graph), node.uid
        known = self._around.get(uid)
        if known is not None and known.mixed is mixed:
            return known
        (_, mixing, (receivers, sources)), owner = mixed, self._placement.owner
        weights = [mixing.self_weight, *(mixing.weights[source] for source in sources)]
        away = {owner(receiver).worker for receiver in receivers} - {self._me.worker}
        known = self._around[uid] = Around(
            mixed, mixing, np.array([uid, *sources]), np.array(weights, dtype=np.float32),
            tuple(sorted(away)), len(receivers), len(str(uid)), not sources and not receivers,
        )  # fmt: skip
        return known

    def _table(self, key: Round) -> Table:
        found = self._tables.get(key)
        if found is None:
            places = [_NONE] * self._placement.mapping.n
            found = self._tables[key] = Table(key, places, len(f"{key[0]}{key[1]}"))
        return found

    def _taking_part(self, graph: Graph) -> tuple[set[int], int]:
        """Nodes of this worker that have neighbours and have not ended; how many rows they need."""
        if self._graph[0] is not graph:
            hears, heard = graph.in_neighbors, graph.out_neighbors
            nodes = frozenset(uid for uid in self._here if hears(uid) or heard(uid))
            self._graph = graph, nodes, len(nodes.union(*map(hears, nodes)))
        _, nodes, needed = self._graph
        return set(nodes - self._ended if self._ended else nodes), needed

    def _say(self, seat: Seat, around: Around, table: Table) -> None:
        """Tell this worker and others where the node's row lies."""
        table.there += 1
        uid, place = seat.node.uid, seat.rows.shared("x")
        if place is None:
            table.places[uid] = _PRIVATE
            message = Message({VALUES: seat.rows["x"]}, None, uid, table.key)
            table.private[uid] = message
            for worker in around.away:
                to = WorkerId(self._me.machine, worker)
                self._router.sent[to] += 1
                self._router.send_collective(to, "R", message)
            return
        table.places[uid] = place
        for worker in around.away:
            table.untold[worker] += uid, place

    def _count(self, seat: Seat, around: Around, table: Table) -> None:
        """The bytes that messages would have taken."""
        digits = around.digits + table.digits
        header = self._headers.get(digits)
        if header is None:
            like = Message({VALUES: seat.rows.held("x").tensor}, None, seat.uid, table.key)
            header = self._headers[digits] = self._router.size(like)[0]
        seat.traffic.data += 4 * self._arena.plan.length * around.receivers
        seat.traffic.meta += header * around.receivers

    # --------------------------------------------------------------- other workers

    def flush(self) -> None:
        """Tell other workers of the rows that are on the table."""
        for table in self._tables.values():
            if table.untold:
                self._tell(table)

    def _tell(self, table: Table) -> None:
        for worker, pairs in table.untold.items():
            for start in range(0, len(pairs), 2 * _PAIRS):
                self._router.announce(worker, table.key, pairs[start : start + 2 * _PAIRS])
        table.untold.clear()

    def take(self, key: Round, uids: Sequence[int], rows: Sequence[int]) -> None:
        """Another worker says where its nodes' rows lie."""
        if len(self._ended) == len(self._here):  # nobody will read them
            self._release(rows)
            return
        table = self._table(key)
        places = table.places
        for uid, row in zip(uids, rows, strict=True):
            if places[uid] != _NONE:
                raise _twice(uid, key)
            places[uid] = row
        table.there += len(rows)
        table.others.extend(rows)
        self.stirred = True

    def take_private(self, message: Message) -> None:
        """A row of another worker that is not in the arena."""
        self._router.received[self._placement.owner(message.sender)] += 1
        if len(self._ended) < len(self._here):
            table = self._table(message.round)
            if table.places[message.sender] != _NONE:
                raise _twice(message.sender, message.round)
            table.places[message.sender] = _PRIVATE
            table.there += 1
            table.private[message.sender] = message
            self.stirred = True

    # ------------------------------------------------------------------- settling

    def settle(self, patient: bool = False) -> None:
        """Work out the sums of all whose rows are there, and let them go on.

        With ``patient``, nodes wait until those of their round can go on too: then all train
        together. Whoever asks for that settles again a moment later (`postponed`).
        """
        self.stirred = self.postponed = False
        self.flush()
        for table in list(self._tables.values()):
            if patient and table.there < table.needed:
                self.postponed = True
            elif table.strands:
                self._settle(table)
        if len(self._tables) > _MANY:
            self._sweep()

    def _settle(self, table: Table) -> None:
        started = self._stopwatch()
        strands, arounds = table.strands, table.arounds
        everybody, sums = np.array(table.places), self._sums_of(arounds)
        places = everybody[sums.sources]
        complete = np.logical_and.reduceat(places != _NONE, sums.starts)
        if complete.all():
            table.strands, table.arounds = [], []
        else:
            table.strands, table.arounds = _only(strands, ~complete), _only(arounds, ~complete)
            strands, arounds = _only(strands, complete), _only(arounds, complete)
            if not strands:
                return
            sums = Sums.of(arounds)
            places = everybody[sums.sources]
        fresh = self._average(table, sums, places)
        self._let_go_on(table, strands, fresh, started)

    def _sums_of(self, arounds: list[Around]) -> Sums:
        """What is summed for these nodes; mostly the same as in the round before."""
        if self._sums is None or self._sums.arounds != arounds:
            self._sums = Sums.of(arounds)
        return self._sums

    def _average(self, table: Table, sums: Sums, places: np.ndarray) -> list[Row]:
        """The next rows of nodes whose rows, and those that they hear, lie at ``places``."""
        acquire = self._pool.acquire
        fresh = [acquire() for _ in sums.arounds]
        to = [row.index for row in fresh if row.index is not None]
        if table.private or len(to) < len(fresh):
            for around, row in zip(sums.arounds, fresh, strict=True):
                self._average_one(table, around, row.tensor)
            return fresh
        rows, target, stops = self._arena.all, np.array(to), sums.stops
        array = rows.numpy()
        for first in range(0, len(fresh), self._chunk):
            last = min(first + self._chunk, len(fresh))
            part = slice(stops[first], stops[last])
            starts = sums.starts[first:last] - stops[first]
            found = weighted_sums(rows, places[part], starts, sums.weights[part])
            array[target[first:last]] = found.numpy()  # a third of index_copy_'s time
        return fresh

    def _average_one(self, table: Table, around: Around, out: Tensor) -> None:
        """The same for one node, wherever the rows lie."""
        own, *heard = (self._said(table, int(uid)) for uid in around.sources)
        weighted_sum(own.tensors[VALUES], heard, around.mixing, out)

    def _said(self, table: Table, uid: int) -> Message:
        place = table.places[uid]
        if place == _PRIVATE:
            return table.private[uid]
        return Message({VALUES: self._arena.row(place)}, None, uid, table.key)

    def _let_go_on(
        self,
        table: Table,
        strands: Sequence[Strand],
        fresh: Sequence[Row],
        started: float,
    ) -> None:
        go_on, owed = self._go_on, table.owed
        assert owed is not None
        table.old += [
            strand.seat.rows.replace("x", row) for strand, row in zip(strands, fresh, strict=True)
        ]
        owed.difference_update([strand.seat.uid for strand in strands])
        self._see_whether_over(table)
        spent = (self._stopwatch() - started) / len(strands)
        for strand in strands:
            seconds = strand.seat.seconds
            seconds.wait += started - strand.since
            seconds.share += spent
            go_on(strand, True)

    # --------------------------------------------------------------- giving back

    def _see_whether_over(self, table: Table) -> None:
        if not table.owed and not table.strands:
            self._close(table)

    def _close(self, table: Table) -> None:
        """Nobody here reads the rows of a round any more."""
        self._tell(table)  # others still have to
        for row in table.old:
            self._pool.retire(row)
        self._release(table.others)
        del self._tables[table.key]

    def _release(self, rows: Iterable[int]) -> None:
        self._arena.counters.release_all(self._me.worker, rows)

    def _pass(self, uid: int, key: Round) -> None:
        """A node is in a later round, so it sat out the earlier ones that still wait for it."""
        for table in list(self._tables.values()):
            if table.key < key and table.owed and uid in table.owed:
                self._excuse(table, uid)

    def _excuse(self, table: Table, uid: int) -> None:
        assert table.owed is not None
        table.owed.discard(uid)
        self._see_whether_over(table)

    def _sweep(self) -> None:
        """Close rounds that only other workers have spoken of, and that all nodes here are past."""
        active = [uid for uid in self._here if uid not in self._ended]
        past = min((self._latest.get(uid, _BEFORE) for uid in active), default=None)
        for table in list(self._tables.values()):
            if table.owed is None and (past is None or table.key < past):
                self._close(table)

    def leave(self, uid: int) -> None:
        """A node has ended."""
        self._ended.add(uid)
        for table in list(self._tables.values()):
            if table.owed and uid in table.owed:
                self._excuse(table, uid)
        if len(self._ended) == len(self._here):  # nobody reads what others have told
            for table in list(self._tables.values()):
                self._close(table)

    def absent(self, strand: Strand) -> tuple[Round, list[int]] | None:
        """The round that a program waits in, and whom it has not heard of; None if it does not."""
        for table in self._tables.values():
            for waiting, around in zip(table.strands, table.arounds, strict=True):
                if waiting is strand:
                    absent = [u for u in around.sources.tolist() if table.places[u] == _NONE]
                    return table.key, absent
        return None


def _only(items: Sequence[_Item], chosen: np.ndarray) -> list[_Item]:
    return list(compress(items, chosen.tolist()))


def _twice(uid: int, key: Round) -> RunError:
    return RunError(f"node {uid} averages round {key} twice, or after a later one")
