"""Standard streams that whoever started us has closed."""

import subprocess
import sys

import pytest

CODE = """
import os, sys
from decentralizepy.standard import open_closed
open_closed()
print("out")
print("err", file=sys.stderr)
sys.stdout.flush()
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
assert handle > 2 and sys.stdin.read() == "", handle
os.write(1, b"more")
os.write(2, b"more")
assert os.fstat(handle).st_size == 0
"""


@pytest.mark.parametrize("closed", ["", "<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_nothing_of_ours_takes_their_place(tmp_path, closed):
    command = [sys.executable, "-c", CODE, str(tmp_path / "file")]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "-", *command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "out\nmore")
    assert done.stderr == ("" if "2>" in closed else "err\nmore")
