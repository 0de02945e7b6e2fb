"""``scripts/testbed.sh``: hosts that stay after it, and clusters that last as long as a command."""

from __future__ import annotations

import os
import subprocess
import sys

import namespace_hosts as hosts

SCRIPT = str(hosts.INSTALL)


def call(*arguments):
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(
        [SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installing_again_does_nothing(installed):
    assert call("install") == ""


def test_hosts_stay_until_they_are_taken_down(installed):
    before = hosts.records()
    call("up", "1")
    (name,) = set(hosts.records()) - set(before)
    record = hosts.records()[name]
    try:
        assert f"{name}: ssh -F {record['ssh_config']}" in call("status")
        seen = subprocess.run(
            ["ssh", "-F", record["ssh_config"], "tb-1", "hostname"], capture_output=True, text=True
        )
        assert seen.stdout == "tb-1\n"
    finally:
        call("down", name)
    assert name not in hosts.records() and hosts._namespaces_of(name) == []
    assert hosts._state(record["hosts"][0]["init"]) in ("", "Z")


def test_a_command_runs_in_the_environment_of_a_cluster(installed):
    assert call("with", "slurm", "srun", "-N2", "hostname").split() in (
        ["node-1", "node-2"], ["node-2", "node-1"],
    )  # fmt: skip
