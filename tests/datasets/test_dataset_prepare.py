"""The prepared copy: one for all processes, whole or not there."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from decentralizepy.datasets.prepare import ARRAYS, describe, locked, prepared, source_key

BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from decentralizepy.datasets import prepare

def build(progress):
    progress("built")
    time.sleep(0.3)
    return {name: np.full(50_000, i) for i, name in enumerate(prepare.ARRAYS)}

def say(message):
    print(message, flush=True)

folder = prepare.prepared(Path(sys.argv[1]), "set-1", build, say)
assert all((np.load(folder / f"{n}.npy") == i).all() for i, n in enumerate(prepare.ARRAYS))
print("done", flush=True)
"""

# Dies (is killed by the test) after the first of the four files.
HALF = BUILDER.replace(
    "def say(",
    """
save, saved = np.save, []
def slow_save(file, array, **options):
    if saved:
        say("half")
        time.sleep(60)
    saved.append(save(file, array, **options))
np.save = slow_save

def say(""",
)


def build(progress):
    progress("built")
    return {name: np.arange(5) + i for i, name in enumerate(ARRAYS)}


def start(code: str, cache: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(cache)], stdout=subprocess.PIPE, text=True
    )


def test_it_is_built_once_and_then_found(tmp_path):
    said: list[str] = []
    first = prepared(tmp_path / "deep" / "cache", "set-1", build, said.append)
    second = prepared(tmp_path / "deep" / "cache", "set-1", build, said.append)
    assert first == second == tmp_path / "deep" / "cache" / "set-1"
    assert said == ["built", f"writing {first}"]
    assert sorted(p.name for p in first.iterdir()) == sorted(f"{n}.npy" for n in ARRAYS)
    assert np.load(first / "test_y.npy").tolist() == [3, 4, 5, 6, 7]


def test_four_processes_at_once_make_one_copy(tmp_path):
    racers = [start(BUILDER, tmp_path) for _ in range(4)]
    outputs = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    assert "".join(outputs).count("built") == 1
    assert all("done" in output for output in outputs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set-1", "set-1.lock"]


def test_a_process_that_is_killed_leaves_no_half_copy(tmp_path):
    victim = start(HALF, tmp_path)
    assert victim.stdout is not None
    while "half" not in (line := victim.stdout.readline()):
        assert line, "the victim ended by itself"
    victim.send_signal(signal.SIGKILL)
    victim.wait(timeout=10)
    victim.stdout.close()
    assert not (tmp_path / "set-1").exists()
    assert len(list(tmp_path.glob("set-1.tmp-*/*"))) == 2

    said: list[str] = []
    folder = prepared(tmp_path, "set-1", build, said.append)
    assert said[0] == "built"
    assert np.load(folder / "train_y.npy").tolist() == [1, 2, 3, 4, 5]
    assert not list(tmp_path.glob("set-1.tmp-*"))


def test_a_copy_with_a_deleted_file_is_made_again(tmp_path):
    folder = prepared(tmp_path, "set-1", build)
    (folder / "test_x.npy").unlink()
    assert np.load(prepared(tmp_path, "set-1", build) / "test_x.npy").tolist() == [2, 3, 4, 5, 6]


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def broken(progress):
        raise ValueError("the source is damaged")

    with pytest.raises(ValueError, match="source is damaged"):
        prepared(tmp_path, "set-1", broken)
    assert [p.name for p in tmp_path.iterdir()] == ["set-1.lock"]
    assert prepared(tmp_path, "set-1", build).is_dir()


def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(ValueError, match=r"No space left.*make room"):
            prepared(tmp_path, "set-1", build)
    assert [p.name for p in tmp_path.iterdir()] == ["set-1.lock"]


def test_a_cache_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="choose another cache folder"):
        prepared(tmp_path / "file" / "cache", "set-1", build)


def test_waiting_for_the_lock_is_said(tmp_path):
    said: list[str] = []
    waiting = threading.Event()

    def say(message):
        said.append(message)
        waiting.set()

    with (tmp_path / "set-1.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=prepared, args=(tmp_path, "set-1", build, say))
        thread.start()
        assert waiting.wait(10)
        assert not (tmp_path / "set-1").exists()
        fcntl.flock(other, fcntl.LOCK_UN)
        thread.join(10)
    assert said[0].startswith("waiting for another process")
    assert (tmp_path / "set-1").is_dir()


def test_without_locks_the_second_copy_is_discarded(tmp_path, monkeypatch):
    def no_locks(*_args):
        raise OSError(95, "Operation not supported")

    def overtaken(progress):
        monkeypatch.undo()
        prepared(tmp_path, "set-1", build)
        return {name: np.zeros(1) for name in ARRAYS}

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path / "x.lock") as alone:
        assert not alone
    folder = prepared(tmp_path, "set-1", overtaken)
    assert np.load(folder / "train_x.npy").tolist() == [0, 1, 2, 3, 4]
    assert not list(tmp_path.glob("set-1.tmp-*"))


def test_the_key_depends_on_every_part_of_the_identity(tmp_path):
    assert source_key(["a", "b"]) == source_key(["a", "b"])
    assert len({source_key(["a", "b"]), source_key(["a"]), source_key(["b", "a"])}) == 3
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("one")
    link.symlink_to(file)
    before = describe(file)
    assert describe(link) == before
    os.utime(file, ns=(1, 1))
    assert describe(file) != before
