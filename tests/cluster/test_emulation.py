"""What EnOSlib's network emulation does on this kernel, measured; deploying it says nothing."""

from __future__ import annotations

import re
import subprocess

import pytest

MEGABIT = 10
SEND = """
import socket, sys, time
begin = time.monotonic()
with socket.create_connection((sys.argv[1], 4000)) as link:
    link.sendall(bytes(2_000_000))
    link.shutdown(socket.SHUT_WR)
    link.recv(1)
print(time.monotonic() - begin)
"""
RECEIVE = """
import socket
with socket.create_server(("", 4000)) as server:
    print("ready", flush=True)
    link, _ = server.accept()
    with link:
        while link.recv(1 << 20):
            pass
"""


def can_delay(host):
    """Whether the kernel has netem."""
    add = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    done = host.run(*add, check=False)
    host.run("tc", "qdisc", "del", "dev", "lo", "root", check=False)
    return done.returncode == 0


def round_trip_ms(testbed):
    """The shortest of a few."""
    pinged = testbed["tb-1"].run("ping", "-q", "-c", "4", "-i", "0.05", "tb-2").stdout
    return float(re.search(r"= ([\d.]+)/", pinged)[1])


def megabits(testbed):
    """Of 2 MB from the first host to the second."""
    listen = ["ssh", "-F", str(testbed.ssh_config), "tb-2", "python3", "-"]
    with subprocess.Popen(listen, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as receiver:
        receiver.stdin.write(RECEIVE.encode())
        receiver.stdin.close()
        assert receiver.stdout.readline() == b"ready\n"
        took = testbed["tb-1"].run("python3", "-c", SEND, testbed["tb-2"].address).stdout
    return 16 / float(took)


def test_a_rate_is_kept_and_a_delay_only_where_the_kernel_can(make_testbed, monkeypatch, tmp_path):
    pytest.importorskip("enoslib", reason="EnOSlib is not installed")
    import g5k_client

    testbed = make_testbed("tb-1", "tb-2")
    ssh = {"ANSIBLE_SSH_ARGS": f"-F {testbed.ssh_config} -o ControlMaster=no"}
    en = g5k_client.fresh(testbed.environment | ssh, monkeypatch, tmp_path)
    conf = en.StaticConf()
    for host in testbed.hosts:
        conf.add_machine(roles=[host.name], address=host.name, alias=host.name, user="root",
                         extra={"ansible_python_interpreter": "/usr/bin/python3"})  # fmt: skip
    here = testbed.address
    conf.add_network(roles=["net"], cidr=f"{here}/24", gateway=here, dns=here, start=here, end=here)
    roles, networks = en.Static(conf.finalize()).init()
    roles = en.sync_info(roles, networks)
    before = megabits(testbed)
    assert before > 2 * MEGABIT
    service = en.NetemHTB()
    service.add_constraints(roles["tb-1"], roles["tb-2"], "30ms", f"{MEGABIT}mbit")
    service.deploy()
    assert megabits(testbed) < 1.2 * MEGABIT
    delayed = round_trip_ms(testbed)
    assert delayed >= 30 if can_delay(testbed["tb-1"]) else delayed < 20
    service.destroy()
    assert megabits(testbed) > 2 * MEGABIT
