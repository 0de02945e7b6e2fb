"""The prepared copy: one for all processes, whole or not there."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from decentralizepy.datasets import prepare
from decentralizepy.datasets.locks import alive, beside, locked, machine_tag
from decentralizepy.datasets.prepare import ARRAYS, describe, prepared, silent, source_key

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


# Machines that share a cache but no locks: each builds, and none goes on before all have built.
MACHINE = BUILDER.replace(
    "    time.sleep(0.3)",
    """
    meeting = Path(sys.argv[1]).with_name("meeting")
    (meeting / sys.argv[2]).touch()
    while len(list(meeting.iterdir())) < 4:
        time.sleep(0.01)""",
)


def build(progress):
    progress("built")
    return {name: np.arange(5) + i for i, name in enumerate(ARRAYS)}


def start(code: str, cache: Path, *more: str, tmp: Path | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(cache), *more],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **({"TMPDIR": str(tmp)} if tmp else {})},
    )


def machines(tmp_path: Path, codes: list[str]) -> list[subprocess.Popen]:
    """Processes that cannot see each other's locks, with one cache `tmp_path/cache`."""
    (tmp_path / "meeting").mkdir()
    started = []
    for number, code in enumerate(codes):
        own = tmp_path / f"tmp{number}"
        own.mkdir()
        started.append(start(code, tmp_path / "cache", str(number), tmp=own))
    return started


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
    assert [p.name for p in tmp_path.iterdir()] == ["set-1"]


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


def test_machines_that_share_no_locks_all_build_and_the_first_copy_stays(tmp_path):
    racers = machines(tmp_path, [MACHINE] * 4)
    outputs = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    assert all("built" in output and "done" in output for output in outputs)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["set-1"]


def test_a_machine_that_is_slow_and_then_killed_disturbs_no_other(tmp_path):
    victim, *others = machines(tmp_path, [HALF, MACHINE, MACHINE, MACHINE])
    assert victim.stdout is not None
    while "half" not in (line := victim.stdout.readline()):
        assert line, "the victim ended by itself"
    (tmp_path / "meeting" / "0").touch()  # the others go on while it is in the middle
    outputs = [other.communicate(timeout=60)[0] for other in others]
    assert [other.returncode for other in others] == [0] * 3
    assert all("done" in output for output in outputs)
    cache = tmp_path / "cache"
    assert len(list(cache.glob("set-1.tmp-*/*"))) == 2, "nobody touches what is being written"
    victim.kill()
    victim.wait(timeout=10)
    victim.stdout.close()
    prepared(cache, "set-1", build)
    assert [p.name for p in cache.iterdir()] == ["set-1"]


def leftover(cache: Path, maker: str) -> Path:
    found = cache / f"set-1.tmp-{maker}"
    found.mkdir()
    (found / "train_x.npy").write_bytes(b"half")
    return found


