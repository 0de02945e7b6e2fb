"""Which port is whose: no two alike, and a taken one is told with what to do."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.communication import ports
from decentralizepy.errors import ConfigError

ADDRESSES = st.lists(st.sampled_from(["127.0.0.1", "127.0.0.2", "node", "::1"]), min_size=2)


@given(ADDRESSES, st.integers(2, 40_000), st.data())
def test_no_two_workers_have_the_same_port(addresses, offset, data):
    workers = [data.draw(st.integers(1, ports.BLOCK)) for _ in addresses]
    found = [
        (address, ports.worker_port(addresses, offset, machine, worker))
        for machine, address in enumerate(addresses)
        for worker in range(workers[machine])
    ]
    found.append((addresses[0], ports.control_port(offset)))
    assert len(set(found)) == len(found)


def test_machines_with_addresses_of_their_own_have_the_references_ports():
    addresses = ["a", "b", "c"]
    assert [ports.worker_port(addresses, 9000, m, w) for m in range(3) for w in (0, 1, 200)] == [
        9001, 9003, 9401
    ] * 3  # fmt: skip
    assert ports.control_port(9000) == 9000
    assert ports.own_ports(addresses, 9000, 0, 2) == [9000, 9001, 9003]
    assert ports.own_ports(addresses, 9000, 1, 2) == [9001, 9003]
    assert ports.own_ports(["a"], 9000, 0, 2) == []


def test_the_second_machine_of_an_address_begins_after_the_first_ones_block():
    addresses = ["a", "b", "a", "a"]
    found = [ports.own_ports(addresses, 9000, machine, 2) for machine in range(4)]
    assert found == [[9000, 9001, 9003], [9001, 9003], [9257, 9259], [9513, 9515]]


@pytest.mark.parametrize(
    ("addresses", "offset", "workers", "said"),
    [
        (["a", "a"], 9000, 129, "may have 128 each"),
        (["a", "b"], 65_535, 1, "offset = 65535: machine 1 with 1 workers needs the ports up to"),
        (["a", "b"], 0, 1, "offset = 0"),
        (["a", "b"], -7, 1, "offset = -7"),
    ],
)
def test_ports_that_do_not_exist(addresses, offset, workers, said):
    with pytest.raises(ConfigError, match=said):
        ports.check_range(addresses, offset, 1, workers)
    ports.check_range(addresses[:1], offset, 0, workers)  # a machine alone needs none


def test_endpoints():
    assert ports.url("node-1", 9) == "tcp://node-1:9"
    assert ports.url("fe80::1", 9) == "tcp://[fe80::1]:9"
    assert ports.has_ipv6(["a", "::1"]) and not ports.has_ipv6(["a", "127.0.0.1"])


def test_names_are_bound_by_their_address():
    assert ports.listening("localhost") in ("127.0.0.1", "::1")
    assert ports.listening("192.0.2.77") == "192.0.2.77"
    assert ports.listening("no-such.invalid") == "no-such.invalid"


def test_both_ends_take_the_same_address_of_a_name(monkeypatch):
    names = {"both": ["::1", "fe80::7", "127.0.0.9"], "six": ["::1"], "4": ["127.0.0.5"]}
    monkeypatch.setattr(ports, "resolved", lambda name: names.get(name, [name]))
    monkeypatch.setattr(ports, "can_bind", lambda ip: not ip.startswith("fe80"))
    assert ports.listening("both") == ports.reaching("both") == "127.0.0.9"
    assert ports.listening("six") == ports.reaching("six") == "::1"
    assert ports.has_ipv6(["both", "six"]) and not ports.has_ipv6(["both", "4"])
    assert ports.reaching("10.0.0.1") == "10.0.0.1"
    monkeypatch.setattr(ports, "resolved", lambda name: [])
    assert ports.reaching("nobody") == "nobody"


def taken(port_of):
    """A listening socket at ``port_of(offset)`` with ``offset`` and the next ports free."""
    while True:
        holder = socket.create_server(("127.0.0.2", 0))
        port = holder.getsockname()[1]
        offset = port - port_of
        if all(ports.is_free("127.0.0.2", offset + i) for i in range(6) if i != port_of):
            return holder, offset
        holder.close()


@pytest.mark.parametrize(("machine", "port_of"), [(0, 0), (0, 1), (0, 3), (1, 1), (1, 3)])
def test_every_taken_port_is_named(machine, port_of):
    """The control port of machine 0, and the workers' ports of any."""
    addresses = ["127.0.0.3", "127.0.0.3"]
    addresses[machine] = "127.0.0.2"
    holder, offset = taken(port_of)
    with holder, pytest.raises(ConfigError) as caught:
        ports.require_free(addresses, offset, machine, 2)
    said = str(caught.value)
    assert f"port {offset + port_of} of 127.0.0.2 is taken" in said
    assert f"another 'offset' than {offset}" in said
    ports.require_free(addresses, offset, machine, 2)
    with socket.create_server(("127.0.0.2", offset + 2)):  # nobody's: even ports are not used
        ports.require_free(addresses, offset, machine, 2)


def test_an_address_of_another_machine_is_no_taken_port():
    with pytest.raises(ConfigError, match=r"192.0.2.77 in ip.json, which is no address of this"):
        ports.require_free(["192.0.2.77", "127.0.0.1"], 9000, 0, 1)
