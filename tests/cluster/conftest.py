"""A miniature cluster for the tests in this folder; docs/testbed.md tells how it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import hosts
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
        left = cluster.jobs() + testbed.strangers()
    assert left + hosts.leftovers(testbed) == []
