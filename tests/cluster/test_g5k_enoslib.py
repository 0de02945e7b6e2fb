"""EnOSlib's Grid'5000 provider, as it is installed, against the stand-in and its nodes."""

from __future__ import annotations

import os
import subprocess

import namespace_hosts as hosts
import pytest
from waiting import until

CLUSTER = "paradoxe"
NODES = [f"{CLUSTER}-{number}.rennes.grid5000.fr" for number in (1, 2, 3)]


@pytest.fixture(autouse=True)
def installed_enoslib():
    pytest.importorskip("enoslib", reason="EnOSlib is not installed")


def wanted(enoslib, nodes=2, **settings):
    """A provider for some nodes of one cluster."""
    settings = {"job_name": "a test", "walltime": "00:10:00"} | settings
    conf = enoslib.G5kConf.from_settings(**settings)
    conf.add_machine(roles=["worker"], cluster=CLUSTER, nodes=nodes)
    return enoslib.G5k(conf.finalize())


def names(roles):
    return sorted(host.address for host in roles["worker"])


def test_nodes_are_reserved_used_and_given_back(enoslib, grid5000):
    provider = wanted(enoslib)
    roles, networks = provider.init()
    try:
        assert names(roles) == NODES[:2]
        assert str(networks["prod"][0].network) == f"{grid5000.testbed.prefix}.0/24"
        command = "whoami; hostname; touch /root/trace; setsid sleep 4321 > /dev/null 2>&1 &"
        results = enoslib.run_command(command, roles=roles)
        assert {tuple(one.stdout.split()) for one in results} == {
            ("root", name) for name in NODES[:2]
        }
        until(lambda: len(grid5000.testbed.strangers()) == 2)
    finally:
        provider.destroy(wait=True)
    assert provider.jobs == [] and grid5000.left() == []
    assert not grid5000[NODES[0]].path("/root/trace").exists()


def test_a_node_that_is_dead_at_the_start_leaves_the_job(enoslib, grid5000):
    grid5000.dead_at_start.add(NODES[1])
    provider = wanted(enoslib)
    with pytest.raises(enoslib.errors.EnosUnreachableHostsError):
        provider.init()
    assert len(provider.jobs) == 1
    provider.destroy(wait=True)
    assert grid5000.left() == []
    assert [grid5000[name].alive for name in NODES] == [True, False, True]
    again = wanted(enoslib, nodes=3)
    with pytest.raises(enoslib.errors.InvalidReservationCritical, match="not enough resources"):
        again.async_init()


def test_a_deployment_that_fails_on_one_node_is_tried_again(enoslib, grid5000):
    grid5000.failing[NODES[0]] = 1
    provider = wanted(enoslib, job_type=["deploy"], env_name="debian12-nfs")
    provider.init()
    try:
        # EnOSlib forgets the nodes of the first round, until it is asked again.
        assert [host.fqdn for host in provider.sshable_hosts] == NODES[:1]
        roles, _ = provider.init()
        assert names(roles) == NODES[:2]
        released = grid5000[NODES[0]].path("/etc/grid5000/release").read_text()
        assert released.startswith("debian12-x64-nfs")
    finally:
        provider.destroy(wait=True)
    assert sum("POST /sites/rennes/deployments" in line for line in grid5000.api.requests) == 2


def test_walltime_ends_what_runs_and_closes_the_nodes(grid5000):
    oar = grid5000.api.oars["rennes"]
    job = oar.submit(hosts.USER, resources="nodes=1,walltime=0:30:0", command="sleep")
    until(lambda: job.state == "running")
    login = {"user": hosts.USER, "check": False}
    assert grid5000.testbed.ssh(NODES[1], "true", **login).returncode == 255
    grid5000.testbed.ssh(NODES[0], "setsid sleep 777 > /dev/null 2>&1 &", user=hosts.USER)
    until(lambda: grid5000.testbed.strangers())
    grid5000.api.clock.skip(1801)
    until(lambda: job.state == "error")
    assert grid5000.left() == []
    assert grid5000.testbed.ssh(NODES[0], "true", **login).returncode == 255


def test_a_home_is_of_its_site_and_nodes_are_reached_through_the_gate(grid5000):
    testbed = grid5000.testbed
    job = grid5000.api.oars["rennes"].submit(hosts.USER, resources="nodes=1", command="sleep")
    until(lambda: job.state == "running")
    testbed.ssh("rennes.g5k", "echo mine > ~/file", user=hosts.USER)
    gate = "ssh -W %h:%p -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    command = ["ssh", "-o", f"ProxyCommand={gate} -l {hosts.USER} access.grid5000.fr",
               "-l", hosts.USER, NODES[0], "cat ~/file"]  # fmt: skip
    environment = os.environ | grid5000.environment
    seen = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert (seen.stdout, seen.returncode) == ("mine\n", 0)
    elsewhere = testbed.ssh("lyon", "cat ~/file", user=hosts.USER, check=False)
    assert "No such file" in elsewhere.stderr
    grid5000.api.oars["rennes"].delete(job.uid)
