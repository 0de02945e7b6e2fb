"""Files of simulations and fault plans: what they mean, and one clear message for what is wrong."""

import codecs
import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.errors import ConfigError
from decentralizepy.graphs.generators import ring
from decentralizepy.graphs.graph import Graph
from decentralizepy.jsonfile import read_json_file
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.runfolder import MachineFolder, RecordWriter
from decentralizepy.scenario.faultplan import Kill, Partition, SlowLink, describe, read_fault_plan
from decentralizepy.scenario.simulation import Link, Network, read_simulation


@pytest.fixture
def simulate(tmp_path):
    def read(value, nodes=4, graph=None):
        path = tmp_path / "simulation.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return read_simulation(path, nodes, graph)

    return read


@pytest.fixture
def plan(tmp_path):
    def read(value, counts=(3, 3), iterations=20, virtual=True, graph=None):
        path = tmp_path / "faults.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return read_fault_plan(path, Mapping(counts), iterations, virtual, graph)

    return read


def link(simulation, sender, receiver):
    machines = (simulation.machine_of(sender), simulation.machine_of(receiver))
    return simulation.links.between((sender, receiver), machines)


# ------------------------------------------------------------------------- links


def test_what_is_closer_to_the_edge_is_stronger_key_by_key(simulate):
    found = simulate(
        {
            "machines": [2, 2],
            "links": {
                "latency_s": 1, "bandwidth_Bps": 100,
                "within_machine": {"latency_s": 0},
                "machine_pairs": {"0-1": {"latency_s": 2}, "1>0": {"latency_s": 3}},
                "edges": {"0>2": {"latency_s": 5}, "0-2": {"latency_s": 4, "bandwidth_Bps": 10}},
            },
        }
    )  # fmt: skip
    assert link(found, 0, 1) == Link(0, 100) == link(found, 3, 2)
    assert link(found, 1, 3) == Link(2, 100) and link(found, 3, 1) == Link(3, 100)
    assert link(found, 0, 2) == Link(5, 10), "one way is stronger, wherever it stands"
    assert link(found, 2, 0) == Link(4, 10)
    assert [found.machine_of(uid) for uid in range(4)] == [0, 0, 1, 1]


def test_without_links_messages_arrive_at_once(simulate):
    found = simulate({"compute": {"seconds_per_iteration": 1}})
    assert link(found, 0, 3) == Link(0.0, math.inf)
    assert Network(found).arrival(0, 3, 10**9, 2.5) == 2.5


@pytest.mark.parametrize(
    ("queue", "expected"),
    [("node", [3, 5, 3]), ("edge", [3, 3, 3]), ("machine", [3, 5, 7])],
)
def test_a_port_sends_one_message_after_the_other(simulate, queue, expected):
    links = {"latency_s": 1, "bandwidth_Bps": 50, "queue": queue}
    network = Network(simulate({"machines": [2, 2], "links": links}))
    sent = [(0, 2), (0, 3), (1, 2)]
    assert [network.arrival(*pair, 100, 0.0) for pair in sent] == expected
    assert network.arrival(0, 2, 100, 50.0) == 53, "a port that is free again waits for nobody"


def test_within_a_machine_nobody_waits_for_its_port(simulate):
    links = {"bandwidth_Bps": 50, "queue": "machine", "within_machine": {"bandwidth_Bps": 1000}}
    network = Network(simulate({"machines": [2, 2], "links": links}))
    assert network.arrival(0, 2, 100, 0.0) == 2
    assert network.arrival(0, 1, 100, 0.0) == 0.1


def test_what_a_node_says_to_itself_takes_no_link(simulate):
    network = Network(simulate({"links": {"latency_s": 1, "bandwidth_Bps": 50}}))
    assert network.arrival(2, 2, 10**9, 3.5) == 3.5
    assert network.arrival(2, 3, 50, 3.5) == 5.5, "its port was free"


