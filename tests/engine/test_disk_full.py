"""A disk that is really full: a clear error, what was written before stays whole and readable."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest
from launching import Experiment, end_all

from decentralizepy.engine.checkpoints import CheckpointSets
from decentralizepy.graphs.generators import ring
from decentralizepy.runfolder import MachineFolder, machine_records, read_records

QUIET = ("-ll", "CRITICAL", "-ta", "0", "-tea", "0")


def _no_mounts() -> str:
    """Why no small file system can be mounted here; empty if it can."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "needs Linux and unshare"
    script = "mount -t tmpfs -o size=64k none /mnt"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    return f"no private mounts here: {done.stderr.strip()}" if done.returncode else ""


REASON = _no_mounts()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@dataclass
class Ended:
    code: int
    out: str
    err: str


def start_with_little_room(
    experiment: Experiment, folder: str, kilobytes: int, *words: str, link: str = ""
) -> Popen[str]:
    """Run with ``folder`` on a file system of so many kB, whose content is kept afterwards.

    ``link`` is a name in the log folder that stands for the file or folder of the same name there.
    """
    small = experiment.folder / folder
    small.mkdir(parents=True, exist_ok=True)
    log = experiment.folder / "log"
    if link:
        log.mkdir()
        (log / link).symlink_to(small / link)
    kept = experiment.folder / "kept"
    kept.mkdir()
    command = [
        sys.executable, "-m", "decentralizepy", "run", "-cf", "config.ini", "-gf", "graph.edges",
        "-ld", "log", "--workers", "1", "--cache-dir", str(experiment.cache), *words,
    ]  # fmt: skip
    script = (
        f"mount -t tmpfs -o size={kilobytes}k none {shlex.quote(str(small))} || exit 99\n"
        f"{'mkdir' if link == 'checkpoints' else ':'} {shlex.quote(str(small / link))}\n"
        f"{shlex.join(command)}\ncode=$?\n"
        f"cp -a {shlex.quote(str(small))}/. {shlex.quote(str(kept))}\nexit $code\n"
    )
    return Popen(
        ["unshare", "-m", "sh", "-c", script], cwd=experiment.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def end_of(process: Popen[str]) -> Ended:
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err, err
    return Ended(process.returncode, out, err)


def make(folder: Path, cache: Path) -> Experiment:
    return Experiment(folder, ring(4), cache, rounds="1")


LONG = ("-is", "100000", *QUIET)
#: what has how many kB of room, what is told to the command, and what is linked there
SMALL: dict[str, tuple[str, int, tuple[str, ...], str]] = {
    "records": ("log", 160, (*LONG, "-tea", "1"), ""),
    "0.log": ("small", 8, (*LONG, "-ll", "INFO", "-tea", "1"), "0.log"),
    "digests_0.jsonl": ("small", 8, (*LONG, "--digests"), "digests_0.jsonl"),
    "weights": ("small", 48, ("-is", "2", "-tea", "1", "-wsd", "{here}/small"), ""),
    "cache": ("small", 32, ("-is", "1", "--cache-dir", "{here}/small"), ""),
    "log": ("log", 8, ("-is", "1"), ""),
}
Filling = dict[str, tuple[Path, Popen[str]]]


@pytest.fixture(scope="module")
def filling(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Filling]:
    """Folders and commands by name, all started at once: each has a disk of its own."""
    found: Filling = {}
    for name, (folder, kilobytes, words, link) in SMALL.items():
        made = make(tmp_path_factory.mktemp("filling"), cache)
        own = [word.format(here=made.folder) for word in words]
        process = start_with_little_room(made, folder, kilobytes, *own, link=link)
        found[name] = made.folder, process
    yield found
    end_all(process for _, process in found.values())


def test_records_of_before_are_readable(filling: Filling) -> None:
    """The whole log folder is full: neither status nor results can be written, either."""
    path, process = filling["records"]
    ended = end_of(process)
    assert ended.code == 5, ended.err
    assert "cannot write log/records_0.jsonl: No space left on device" in ended.err
    assert "earlier records are whole" in ended.err
    folder = MachineFolder(path / "kept")
    records = read_records(folder.records(0))
    assert len(records.rows) > 100 and records.broken <= 1
    newest = max(row["iteration"] for row in records.rows)
    whole = {(t, uid) for t in range(1, newest) for uid in range(4)}
    assert whole <= {(row["iteration"], row["uid"]) for row in machine_records(folder).rows}
    status = json.loads(folder.status.read_text())  # an older one, but whole
    assert status["state"] in {"starting", "running", "failed"}


@pytest.mark.parametrize("name", ["0.log", "digests_0.jsonl"])
def test_logs_and_digests_say_which_file_is_full(filling: Filling, name: str) -> None:
    path, process = filling[name]
    ended = end_of(process)
    assert ended.code == 5, ended.err
    assert f"cannot write log/{name}: No space left on device; earlier lines are whole" in ended.err
    lines = (path / "kept" / name).read_text().splitlines()
    assert len(lines) > 20
    if "digests" in name:
        assert {json.loads(line)["uid"] for line in lines[:4]} == {0, 1, 2, 3}
    run = json.loads((path / "log/run.json").read_text())
    assert run["outcome"] == "failed" and "No space left" in run["error"]


def test_the_last_checkpoint_is_intact_and_can_be_resumed(tmp_path: Path, cache: Path) -> None:
    """There is room for two sets of four nodes with 19 kB each, not for a third.

    Whether the second one is marked as complete before the disk is full is a race, and either is
    fine; messages are slow between the sets, so that the first one always is.
    """
    experiment = make(tmp_path, cache)
    slow = [{"slow_link": {"from": 0, "to": 1, "delay_s": 0.5}, "rounds": [3, 5]}]
    (tmp_path / "faults.json").write_text(json.dumps(slow))
    more = ("-is", "8", "--checkpoint_after", "2", *QUIET)
    words = (*more, "--faults", "faults.json")
    ended = end_of(start_with_little_room(experiment, "small", 220, *words, link="checkpoints"))
    assert ended.code == 5, ended.err
    assert "No space left on device; earlier checkpoints are whole" in ended.err
    assert "log/checkpoints/6/" in ended.err
    log = experiment.folder / "log"
    (log / "checkpoints").unlink()
    (experiment.folder / "kept/checkpoints").rename(log / "checkpoints")
    usable = CheckpointSets(MachineFolder(log)).usable()
    assert usable in ([2], [2, 4])
    command = [
        sys.executable, "-m", "decentralizepy", "run", "-cf", "config.ini", "-gf", "graph.edges",
        "-ld", "log", "--workers", "1", "--cache-dir", str(experiment.cache), *more, "--resume",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=experiment.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"resuming after iteration {usable[-1]}" in done.stdout
    assert len(list(log.glob("7_weight_*.safetensors"))) == 4


def test_final_weights_that_do_not_fit_are_named_and_not_left_half(filling: Filling) -> None:
    path, process = filling["weights"]
    ended = end_of(process)
    assert ended.code == 5, ended.err
    assert "1_weight_" in ended.err and "No space left" in ended.err
    assert "records are whole" in ended.err
    kept = [path.name for path in (path / "kept").iterdir()]
    assert kept and all(name.endswith(".safetensors") and name[0] != "." for name in kept)
    assert len(machine_records(MachineFolder(path / "log")).rows) == 8


def test_a_cache_without_room_is_named(filling: Filling) -> None:
    path, process = filling["cache"]
    ended = end_of(process)
    assert ended.code == 2, ended.err
    assert f"cannot write the prepared data in {path / 'small'}" in ended.err
    assert (
        "choose another cache folder (--cache-dir, or" in ended.err and ended.err.count("\n") == 1
    )
    assert not list((path / "kept").iterdir())  # nothing half-written
    assert not (path / "log").exists()


def test_a_log_folder_without_room_is_named(filling: Filling) -> None:
    path, process = filling["log"]
    ended = end_of(process)
    assert ended.code == 5, ended.err
    assert "cannot write log: No space left on device: make room there" in ended.err
    assert not (path / "kept/args.json").exists()
