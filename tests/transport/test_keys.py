"""The run key: made for its owner alone, found where it lies, asked for where it is needed."""

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.communication.keys import (
    find_key,
    load_key,
    make_key,
    only_loopback,
)
from decentralizepy.errors import ConfigError


def test_a_key_is_random_and_only_its_owners(tmp_path):
    old = os.umask(0)
    try:
        paths = [make_key(tmp_path / name) for name in ("a", "b")]
    finally:
        os.umask(old)
    assert [path.name for path in paths] == ["run.key"] * 2
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600] * 2
    keys = {load_key(path) for path in paths}
    assert {len(key) for key in keys} == {32} and len(keys) == 2


def test_a_key_is_never_overwritten(tmp_path):
    path = make_key(tmp_path)
    before = path.read_text()
    with pytest.raises(ConfigError, match="exists already"):
        make_key(tmp_path)
    assert path.read_text() == before


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_can_read_is_refused_with_the_remedy(tmp_path, mode):
    path = make_key(tmp_path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"read by others \(mode {mode:04o}\): chmod 600 {path}"):
        load_key(path)


@given(st.binary(max_size=2000))
def test_whatever_a_file_holds_it_is_a_key_or_one_clear_message(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("keys") / "run.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is not a run key"):
        load_key(path)


def test_only_regular_files_are_keys(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(0o700)
    for name, why in (("pipe", "not a regular file"), ("folder", "not a regular file"),
                      ("absent", "'decentralizepy keys DIR' makes one")):  # fmt: skip
        with pytest.raises(ConfigError, match=why):
            load_key(tmp_path / name)


def test_the_key_nearest_to_the_logs_counts(tmp_path):
    logs, named = tmp_path / "run" / "machine0", tmp_path / "named"
    logs.mkdir(parents=True)
    assert find_key(logs, None) is None and find_key(logs, named) == named
    above = make_key(logs.parent)
    assert find_key(logs, named) == above
    assert find_key(logs, named) != make_key(logs) == find_key(logs, named)


@pytest.mark.parametrize(
    ("addresses", "loopback"),
    [
        (["127.0.0.1", "127.0.3.9"], True),
        (["127.0.0.1", "::1", "localhost"], True),
        (["127.0.0.1", "10.0.0.1"], False),
        (["localhost", "node-a"], False),
        (["0.0.0.0", "127.0.0.1"], False),
    ],
)
def test_what_stays_on_this_computer(addresses, loopback):
    assert only_loopback(addresses) == loopback


def command(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "decentralizepy", *words],
        capture_output=True, text=True, timeout=60, cwd=cwd,
    )  # fmt: skip


def test_the_command_makes_a_key_and_does_not_show_it(tmp_path):
    done = command("keys", "new/run", cwd=tmp_path)
    path = tmp_path / "new" / "run" / "run.key"
    assert done.returncode == 0 and "new/run/run.key" in done.stdout
    assert path.read_text().strip() not in done.stdout + done.stderr
    assert len(base64.b64decode(path.read_text())) == 32
    again = command("keys", "new/run", cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_folder_that_cannot_be(tmp_path):
    Path(tmp_path / "file").write_text("")
    done = command("keys", "file", cwd=tmp_path)
    assert done.returncode == 2 and "cannot make the folder file" in done.stderr