def test_a_slow_link_takes_its_port_longer(simulate):
    network = Network(simulate({"links": {"latency_s": 1, "bandwidth_Bps": 50}}))
    assert network.arrival(0, 1, 100, 0.0, factor=10, delay=0.5) == 30.5
    assert network.arrival(0, 2, 100, 0.0) == 23, "what comes after it has to wait"


# ----------------------------------------------------------------------- compute


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, [0.5, 0.5, 0.5, 0.5]),
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ({"default": 1, "2": 7}, [1, 1, 7, 1]),
    ],
)
def test_costs_are_constant_or_per_node(simulate, value, expected):
    found = simulate({"compute": {"seconds_per_iteration": value}})
    assert [pace.cost(t) for pace in found.paces for t in (0, 99)] == [
        cost for cost in expected for _ in (0, 1)
    ]


def write_records(folder, rows):
    folder.mkdir(parents=True)
    writer = RecordWriter(MachineFolder(folder).records(0))
    for uid, iteration, spent in rows:
        writer.append({"iteration": iteration, "uid": uid, "rank": uid, "train_s": spent})
    writer.close()


def test_costs_of_a_measured_run_add_up_to_what_was_measured(simulate, tmp_path):
    points = [(1, 0.5), (5, 1.3), (10, 3.3)]
    write_records(tmp_path / "run" / "machine0", [(0, *point) for point in points])
    write_records(tmp_path / "run" / "machine1", [(1, *point) for point in points[:1]])
    found = simulate({"compute": {"run": "run"}}, nodes=2)
    assert found.paces[0].seconds == pytest.approx((0.5, 0.2, 0.4))
    for iteration, total in points:
        assert sum(found.paces[0].cost(t) for t in range(iteration)) == pytest.approx(total)
    assert found.paces[0].cost(10) == found.paces[0].cost(500) == pytest.approx(0.33)
    assert found.paces[1].cost(7) == 0.5


def test_a_measured_run_must_know_all_nodes(simulate, tmp_path):
    write_records(tmp_path / "run" / "machine0", [(0, 1, 0.5), (1, 1, 0.5), (2, 1, 0.5)])
    with pytest.raises(ConfigError, match="no record of node 3"):
        simulate({"compute": {"run": "run"}})
    with pytest.raises(ConfigError, match="has no records: name the folder of a run"):
        simulate({"compute": {"run": "elsewhere"}})


def test_a_measured_run_that_goes_back_is_refused(simulate, tmp_path):
    write_records(tmp_path / "run", [(0, 1, 0.5), (0, 2, 0.4)])
    with pytest.raises(ConfigError, match="node 0: train_s falls"):
        simulate({"compute": {"run": "run"}}, nodes=1)


WRONG_SIMULATIONS = [
    ("[]", "is not an object"),
    ("{", "not valid JSON"),
    ('{"links": {}, "links": {}}', "'links' appears twice"),
    ('{"links": {"latency_s": NaN}}', "NaN is no number"),
    ({}, "say what takes time"),
    ({"link": {}}, r"unknown key 'link' \(did you mean 'links'\?\)"),
    ({"links": {"latency_ms": 1}}, r"unknown key 'latency_ms' \(did you mean 'latency_s'"),
    ({"links": {"latency_s": -1}}, "links: latency_s: -1 is not a number, 0 or more"),
    ('{"links": {"latency_s": 1e999}}', "inf is not a number"),
    ({"links": {"latency_s": 10**400}}, "is not a number"),
    ({"links": {"latency_s": True}}, "True is not a number"),
    ({"links": {"bandwidth_Bps": 0}}, "bandwidth_Bps: 0 is not a number above 0"),
    ({"links": {"queue": "nod"}}, "'nod' is none of node, edge, machine"),
    ({"links": {"queue": "machine"}}, "there is one machine only"),
    ({"links": {"within_machine": {}}}, "there is one machine only"),
    ({"links": {"edges": {"1 - 2": {}}}}, "'1 - 2' is not a pair: write 3-7"),
    ({"links": {"edges": {"1-1": {}}}}, "two different numbers of 0 to 3"),
    ({"links": {"edges": {"1>4": {}}}}, "two different numbers of 0 to 3"),
    ({"links": {"edges": {"1-2": {}, "2-1": {}}}}, "appears twice"),
    ({"links": {"edges": []}}, "is not an object like"),
    ({"links": {}, "machines": [2, 1]}, "3 nodes, but the graph has 4"),
    ({"links": {}, "machines": [4, 0]}, "0 is not a whole number, 1 or more"),
    ({"links": {}, "machines": 2}, "is not a list"),
    ({"compute": {}}, "either 'seconds_per_iteration' or 'run'"),
    ({"compute": {"seconds_per_iteration": [1, 2]}}, "2 entries, 4 are needed"),
    ({"compute": {"seconds_per_iteration": {"0": 1}}}, "'default' is missing"),
    ({"compute": {"seconds_per_iteration": {"default": 1, "4": 1}}}, "no node '4'"),
    ({"compute": {"seconds_per_iteration": "1"}}, "'1' is not a number"),
    ({"compute": {"run": 3}}, "3 is not the folder"),
]