def test_leftovers_are_removed_when_nobody_can_be_writing_them(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(timeout=10)
    assert alive(os.getpid()) and not alive(ended.pid)
    dead = leftover(tmp_path, f"{machine_tag()}-{ended.pid}-0")
    mine = leftover(tmp_path, f"{machine_tag()}-{os.getpid()}-0")
    far = leftover(tmp_path, f"0a0a0a0a-{ended.pid}-0")
    old = leftover(tmp_path, f"0a0a0a0a-{ended.pid}-1")
    long_ago = time.time() - prepare.STALE_S - 60
    os.utime(old, (long_ago, long_ago))
    folder = prepared(tmp_path, "set-1", build)
    assert sorted(tmp_path.iterdir()) == sorted([folder, mine, far])
    leftover(tmp_path, f"{machine_tag()}-{ended.pid}-1")
    prepared(tmp_path, "set-1", build)  # also where there is nothing to build
    assert sorted(tmp_path.iterdir()) == sorted([folder, mine, far])
    assert not dead.exists()


def test_a_sweep_that_does_not_ask_who_lives_would_break_a_writer(tmp_path, monkeypatch):
    """What the check is for: the same with it, and without it."""
    save, name = np.save, "set-1"

    def swept(file, array, **options):
        save(file, array, **options)
        prepare._sweep(tmp_path / name)  # as another process would, in between

    monkeypatch.setattr(np, "save", swept)
    assert prepared(tmp_path, name, build).is_dir()
    monkeypatch.setattr(prepare, "_abandoned", lambda *_: True)
    name = "set-2"
    with pytest.raises(ValueError, match="cannot write the prepared data"):
        prepared(tmp_path, name, build)


def test_files_reach_the_disk_before_their_names_do(tmp_path, monkeypatch):
    done: list[str] = []
    rename, fsync = Path.rename, os.fsync

    def noted_fsync(handle):
        done.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def noted_rename(self, target):
        done.append(f"rename to {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    prepared(tmp_path, "set-1", build)
    assert done[:4] == [f"{name}.npy" for name in ARRAYS]
    assert done[4].startswith("set-1.tmp-")
    assert done[5:] == ["rename to set-1", tmp_path.name]


def test_more_arrays_may_belong_to_a_copy(tmp_path):
    def with_users(progress):
        return {**build(progress), "train_starts": np.array([0, 3])}

    names = (*ARRAYS, "train_starts")
    folder = prepared(tmp_path, "set-1", with_users, arrays=names)
    (folder / "train_starts.npy").unlink()
    said: list[str] = []
    prepared(tmp_path, "set-1", with_users, said.append, names)
    assert said[0] == "built"
    assert np.load(folder / "train_starts.npy").tolist() == [0, 3]


def test_names_for_writing_aside_are_never_given_twice(tmp_path):
    assert len({beside(tmp_path / "x") for _ in range(100)}) == 100


def test_a_copy_with_a_deleted_file_is_made_again(tmp_path):
    folder = prepared(tmp_path, "set-1", build)
    (folder / "test_x.npy").unlink()
    assert np.load(prepared(tmp_path, "set-1", build) / "test_x.npy").tolist() == [2, 3, 4, 5, 6]


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def broken(progress):
        raise ValueError("the source is damaged")

    with pytest.raises(ValueError, match="source is damaged"):
        prepared(tmp_path, "set-1", broken)
    assert list(tmp_path.iterdir()) == []
    assert prepared(tmp_path, "set-1", build).is_dir()


def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(ValueError, match=r"No space left.*make room"):
            prepared(tmp_path, "set-1", build)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ValueError,
        match=r"choose another cache folder \(--cache-dir, or the variable XDG_CACHE_HOME\)",
    ):
        prepared(tmp_path / "file" / "cache", "set-1", build)


def test_waiting_for_the_lock_is_said(tmp_path):
    said: list[str] = []
    waiting = threading.Event()

    def say(message):
        said.append(message)
        waiting.set()

    with locked(tmp_path / "set-1", silent) as alone:
        assert alone
        thread = threading.Thread(target=prepared, args=(tmp_path, "set-1", build, say))
        thread.start()
        assert waiting.wait(10)
        assert not (tmp_path / "set-1").exists()
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
    with locked(tmp_path / "x", silent) as alone:
        assert not alone
    folder = prepared(tmp_path, "set-1", overtaken)
    assert np.load(folder / "train_x.npy").tolist() == [0, 1, 2, 3, 4]
    assert not list(tmp_path.glob("set-1.tmp-*"))


def test_lock_files_are_removed_and_one_that_is_gone_locks_nobody_out(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"decentralizepy-{os.getuid()}"
    inside, most, counted = 0, 0, threading.Lock()

    def enter():
        nonlocal inside, most
        for _ in range(30):
            with locked(tmp_path / "x", silent) as alone:
                assert alone
                with counted:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.0005)
                with counted:
                    inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (inside, most) == (0, 1)
    assert list(folder.iterdir()) == []


def test_without_a_temporary_folder_there_is_no_lock_and_still_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with locked(tmp_path / "x", silent) as alone:
        assert not alone
    assert prepared(tmp_path, "set-1", build).is_dir()


def test_a_lock_folder_of_somebody_else_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"decentralizepy-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with locked(tmp_path / "x", silent) as alone:
        assert not alone
    assert list((tmp_path / "elsewhere").iterdir()) == []


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
