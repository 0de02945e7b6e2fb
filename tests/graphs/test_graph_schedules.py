"""Schedules: the reference's graphs, purity, and a small memory."""

import pickle

import networkx as nx
import pytest

from decentralizepy.graphs.generators import derived_seed, regular, ring
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.schedules import (
    WINDOW,
    RandomRegularSchedule,
    Schedule,
    StaticSchedule,
)


def networkx_graph(n, degree, seed):
    drawn = nx.random_regular_graph(degree, n, seed)
    assert nx.is_connected(drawn)
    return Graph.undirected(n, list(drawn.edges))


class Counting(Schedule):
    """A ring at all times; remembers what it was asked to draw."""

    def __init__(self, n):
        super().__init__(n)
        self.draws = []

    def draw(self, t, k):
        self.draws.append((t, k))
        return ring(self.n)


def test_static_is_always_the_same_graph():
    graph = ring(5)
    schedule = StaticSchedule(graph)
    assert schedule.n == 5
    assert schedule.at(0) is schedule.at(7, 3) is graph


@pytest.mark.parametrize("t", [0, 1, 41])
def test_a_graph_per_iteration_is_the_references(t):
    schedule = RandomRegularSchedule(16, 4, seed=97)
    assert schedule.at(t) == networkx_graph(16, 4, 97 * 100000 + t)
    assert schedule.at(t, 9) is schedule.at(t)


@pytest.mark.parametrize(("t", "k"), [(0, 0), (0, 3), (2, 1)])
def test_a_graph_per_averaging_round_is_the_references(t, k):
    schedule = RandomRegularSchedule(16, 4, 97, per_averaging_round=True)
    assert schedule.at(t, k) == networkx_graph(16, 4, 97 * 100000 + 10000000 * t + k)


def test_graphs_change_over_time():
    schedule = RandomRegularSchedule(16, 4, 1)
    assert len({schedule.at(t) for t in range(20)}) == 20
    rounds = RandomRegularSchedule(16, 4, 1, per_averaging_round=True)
    assert len({rounds.at(t, k) for t in range(4) for k in range(5)}) == 20


def test_a_disconnected_draw_is_drawn_again_not_patched():
    n, degree, seed = 12, 2, 3
    draws = (nx.random_regular_graph(degree, n, seed * 100000 + t) for t in range(99))
    t = next(t for t, drawn in enumerate(draws) if not nx.is_connected(drawn))
    graph = RandomRegularSchedule(n, degree, seed).at(t)
    assert graph.is_connected() and set(graph.degrees()) == {2}
    seeds = [derived_seed(seed * 100000 + t, attempt) for attempt in range(99)]
    connected = (s for s in seeds if nx.is_connected(nx.random_regular_graph(degree, n, s)))
    assert graph == networkx_graph(n, degree, next(connected))


def test_answers_do_not_depend_on_the_order_of_questions():
    forward, backward = (RandomRegularSchedule(10, 3, 5, True) for _ in range(2))
    times = [(t, k) for t in range(5) for k in range(3)]
    there = {time: forward.at(*time).digest() for time in times}
    back = {time: backward.at(*time).digest() for time in reversed(times)}
    again = {time: forward.at(*time).digest() for time in times}
    assert there == back == again


def test_members_restrict_the_graph():
    schedule = RandomRegularSchedule(16, 4, 2)
    members = frozenset(range(0, 16, 3))
    kept = schedule.at(3, members=members)
    assert kept == regular(16, 4, 200003).restrict(members)
    assert kept != schedule.at(3)
    assert schedule.at(3, members=frozenset(range(16))) == schedule.at(3)
    with pytest.raises(ValueError, match="node 16 is not in the graph"):
        schedule.at(3, members=frozenset({16}))


def test_one_draw_serves_all_nodes_and_members():
    schedule = Counting(6)
    some = frozenset({0, 1, 2})
    for _ in range(3):
        for members in (None, some, frozenset({4, 5})):
            schedule.at(2, 1, members)
    assert schedule.draws == [(2, 1)]
    assert schedule.at(2, 1, some) is schedule.at(2, 1, frozenset([2, 1, 0]))


def test_memory_is_a_window_of_the_last_used():
    schedule = Counting(4)
    for t in range(WINDOW):
        schedule.at(t)
    schedule.at(0)  # used again: the oldest is now 1
    schedule.at(WINDOW)
    assert schedule.draws == [(t, 0) for t in range(WINDOW + 1)]
    schedule.at(0)
    assert len(schedule.draws) == WINDOW + 1
    schedule.at(1)
    assert schedule.draws[-1] == (1, 0)
    assert len(schedule._drawn._graphs) == WINDOW


def test_wrong_times_and_degrees_are_refused_early():
    for t, k in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="both count from 0"):
            StaticSchedule(ring(3)).at(t, k)
    with pytest.raises(ValueError, match="must be even"):
        RandomRegularSchedule(7, 3, 0)


def test_schedules_travel_to_other_processes():
    schedule = RandomRegularSchedule(16, 4, 2)
    before = schedule.at(1)
    assert pickle.loads(pickle.dumps(schedule)).at(1) == before
