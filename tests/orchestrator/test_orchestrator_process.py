"""Commands that end with us: nothing that they start outlives whoever asked for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from orchestrator_fakes import REPOSITORY, alive, await_true

from orchestrator.backends import process
from orchestrator.backends.process import Guarded

# Ignores polite requests, and has a worker in a session of its own that does so too.
STUBBORN = """
import os, pathlib, signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"],
                          start_new_session=True)
path = pathlib.Path(sys.argv[1])
path.with_suffix(".tmp").write_text(f"{os.getpid()} {worker.pid}")
path.with_suffix(".tmp").rename(path)
if len(sys.argv) < 3:
    time.sleep(300)
"""


def run(folder: Path, *arguments: str, grace_s: float = 0.2) -> Guarded:
    env = process.environment(os.environ)
    out, err = folder / "out", folder / "err"
    return process.start([sys.executable, *arguments], out, err, env, grace_s)


def pids(folder: Path) -> list[int]:
    assert await_true((folder / "pids").exists)
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def none_left(found: list[int], seconds: float = 5.0) -> bool:
    return await_true(lambda: not any(map(alive, found)), seconds)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("pass", 0), ("raise SystemExit(5)", 5), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_the_exit_code_is_the_commands(tmp_path: Path, code: str, expected: int) -> None:
    assert process.wait_all([run(tmp_path, "-c", code)]) == [expected]


def test_output_goes_to_the_files_and_input_is_empty(tmp_path: Path) -> None:
    code = "import sys; print(repr(sys.stdin.read())); print('bad', file=sys.stderr)"
    command = run(tmp_path, "-c", code)
    assert process.wait_all([command]) == [0]
    assert (tmp_path / "out").read_text() == "''\n"
    assert command.err.read_text() == "bad\n"


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    env = process.environment(os.environ)
    command = process.start([str(tmp_path / "no")], tmp_path / "o", tmp_path / "e", env)
    assert process.wait_all([command]) == [127]
    assert "cannot start" in command.err.read_text()


def test_a_polite_command_ends_by_the_first_request(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "try:\n    pathlib.Path(sys.argv[1]).touch()\n"
        "    for _ in range(3000): time.sleep(0.1)\n"  # so that no signal is missed
        "except KeyboardInterrupt:\n    sys.exit(130)"
    )
    command = run(tmp_path, "-c", code, str(tmp_path / "up"), grace_s=20)
    assert await_true((tmp_path / "up").exists)
    began = time.monotonic()
    process.stop([command])
    assert command.poll() == 130
    assert time.monotonic() - began < 5


def test_a_stubborn_one_is_killed_with_all_it_started(tmp_path: Path) -> None:
    command = run(tmp_path, "-c", STUBBORN, str(tmp_path / "pids"))
    found = pids(tmp_path)
    process.stop([command])
    assert command.poll() == 137
    assert not any(map(alive, found))
    process.stop([command])


def test_what_a_command_leaves_behind_is_killed(tmp_path: Path) -> None:
    command = run(tmp_path, "-c", STUBBORN, str(tmp_path / "pids"), "leave")
    assert process.wait_all([command]) == [0]
    assert not any(map(alive, pids(tmp_path)))


def test_the_first_failure_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    slow = run(tmp_path, "-c", STUBBORN, str(tmp_path / "pids"))
    found = pids(tmp_path)
    codes = process.wait_all([slow, run(tmp_path / "a", "-c", "raise SystemExit(3)")])
    assert codes == [-1, 3]
    assert not any(map(alive, found))


def test_killing_whoever_asked_ends_everything(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), STUBBORN],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    found = pids(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert none_left(found)


HOLDER = """
import os, pathlib, sys, time
from orchestrator.backends import process
folder = pathlib.Path(sys.argv[1])
env = process.environment(os.environ)
arguments = [sys.executable, "-c", sys.argv[2], str(folder / "pids")]
command = process.start(arguments, folder / "out", folder / "err", env, 0.2)
time.sleep(300)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_killing_the_guard_ends_the_command(tmp_path: Path) -> None:
    """At once, without a word: what says good-bye ends a run that could go on without it."""
    command = run(tmp_path, "-c", SAYS_GOOD_BYE, str(tmp_path / "pids"))
    (found,) = pids(tmp_path)
    command.guard.kill()
    assert none_left([found])
    assert not (tmp_path / "good-bye").exists()
    process.stop([command])


SAYS_GOOD_BYE = """
import os, pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1])
def bye(number, frame):
    path.with_name("good-bye").write_text(signal.Signals(number).name)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, bye)
path.with_suffix(".tmp").write_text(str(os.getpid()))
path.with_suffix(".tmp").rename(path)
while True:
    time.sleep(1)
"""


def test_the_environment_holds_no_more_than_it_must() -> None:
    ours = {
        "PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "AWS_SECRET_ACCESS_KEY": "s", "API_TOKEN": "t",
        "OMP_NUM_THREADS": "7", "PYTHONHASHSEED": "3", "PYTHONPATH": "/mine:/other",
        "PYTHONSTARTUP": "/x", "DECENTRALIZEPY_A": "1", "BASH_FUNC_x%%": "() { :; }",
    }  # fmt: skip
    env = process.environment(ours, [Path("/experiment"), Path("/odd:name")])
    assert env.pop("PYTHONPATH").split(":") == [str(REPOSITORY), "/experiment", "/mine", "/other"]
    assert env.pop("PYTHONSAFEPATH") == "1"
    assert env.pop("PYTHONUNBUFFERED") == "1"
    assert env == {"PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "DECENTRALIZEPY_A": "1"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (5, "exit code 5"),
        (137, "killed by SIGKILL (out of memory?)"),
        (139, "killed by SIGSEGV"),
        (143, "killed by SIGTERM"),
        (130, "interrupted by a signal (exit code 130)"),
    ],
)
def test_ends_in_words(code: int, expected: str) -> None:
    assert process.describe_exit(code) == expected


def test_the_tail_of_a_long_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"line {i}\n" for i in range(10_000)))
    assert process.tail(tmp_path / "log", 2) == "line 9998\nline 9999"
    assert process.tail(tmp_path / "none", 2) == ""
