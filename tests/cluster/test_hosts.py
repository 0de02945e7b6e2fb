"""Hosts behave as machines do: apart from one another, and when the plug is pulled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import namespace_hosts as hosts
import pytest
from waiting import until


def test_each_host_has_its_own_name_accounts_and_disk(testbed):
    assert testbed.ssh("tb-2", "hostname; whoami; pwd").stdout.split() == ["tb-2", "root", "/root"]
    as_user = testbed.ssh("tb-2", "id -un; sudo-g5k id -un; pwd", user=hosts.USER)
    assert as_user.stdout.split() == [hosts.USER, "root", f"/home/{hosts.USER}"]
    testbed.ssh("tb-1", "touch /root/mine /tmp/mine /dev/shm/mine")
    seen = testbed.ssh("tb-2", "ls /root /tmp/mine /dev/shm", check=False)
    assert "mine" not in seen.stdout


def test_hosts_reach_one_another_by_name_and_nothing_outside(testbed):
    testbed.ssh("tb-1", "ping -c 1 -W 2 tb-3")
    outside = testbed.ssh("tb-1", "ping -c 1 -W 1 192.0.2.1", check=False)
    assert "unreachable" in outside.stderr + outside.stdout


def test_the_checkout_runs_in_a_host_but_cannot_be_written(testbed):
    line = f"cd {hosts.REPOSITORY} && {sys.executable} -c 'import decentralizepy, numpy, zmq'"
    testbed.ssh("tb-1", line, user=hosts.USER)
    assert testbed.ssh("tb-1", f"touch {hosts.REPOSITORY}/x", check=False).returncode == 1


def test_the_shared_folder_is_one_for_all(testbed):
    testbed.ssh("tb-1", f"echo hello > {testbed.shared}/file", user=hosts.USER)
    assert testbed.ssh("tb-3", f"cat {testbed.shared}/file").stdout == "hello\n"
    assert (testbed.shared / "file").read_text() == "hello\n"


def test_a_host_that_is_killed_says_nothing_and_keeps_its_disk(testbed):
    host = testbed["tb-1"]
    testbed.ssh("tb-1", "echo kept > /root/kept; touch /tmp/lost")
    host.run("sh", "-c", "setsid sleep 4321 >/dev/null 2>&1 &")
    (process,) = host.processes()
    assert process.command.endswith("sleep 4321")
    session = listening(testbed, "tb-1")
    host.kill()
    assert not host.alive
    assert not any("sleep 4321" in hosts._command_line(pid) for pid in hosts._pids())
    with pytest.raises(subprocess.TimeoutExpired):  # no end of file: nobody closed the connection
        session.wait(1)
    session.kill()
    session.wait()
    assert testbed["tb-2"].run("ping", "-c1", "-W1", "tb-1", check=False).returncode == 1
    host.start()
    host.wait()
    assert testbed.ssh("tb-1", "cat /root/kept").stdout == "kept\n"
    assert testbed.ssh("tb-1", "ls /tmp/lost", check=False).returncode != 0


def listening(testbed, host):
    """An ssh session that ends as soon as it learns that the other side has gone."""
    command = ["ssh", "-F", str(testbed.ssh_config), host, "echo up; exec sleep 1234"]
    session = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert session.stdout is not None and session.stdout.readline() == b"up\n"
    return session


def test_a_wiped_host_boots_like_new(testbed):
    host = testbed["tb-1"]
    testbed.ssh("tb-1", "touch /root/gone")
    host.wipe()
    host.start()
    host.wait()
    assert testbed.ssh("tb-1", "ls /root").stdout == ""


def test_a_host_that_is_cut_off_works_on_and_can_be_healed(testbed):
    host = testbed["tb-2"]
    reach = ["ping", "-c", "1", "-W", "1", "tb-2"]
    host.cut()
    assert testbed["tb-1"].run(*reach, check=False).returncode != 0
    assert host.run("hostname").stdout == "tb-2\n"
    host.heal()
    assert testbed["tb-1"].run("ping", "-c", "1", "-w", "10", "tb-2").returncode == 0


def test_a_full_disk_takes_no_more_until_it_is_freed(testbed):
    host = testbed["tb-1"]
    write = "head -c 1000000 /dev/zero > /tmp/more"
    host.fill_disk(leave=65536)
    full = testbed.ssh("tb-1", write, check=False)
    assert full.returncode != 0 and "No space left" in full.stderr
    assert host.path("/tmp/more").stat().st_size <= 65536
    host.free_disk()
    testbed.ssh("tb-1", write)


def test_what_a_run_leaves_in_a_host_is_found(testbed):
    assert testbed.strangers() == []
    testbed.ssh("tb-3", "setsid sleep 777 > /dev/null 2>&1 < /dev/null &")
    until(lambda: [line[-9:] for line in testbed.strangers()] == ["sleep 777"])
    assert testbed.strangers()[0].startswith("tb-3: process ")


def test_three_hosts_are_up_within_seconds_and_down_without_a_trace(make_testbed):
    begin = time.monotonic()
    testbed = make_testbed("a", "b", "c")
    assert time.monotonic() - begin < 30  # 0.2 s on an idle machine
    found = hosts.leftovers(testbed)
    for what in ("network namespace", "link", "process", "folder"):
        assert any(line.startswith(what) for line in found), what
    mount = f"dpt-probe {testbed.folder}"
    subprocess.run(["mount", "-t", "tmpfs", *mount.split()], check=True)
    try:
        assert any(line.startswith("mount") for line in hosts.leftovers(testbed))
    finally:
        subprocess.run(["umount", str(testbed.folder)], check=True)
    testbed.down()
    assert hosts.leftovers(testbed) == []


SCRIPT = """
import sys
import time
sys.path.insert(0, {folder!r})
import namespace_hosts as hosts
testbed = hosts.Testbed(["lonely"]).up()
print(testbed.folder, testbed.disks, testbed.name, testbed.hosts[0]._init, flush=True)
time.sleep(600)
"""


def test_a_testbed_whose_process_is_killed_dies_with_it_and_is_swept_up(installed):
    script = SCRIPT.format(folder=str(Path(__file__).parent))
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    folder, disks, name, init = owner.stdout.readline().split()
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    until(lambda: hosts._state(int(init)) in ("", "Z"), told=lambda: "the host outlives its owner")
    hosts.sweep()
    assert not Path(folder).exists() and not Path(disks).exists()
    assert name not in hosts.records() and hosts._namespaces_of(name) == []
