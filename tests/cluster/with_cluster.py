"""Run a command, or a shell, in the environment of a cluster that lasts as long as it does.

scripts/testbed.sh with grid5000 python g5k_execution.py my.json
scripts/testbed.sh with slurm
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import namespace_hosts as hosts


@contextlib.contextmanager
def with_hosts() -> Iterator[tuple[Mapping[str, str], hosts.Testbed]]:
    """Three hosts."""
    with hosts.Testbed(["tb-1", "tb-2", "tb-3"]) as testbed:
        yield testbed.environment, testbed


@contextlib.contextmanager
def with_slurm() -> Iterator[tuple[Mapping[str, str], hosts.Testbed]]:
    """A controller and three nodes."""
    from slurm import Slurm

    testbed = hosts.Testbed(["head", "node-1", "node-2", "node-3"])
    with testbed, Slurm(testbed) as cluster:
        yield cluster.environment, testbed


@contextlib.contextmanager
def with_grid5000() -> Iterator[tuple[Mapping[str, str], hosts.Testbed]]:
    """Two sites."""
    from g5k import Grid5000

    with Grid5000() as grid:
        yield grid.environment, grid.testbed


KINDS = {"hosts": with_hosts, "slurm": with_slurm, "grid5000": with_grid5000}


def main(arguments: Sequence[str]) -> int:
    """KIND [COMMAND...]: the command's exit code."""
    kind, *command = arguments or [""]
    reason = hosts.why_not() if kind in KINDS else f"which of {', '.join(KINDS)}?"
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    with KINDS[kind]() as (environment, testbed):
        for host in testbed.hosts:
            print(f"{host.address} {host.name}", file=sys.stderr)
        command = command or [os.environ.get("SHELL", "/bin/sh")]
        return subprocess.run(command, env=os.environ | environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
