"""uid <-> (machine, rank): a bijection, and clear words where there is none."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.mappings.mapping import Mapping

counts = st.lists(st.integers(1, 9), min_size=1, max_size=9).map(tuple)


@given(counts)
def test_uids_and_places_are_one_to_one(counts):
    mapping = Mapping(counts)
    places = [(m, r) for m, count in enumerate(counts) for r in range(count)]
    assert mapping.n == len(places) and mapping.machines == len(counts)
    assert [mapping.machine_rank(uid) for uid in range(mapping.n)] == places
    assert [mapping.uid(rank, machine) for machine, rank in places] == list(range(mapping.n))
    assert [uid for m in range(mapping.machines) for uid in mapping.uids(m)] == list(
        range(mapping.n)
    )


@given(st.integers(1, 20), st.integers(1, 20))
def test_linear_is_the_formula(machines, procs):
    mapping = Mapping.linear(machines, procs)
    assert mapping.n == machines * procs
    for uid in range(mapping.n):
        assert mapping.machine_rank(uid) == divmod(uid, procs)


@given(st.integers(1, 300), st.integers(1, 40))
def test_spread_is_even_and_starts_full(nodes, machines):
    if nodes < machines:
        with pytest.raises(ValueError, match=f"at most {nodes}"):
            Mapping.spread(nodes, machines)
        return
    mapping = Mapping.spread(nodes, machines)
    assert mapping.n == nodes and mapping.machines == machines
    assert max(mapping.counts) - min(mapping.counts) <= 1
    assert list(mapping.counts) == sorted(mapping.counts, reverse=True)


def test_spread_by_hand():
    assert Mapping.spread(10, 4).counts == (3, 3, 2, 2)
    assert Mapping.spread(128, 4) == Mapping.linear(4, 32)


def test_servers_keep_their_rank_as_uid():
    mapping = Mapping((2, 3), server_machine=1)
    assert mapping.uid(-1, 0) == mapping.uid(-1, 1) == -1
    assert mapping.machine_rank(-1) == (1, -1) and mapping.machine_rank(-2) == (1, -2)
    assert Mapping((2,)).machine_rank(-1) == (0, -1)
    assert Mapping.linear(3, 2, 2).server_machine == Mapping.spread(6, 3, 2).server_machine == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mapping(()), "at least one machine"),
        (lambda: Mapping((2, 0)), "machine 1 has 0 nodes"),
        (lambda: Mapping((2, -1)), "machine 1 has -1 nodes"),
        (lambda: Mapping((2,), server_machine=1), "no machine 1: the machines are 0 to 0"),
        (lambda: Mapping.linear(0, 4), "at least one machine"),
        (lambda: Mapping.linear(4, 0), "machine 0 has 0 nodes"),
        (lambda: Mapping.spread(4, 0), "at least one machine"),
        (lambda: Mapping((2, 3)).uid(2, 0), "no rank 2 on machine 0: its ranks are 0 to 1"),
        (lambda: Mapping((2, 3)).uid(0, 2), "no machine 2"),
        (lambda: Mapping((2, 3)).uid(0, -1), "no machine -1"),
        (lambda: Mapping((2, 3)).machine_rank(5), "no node 5: the nodes are 0 to 4"),
        (lambda: Mapping((2, 3)).uids(2), "no machine 2"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_equal_and_frozen_and_pickled():
    mapping = Mapping((2, 3))
    assert mapping.n == 5  # fills the cache, which must not count as content
    assert mapping == Mapping((2, 3)) and hash(mapping) == hash(Mapping((2, 3)))
    assert pickle.loads(pickle.dumps(mapping)) == mapping
    with pytest.raises(AttributeError):
        mapping.counts = (1,)
