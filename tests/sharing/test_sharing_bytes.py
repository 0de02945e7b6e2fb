"""The bytes that are counted are those that a proxy between two machines sees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from proxies import Proxy
from sharing_matrix import GRAPHS, Case, Play, World, cases, start, trained
from test_wire import HERE, PROXIES, A, B, End, free_offset, until

from decentralizepy.mappings.mapping import Mapping
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory import shared
from decentralizepy.memory.arena import Arena
from decentralizepy.memory.rows import RowPool
from decentralizepy.messages.message import Message
from decentralizepy.transport.frames import to_frames
from decentralizepy.transport.router import Router, Traffic

#: long enough that headers are a small part
PARAMETERS, LENGTH = 4990, 5000
#: framing of a message on the wire, and acknowledgements
BESIDE = 300


@dataclass
class Wire:
    """Two machines with a proxy between them, and what the engine counts with."""

    here: End
    there: End
    proxy: Proxy
    router: Router

    def carry(self, message: Message) -> tuple[int, int]:
        """Bytes counted, and bytes seen by the proxy, of a message to one node."""
        before, arrived = len(self.proxy.seen), len(self.there.got)
        traffic = Traffic()
        self.router.count(message, 1, traffic)
        header, payload = to_frames(message)
        frames = [b"M" + bytes(8), header, *map(bytes, payload)]
        self.here.wire.outbound.send(B, frames, message.sender)
        ends = [self.here, self.there]
        until(ends, lambda: len(self.there.got) == arrived + len(frames))
        return traffic.data + traffic.meta, len(self.proxy.seen) - before


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    offset = free_offset()
    proxy = Proxy((PROXIES[1], offset + 1), (HERE[1], offset + 1))
    here = End(A, (HERE[0], PROXIES[1]), offset, None, 60.0)
    there = End(B, HERE[:2], offset, None, 60.0)
    wire = Wire(here, there, proxy, _router())
    wire.carry(Message({"greeting": start(World(GRAPHS["pair"]))}))
    yield wire
    for one in (proxy, here, there):
        one.close()


def _router() -> Router:
    plan = shared.ArenaPlan((1,), LENGTH, 1)
    memory = shared.create()
    shared.resize(memory, plan)
    arena = Arena(memory, plan)
    os.close(memory)
    placement = Placement(Mapping((1,)), (1,))
    return Router(WorkerId(0, 0), placement, arena, RowPool(arena, 0), lambda uids, message: None)


#: all methods without a compressor, and all compressors with the first method that takes them
CASES: dict[str, Case] = {}
for _case in cases().values():
    CASES.setdefault(f"{_case.row.name}-none", _case)
    CASES.setdefault(f"-{_case.world.compressor.name}", _case)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_counted_bytes_are_sent_bytes(case: Case, wire: Wire) -> None:
    """Nor more of them than the compressor says, beside the header."""
    row, compressor = case.row, case.world.compressor
    world = replace(case.world, n_parameters=PARAMETERS, length=LENGTH)
    play, rows = Play(row.make, world), start(world)
    for t in range(2):
        rows = play.round(trained(rows, t), t)
        said = [message for uid, _, message in play.said if uid == 1]
        assert said or not world.graph(t).out_neighbors(1)
        for message in said:
            counted, seen = wire.carry(message)
            assert counted <= seen <= counted + BESIDE
            whole = LENGTH * world.dtype.itemsize
            most = whole if compressor.name == "none" else compressor.nbytes(LENGTH)
            assert counted <= most + len(message.encoded())
