"""Open files: our own limit is raised where it may be, and told where it may not."""

import resource
import subprocess
import sys

import pytest

from decentralizepy.errors import ConfigError
from decentralizepy.limits import allow_files, files_of_machine, files_of_orchestrator

CODE = """
import resource, sys
from decentralizepy.limits import allow_files
allow_files(int(sys.argv[1]))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("limit", "needed", "then"), [("-Sn 40", 60, "60 90"), ("-Sn 70", 60, "70 90")]
)
def test_the_limit_is_raised_as_far_as_needed_and_never_lowered(limit, needed, then):
    command = f'ulimit -n 90; ulimit {limit}; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", command, "-", sys.executable, "-c", CODE, str(needed)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, then), done.stderr


def test_a_limit_that_is_too_low_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 50))
    with pytest.raises(ConfigError, match=r"needs 60 open files .* only 50 are allowed: .*ulimit"):
        allow_files(60)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    allow_files(10**9)


#: (machines, workers per machine) -> files that the process with most of them had open
MEASURED = {(1, 1): 40, (2, 1): 39, (2, 2): 47, (4, 2): 60, (8, 2): 100}


def test_the_need_is_above_what_was_measured():
    for (machines, workers), most in MEASURED.items():
        assert most <= files_of_machine(machines, workers) <= 2 * most
    assert files_of_orchestrator(1000) > 2000