@pytest.mark.parametrize(("value", "message"), WRONG_SIMULATIONS)
def test_a_wrong_simulation_is_refused_with_its_file(simulate, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        simulate(value)
    assert "simulation.json" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{}")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with (tmp_path / "large.json").open("wb") as large:
        large.truncate(17 << 20)
    for name, message in [
        ("no.json", "No such file"), ("bytes.json", "not UTF-8"), ("deep.json", "not valid JSON"),
        ("large.json", "more than 16 MiB"), ("", "Is a directory"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            read_json_file(tmp_path / name, "--simulate")


def test_a_link_of_the_file_must_be_an_edge_of_the_graph(simulate):
    graph = Graph(4, [(0, 1), (1, 2), (2, 1)])

    def edges(*keys):
        return {"links": {"edges": {key: {"latency_s": 1} for key in keys}}}

    assert len(simulate(edges("1-0", "0>1", "2>1"), graph=graph).links.edges) == 3
    for key, why in [
        ("1>0", "node 1 never sends to node 0"), ("0-3", "never sends to node 3, nor the other"),
    ]:  # fmt: skip
        assert simulate(edges(key)).links.edges
        with pytest.raises(
            ConfigError, match=f"links: edges: {key} is not an edge .*{why}"
        ) as caught:
            simulate(edges("1-2", key), graph=graph)
        assert "simulation.json" in str(caught.value)


@pytest.mark.timeout(20)
def test_a_pipe_or_a_device_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zeros.json").symlink_to("/dev/zero")
    (tmp_path / "good.json").write_bytes(codecs.BOM_UTF8 + b"{}")
    (tmp_path / "link.json").symlink_to("good.json")
    for name in ("pipe.json", "zeros.json"):
        with pytest.raises(ConfigError, match=rf"{name} is not a regular file .*\(--faults\)"):
            read_json_file(tmp_path / name, "--faults")
    assert read_json_file(tmp_path / "link.json", "--faults") == {}


# ------------------------------------------------------------------------ faults

GOOD = [
    {"kill": {"node": 3}, "round": 10},
    {"kill": {"machine": 0}, "round": 12},
    {"slow_link": {"from": 1, "to": 2, "factor": 10}, "rounds": [5, 20]},
    {"partition": [[0, 1, 2], [3, 4]], "rounds": [10, 15]},
    {"partition": [[5]], "rounds": [16, 17]},
]


def test_events_of_a_node_and_round(plan):
    found = plan(GOOD)
    kinds = [type(fault) for fault in found.faults]
    assert kinds == [Kill, Kill, SlowLink, Partition, Partition]
    at = {
        (uid, t): [fault.number for fault in found.events_at(uid, t)]
        for uid in range(6)
        for t in range(20)
    }
    assert [t for t in range(20) if 0 in at[3, t]] == [9], "round 10 is iteration 9"
    assert all(0 not in at[uid, t] for uid in range(6) if uid != 3 for t in range(20))
    assert [uid for uid in range(6) if 1 in at[uid, 11]] == [0, 1, 2]
    assert [t for t in range(20) if 2 in at[1, t]] == list(range(4, 20)) and 2 not in at[2, 5]
    assert [t for t in range(20) if 3 in at[4, t]] == list(range(9, 15))
    assert found.text == GOOD and describe(found.faults[3]) == "fault 4 (partition)"


def test_nodes_of_no_group_are_one_group(plan):
    first, second = plan(GOOD).faults[3:]
    assert isinstance(first, Partition) and isinstance(second, Partition)
    assert first.cuts(0, 3) and first.cuts(5, 0) and not first.cuts(1, 2)
    assert second.cuts(5, 0) and second.cuts(0, 5) and not second.cuts(0, 4)


def test_a_window_in_seconds_looks_at_the_clock(plan):
    found = plan([{"partition": [[0]], "seconds": [1.5, 3]}])
    assert [bool(found.events_at(0, 7, now=now)) for now in (1.4, 1.5, 2.9, 3.0)] == [
        False, True, True, False,
    ]  # fmt: skip
    assert found.events_at(0, 7) == []


def test_a_killed_worker_takes_the_nodes_that_it_has(plan):
    found = plan([{"kill": {"worker": [1, 0]}, "round": 2}], virtual=False)
    assert found.events_at(4, 1, home=(1, 0)) and not found.events_at(4, 1, home=(1, 1))


SLOW = {"from": 0, "to": 1, "factor": 2}
WRONG_PLANS = [
    ({}, "is not a list"),
    ([3], "fault 1: give exactly one of kill, slow_link, partition"),
    ([{"kill": {"node": 0}}], "'round' is missing"),
    ([{"kil": {"node": 0}, "round": 1}], "give exactly one of kill"),
    ([{"kill": {"node": 0}, "rounds": 1}], r"unknown key 'rounds' \(did you mean 'round'"),
    ([{"kill": {"node": 6}, "round": 1}], "6 is not a whole number, 0 to 5"),
    ([{"kill": {"node": True}, "round": 1}], "True is not a whole number"),
    ([{"kill": {"node": 0}, "round": 0}], "round: 0 is not a whole number, 1 to 20"),
    ([{"kill": {"node": 0}, "round": 21}], "round: 21 is not a whole number, 1 to 20"),
    ([{"kill": {"machine": 2}, "round": 1}], "machine: 2 is not a whole number, 0 to 1"),
    ([{"kill": {"worker": [0, 0]}, "round": 1}], "one worker: kill a node or a machine"),
    ([{"kill": {"node": 0, "machine": 0}, "round": 1}], "exactly one of node, worker, machine"),
    ([{"kill": {"node": 0}, "round": 1}] * 2, "faults 1 and 2: node 0 is killed twice"),
    ([{"kill": {"node": 1}, "round": 1}, {"kill": {"machine": 0}, "round": 2}], "killed twice"),
    ([{"slow_link": SLOW}], "either 'rounds' or 'seconds'"),
    ([{"slow_link": SLOW, "rounds": [1, 2], "seconds": [1, 2]}], "either 'rounds' or 'seconds'"),
    ([{"slow_link": SLOW, "rounds": [3, 2]}], r"\[3, 2\] ends before it begins"),
    ([{"slow_link": SLOW, "rounds": [21, 22]}], "21 is not a whole number, 1 to 20"),
    ([{"slow_link": SLOW, "seconds": [2, 2]}], r"\[2, 2\] ends before it begins"),
    ([{"slow_link": {"from": 0, "to": 1}, "rounds": [1, 2]}], "give 'factor', 'delay_s' or both"),
    ([{"slow_link": SLOW | {"to": 0}, "rounds": [1, 2]}], "from and to are the same node"),
    ([{"slow_link": SLOW, "rounds": [1, 5]}, {"slow_link": SLOW, "rounds": [5, 6]}], "0>1 is slow"),
    ([{"partition": [[0, 1], [1]], "rounds": [1, 2]}], "node 1 appears twice"),
    ([{"partition": [[0], []], "rounds": [1, 2]}], "a group is empty"),
    ([{"partition": [[0, 1, 2, 3, 4, 5]], "rounds": [1, 2]}], "nothing is cut"),
    ([{"partition": [], "rounds": [1, 2]}], "nothing is cut"),
    ([{"partition": [[0]], "rounds": [1, 5]}, {"partition": [[1]], "rounds": [2, 3]}], "same time"),
]


@pytest.mark.parametrize(("value", "message"), WRONG_PLANS)
def test_a_wrong_plan_is_refused_with_its_file_and_entry(plan, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        plan(value)
    assert "faults.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_slow_link_must_be_an_edge_of_the_graph_in_its_direction(plan):
    graph = Graph(6, [(0, 1)])
    back = {"from": 1, "to": 0, "factor": 2}
    faults = [{"slow_link": link, "rounds": [1, 2]} for link in (SLOW, back)]
    assert plan(faults).faults and plan(faults[:1], graph=graph).faults
    said = "fault 2: slow_link: 1>0 is not an edge of the graph: node 1 never sends to node 0"
    with pytest.raises(ConfigError, match=rf"faults\.json: {said}"):
        plan(faults, graph=graph)


def test_a_real_slow_link_needs_seconds(plan):
    with pytest.raises(ConfigError, match="give 'delay_s': 'factor' is for simulated runs"):
        plan([{"slow_link": SLOW, "rounds": [1, 2]}], virtual=False)
    with pytest.raises(ConfigError, match=r"worker \(machine, worker\): 1 entries, 2 are needed"):
        plan([{"kill": {"worker": [0]}, "round": 1}], virtual=False)


_words = st.sampled_from(
    [
        "links",
        "compute",
        "machines",
        "latency_s",
        "bandwidth_Bps",
        "queue",
        "edges",
        "machine_pairs",
        "within_machine",
        "0-1",
        "1>0",
        "seconds_per_iteration",
        "run",
        "default",
        "kill",
        "node",
        "worker",
        "machine",
        "round",
        "rounds",
        "seconds",
        "slow_link",
        "from",
        "to",
        "factor",
        "delay_s",
        "partition",
    ]
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words, inner, max_size=4),
    max_leaves=12,
)


@given(_values, st.booleans())
def test_whatever_stands_in_a_file_it_is_read_or_refused(tmp_path_factory, value, virtual):
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps(value))
    for read in (
        lambda: read_simulation(path, 2),
        lambda: read_fault_plan(path, Mapping((1, 1)), 5, virtual),
    ):
        try:
            read()
        except ConfigError as error:
            assert str(path) in str(error)


def test_servers_are_named_by_their_uids(tmp_path):
    path = tmp_path / "links.json"
    path.write_text(
        json.dumps({"links": {"edges": {"3--1": {"latency_s": 1}, "-1>3": {"latency_s": 2}}}})
    )
    network = Network(read_simulation(path, 4, servers=1))
    assert network.arrival(3, -1, 100, 0.0) == 1 and network.arrival(-1, 3, 100, 0.0) == 2
    assert network.arrival(2, -1, 100, 0.0) == 0
    with pytest.raises(ConfigError, match="two different numbers of 0 to 3"):
        read_simulation(path, 4)
    places = Mapping((2, 2), server_machine=1, servers=1)
    path.write_text(json.dumps([
        {"kill": {"machine": 1}, "round": 2},
        {"slow_link": {"from": 0, "to": -1, "delay_s": 1}, "rounds": [1, 2]},
        {"partition": [[0, 1, 2, 3]], "rounds": [1, 2]},
    ]))  # fmt: skip
    kill, slow, cut = read_fault_plan(path, places, 5, False, ring(4)).faults
    assert kill.uids == {2, 3, -1} and (slow.sender, slow.receiver) == (0, -1)
    assert cut.cuts(3, -1) and not cut.cuts(3, 0)
    with pytest.raises(ConfigError, match="to: -1 is not a whole number, 0 to 3"):
        read_fault_plan(path, Mapping((2, 2)), 5, False)
