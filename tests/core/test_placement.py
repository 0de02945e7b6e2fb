"""Nodes on workers: every node on exactly one, in contiguous blocks, as even as possible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.mappings.mapping import Mapping
from decentralizepy.mappings.placement import Placement, WorkerId, spread


@st.composite
def placements(draw, servers=0):
    counts = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    workers = tuple(draw(st.integers(1, count)) for count in counts)
    home = draw(st.integers(0, len(counts) - 1))
    return Placement(Mapping(tuple(counts), home, draw(st.integers(0, servers))), workers)


@given(placements())
def test_every_node_has_one_worker_on_its_machine(placement):
    blocks = [placement.uids(who) for who in placement.all()]
    assert [uid for block in blocks for uid in block] == list(range(placement.mapping.n))
    assert all(len(block) for block in blocks)
    for uid in range(placement.mapping.n):
        who = placement.owner(uid)
        assert uid in placement.uids(who)
        assert who.machine == placement.mapping.machine_rank(uid)[0]


@given(placements())
def test_workers_of_a_machine_carry_the_same(placement):
    for machine, count in enumerate(placement.workers):
        sizes = [len(placement.uids(WorkerId(machine, number))) for number in range(count)]
        assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
        assert sum(sizes) == placement.mapping.counts[machine]


@given(placements())
def test_workers_are_in_order_and_the_root_is_the_first(placement):
    who = list(placement.all())
    assert who == sorted(who) and len(who) == sum(placement.workers)
    assert placement.root == who[0] == (0, 0)


def test_by_hand():
    placement = Placement(Mapping((5, 3)), (2, 1))
    assert list(map(placement.uids, placement.all())) == [(0, 1, 2), (3, 4), (5, 6, 7)]
    assert placement.owner(4) == WorkerId(0, 1) and placement.owner(7) == WorkerId(1, 0)
    assert str(WorkerId(1, 2)) == "machine 1, worker 2"
    with pytest.raises(KeyError):
        placement.uids(WorkerId(1, 1))


@given(placements(servers=7))
def test_servers_are_dealt_to_the_workers_of_their_machine(placement):
    mapping = placement.mapping
    servers = [uid for who in placement.all() for uid in placement.uids(who) if uid < 0]
    assert sorted(servers) == list(range(-mapping.servers, 0))
    for uid in servers:
        who = placement.owner(uid)
        assert uid in placement.uids(who) and who.machine == mapping.server_machine
    for machine, count in enumerate(placement.workers):
        hosted = mapping.hosted(machine)
        here = sum(uid < 0 for uid in hosted)
        sizes = [len(placement.uids(WorkerId(machine, number))) for number in range(count)]
        assert spread(len(hosted), here, count) == tuple(sizes)
        assert sorted(hosted) == sorted(
            uid for i in range(count) for uid in placement.uids(WorkerId(machine, i))
        )


def test_nobody_else_has_a_place():
    placement = Placement(Mapping((5, 3), 1, 2), (2, 1))
    assert placement.uids(WorkerId(1, 0)) == (5, 6, 7, -1, -2)
    assert placement.has(-2) and not placement.has(-3) and not placement.has(8)
    with pytest.raises(ValueError, match="no node -3: the nodes are 0 to 7, servers -1 to -2"):
        placement.owner(-3)
    with pytest.raises(ValueError, match=r"no node 8: the nodes are 0 to 7$"):
        Placement(Mapping((5, 3)), (2, 1)).owner(8)


def test_more_workers_than_nodes_are_refused():
    with pytest.raises(ValueError, match="at most 2"):
        Placement(Mapping((2,)), (3,)).owner(0)
