"""Nodes on workers: every node on exactly one, in contiguous blocks, as even as possible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.mappings.mapping import Mapping
from decentralizepy.mappings.placement import Placement, WorkerId


@st.composite
def placements(draw):
    counts = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    workers = tuple(draw(st.integers(1, count)) for count in counts)
    return Placement(Mapping(tuple(counts)), workers)


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
    assert list(map(placement.uids, placement.all())) == [range(3), range(3, 5), range(5, 8)]
    assert placement.owner(4) == WorkerId(0, 1) and placement.owner(7) == WorkerId(1, 0)
    assert str(WorkerId(1, 2)) == "machine 1, worker 2"
    with pytest.raises(KeyError):
        placement.uids(WorkerId(1, 1))


def test_more_workers_than_nodes_are_refused():
    with pytest.raises(ValueError, match="at most 2"):
        Placement(Mapping((2,)), (3,)).owner(0)
