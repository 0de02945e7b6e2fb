"""A disk that is really full: a clear error, what was written before stays whole and readable."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from launching import Experiment

from decentralizepy.graphs.generators import ring
from decentralizepy.runfolder import MachineFolder, machine_records, read_records
from decentralizepy.runtime.checkpoints import CheckpointSets

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


def run_with_little_room(
    experiment: Experiment, folder: str, kilobytes: int, *words: str, link: str = ""
) -> Ended:
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
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=experiment.folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(4), cache, rounds="1")


def test_records_of_before_are_readable(experiment: Experiment) -> None:
    """The whole log folder is full: neither status nor results can be written, either."""
    more = ("-is", "100000", "-ta", "0", "-tea", "1", "-ll", "CRITICAL")
    ended = run_with_little_room(experiment, "log", 160, *more)
    assert ended.code == 5, ended.err
    assert "cannot write log/records_0.jsonl: No space left on device" in ended.err
    assert "earlier records are whole" in ended.err
    folder = MachineFolder(experiment.folder / "kept")
    records = read_records(folder.records(0))
    assert len(records.rows) > 100 and records.broken <= 1
    newest = max(row["iteration"] for row in records.rows)
    whole = {(t, uid) for t in range(1, newest) for uid in range(4)}
    assert whole <= {(row["iteration"], row["uid"]) for row in machine_records(folder).rows}
    status = json.loads(folder.status.read_text())  # an older one, but whole
    assert status["state"] in {"starting", "running", "failed"}


@pytest.mark.parametrize(
    ("name", "flags"),
    [("0.log", ("-ll", "INFO", "-ta", "0", "-tea", "1")), ("digests_0.jsonl", ("--digests",))],
)
def test_logs_and_digests_say_which_file_is_full(
    experiment: Experiment, name: str, flags: tuple[str, ...]
) -> None:
    more = ("-is", "100000", *QUIET, *flags)
    ended = run_with_little_room(experiment, "small", 8, *more, link=name)
    assert ended.code == 5, ended.err
    assert f"cannot write log/{name}: No space left on device; earlier lines are whole" in ended.err
    lines = (experiment.folder / "kept" / name).read_text().splitlines()
    assert len(lines) > 20
    if "digests" in name:
        assert {json.loads(line)["uid"] for line in lines[:4]} == {0, 1, 2, 3}
    run = json.loads((experiment.folder / "log/run.json").read_text())
    assert run["outcome"] == "failed" and "No space left" in run["error"]


def test_the_last_checkpoint_is_intact_and_can_be_resumed(experiment: Experiment) -> None:
    """There is room for two sets of four nodes with 19 kB each, not for a third.

    Whether the second one is marked as complete before the disk is full is a race, and either is
    fine; there is much to train between two sets, so that the first one always is.
    """
    config = experiment.folder / "config.ini"
    config.write_text(config.read_text().replace("rounds = 1\n", "rounds = 400\n"))
    more = ("-is", "8", "--checkpoint_after", "2", *QUIET)
    ended = run_with_little_room(experiment, "small", 220, *more, link="checkpoints")
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
    assert f"going on after iteration {usable[-1]}" in done.stdout
    assert len(list(log.glob("7_weight_*.safetensors"))) == 4


def test_final_weights_that_do_not_fit_are_named_and_not_left_half(experiment: Experiment) -> None:
    ended = run_with_little_room(
        experiment, "small", 48, "-is", "2", "-tea", "1", "-wsd", str(experiment.folder / "small")
    )
    assert ended.code == 5, ended.err
    assert "1_weight_" in ended.err and "No space left" in ended.err
    assert "records are whole" in ended.err
    kept = [path.name for path in (experiment.folder / "kept").iterdir()]
    assert kept and all(name.endswith(".safetensors") and name[0] != "." for name in kept)
    assert len(machine_records(MachineFolder(experiment.folder / "log")).rows) == 8


def test_a_cache_without_room_is_named(experiment: Experiment) -> None:
    cache = experiment.folder / "small"
    ended = run_with_little_room(experiment, "small", 32, "-is", "1", "--cache-dir", str(cache))
    assert ended.code == 2, ended.err
    assert f"cannot write the prepared data in {cache}" in ended.err
    assert "choose another cache folder" in ended.err and ended.err.count("\n") == 1
    assert not list((experiment.folder / "kept").iterdir())  # nothing half-written
    assert not (experiment.folder / "log").exists()


def test_a_log_folder_without_room_is_named(experiment: Experiment) -> None:
    ended = run_with_little_room(experiment, "log", 8, "-is", "1")
    assert ended.code == 5, ended.err
    assert "cannot write log: No space left on device: make room there" in ended.err
    assert not (experiment.folder / "kept/args.json").exists()
