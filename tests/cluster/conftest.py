"""A miniature cluster for the tests in this folder; docs/testbed.md tells how it is made."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import g5k
import g5k_client
import namespace_hosts as hosts
import pytest
import slurm as slurm_hosts


@pytest.fixture(scope="session")
def installed() -> None:
    """Skips, with the reason, where no hosts can be made."""
    reason = hosts.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def make_testbed(installed: None) -> Iterator[Callable[..., hosts.Testbed]]:
    """``make_testbed("one", "two alias", ...)``: hosts of these names, up; options as `Testbed`.

    They are taken down at the end of the test, and nothing of them may be left on this machine.
    """
    made = []

    def make(*names: str, **options: object) -> hosts.Testbed:
        made.append(hosts.Testbed(names, **options))  # type: ignore[arg-type]
        return made[-1].up()

    yield make
    for testbed in made:
        testbed.down()
    assert [line for testbed in made for line in hosts.leftovers(testbed)] == []


@pytest.fixture
def testbed(make_testbed: Callable[..., hosts.Testbed]) -> hosts.Testbed:
    """Three fresh hosts, tb-1 to tb-3."""
    return make_testbed("tb-1", "tb-2", "tb-3")


@pytest.fixture(scope="module")
def slurm(installed: None) -> Iterator[slurm_hosts.Slurm]:
    """A Slurm cluster of three idle nodes (node-1 to node-3), for all tests of a file.

    Every test leaves its nodes up; no job may be left at the end of the file.
    """
    testbed = hosts.Testbed(["head", "node-1", "node-2", "node-3"])
    with testbed, slurm_hosts.Slurm(testbed) as cluster:
        yield cluster
        left = cluster.left()
    assert left + hosts.leftovers(testbed) == []


@pytest.fixture(scope="session")
def image(installed: None) -> Path:
    """The container of this tree; `make test` has built it before."""
    script = hosts.REPOSITORY / "scripts/container_for_tests.sh"
    env = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run([script], capture_output=True, text=True, env=env)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.split()[-1])


@pytest.fixture
def make_grid5000(installed: None) -> Iterator[Callable[..., g5k.Grid5000]]:
    """``make_grid5000(platform)``: a small Grid'5000; see `g5k.Grid5000`.

    At the end no job may be alive, and every fault that was ordered must have happened.
    """
    made: list[g5k.Grid5000] = []
    unwell: list[str] = []
    with contextlib.ExitStack() as stack:

        def make(platform: g5k.Platform = g5k.PLATFORM) -> g5k.Grid5000:
            made.append(stack.enter_context(g5k.Grid5000(platform)))
            return made[-1]

        yield make
        for grid in made:
            hosts.end_connections(grid.testbed)
            unwell += grid.left() + grid.api.unused()
    unwell += [line for grid in made for line in hosts.leftovers(grid.testbed)]
    assert unwell == []


@pytest.fixture
def grid5000(make_grid5000: Callable[..., g5k.Grid5000]) -> g5k.Grid5000:
    """Rennes with three nodes of paradoxe, Lyon with one of nova."""
    return make_grid5000()


@pytest.fixture
def enoslib(grid5000: g5k.Grid5000, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """EnOSlib as it is, in the user's environment of `grid5000`, but with short sleeps.

    For tests that call it in this process; commands just get ``env=os.environ |
    grid5000.environment``.
    """
    return g5k_client.fresh(grid5000.environment, monkeypatch, tmp_path)
