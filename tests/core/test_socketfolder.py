"""The folder of a machine's sockets: private, and not left behind by those who were killed."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from decentralizepy.supervision.socketfolder import SocketFolder, remove_abandoned

OWNER = """
import os, signal
from decentralizepy.supervision.socketfolder import SocketFolder
print(SocketFolder().name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):  # tmp_path first: it remembers where temporary files lie
    """A temporary folder of the test's own, with a short name."""
    with tempfile.TemporaryDirectory(prefix="", dir="/tmp") as name:
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield name


def age(folder):
    os.utime(folder, (0, 0))


def abandoned():
    done = subprocess.run([sys.executable, "-c", OWNER], capture_output=True, text=True)
    folder = Path(done.stdout.strip())
    assert done.returncode < 0 and folder.is_dir(), done.stderr
    (folder / "0").write_text("")
    return folder


def test_it_is_private_and_removed():
    folder = SocketFolder()
    assert stat.S_IMODE(Path(folder.name).stat().st_mode) == 0o700
    (Path(folder.name) / "0").write_text("")
    folder.remove()
    folder.remove()
    assert not Path(folder.name).exists()


def test_that_of_a_killed_owner_goes_with_the_next_run():
    folder = abandoned()
    age(folder)
    SocketFolder().remove()
    assert not folder.exists()


def test_that_of_a_living_owner_stays(base):
    folder = SocketFolder()
    age(folder.name)
    remove_abandoned(base)
    assert Path(folder.name).is_dir()
    folder.remove()


def test_a_young_one_stays_and_so_does_what_only_has_the_name(base):
    young = abandoned()
    elsewhere = Path(base) / "elsewhere"
    elsewhere.mkdir()
    link = Path(base) / "decentralizepy-sockets-link"
    link.symlink_to(elsewhere)
    os.utime(link, (0, 0), follow_symlinks=False)
    remove_abandoned(base)
    assert young.is_dir() and link.is_symlink() and elsewhere.is_dir()


def test_a_name_too_long_for_a_socket_is_not_taken(monkeypatch, tmp_path):
    deep = tmp_path / ("x" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    folder = SocketFolder()
    assert Path(folder.name).parent == Path("/tmp")
    folder.remove()
