"""A run that was killed goes on from its checkpoint as if nothing had happened."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from in_process import undisturbed
from launching import Experiment, digests, end_all, leftovers
from safetensors.torch import load_file

from decentralizepy import cli
from decentralizepy.engine.checkpoints import CheckpointSets, is_whole
from decentralizepy.graphs.generators import regular
from decentralizepy.runfolder import MachineFolder, machine_records

ITERATIONS = 18
TESTED = ("-ta", "6", "-tea", "6")
KEEP = ("--checkpoint_after", "4", "--digests", *TESTED)
EVERYTHING = {
    "model_package": "everything", "model": "Everything", "optimizer_options": "momentum = 0.9",
}  # fmt: skip
MEMORY = '''\
"""A method that remembers: it averages with what it had two rounds ago."""
from decentralizepy.sharing.sharing import Sharing


class Remembers(Sharing):
    def __init__(self) -> None:
        super().__init__()
        self.last = None

    def merge(self, x, heard, ctx):
        merged = super().merge(x, heard, ctx)
        if self.last is not None:
            merged = merged.mul_(0.5).add_(self.last, alpha=0.5)
        self.last = merged.clone()
        return merged

    def state(self):
        return {} if self.last is None else {"last": self.last}

    def load(self, state):
        self.last = state.get("last")
'''


@pytest.fixture
def running() -> Iterator[list]:
    started: list = []
    yield started
    end_all(started)


Running = tuple[Path, list]


def start_doomed(
    made: Experiment, running: list, counts: tuple[int, ...], workers: int, round_: int, *more: str
) -> Running:
    """A run whose machine 0 is killed as a node begins a round; no run is too fast for that."""
    plan = [{"kill": {"machine": 0}, "round": round_}]
    (made.folder / "faults.json").write_text(json.dumps(plan))
    faults = ("--faults", "faults.json")
    root, processes = made.start(counts, workers, ITERATIONS, *KEEP, *more, *faults)
    running += processes
    return root, processes


def fallen(doomed: Running) -> Path:
    """The folder of such a run, once it is over."""
    root, processes = doomed
    for process in processes:
        process.communicate(timeout=60)
    assert processes[0].returncode == -signal.SIGKILL
    assert not leftovers(processes)
    return root


def resume(made: Experiment, root: Path, counts, workers: int, *more: str) -> Path:
    """Run again in the folder of the run before."""
    made.runs = int(root.name.removeprefix("run")) - 1
    return made.run(counts, workers, ITERATIONS, *KEEP, "--resume", *more)


REMEMBERS = {"sharing_package": "remembers", "sharing": "Remembers"}
ADAM = {"optimizer": "Adam", "optimizer_options": "", "node": "graph_degree = 4"}


@pytest.mark.parametrize(
    ("options", "killed_at", "workers"),
    [(REMEMBERS, 9, 3), (ADAM, 14, 1)],
    ids=["momentum and memory, 3 workers", "Adam, dynamic, 1 worker"],
)
def test_resumed_is_bitwise_the_undisturbed_run(
    options: dict[str, str], killed_at: int, workers: int, tmp_path: Path, cache: Path,
    running: list,
) -> None:  # fmt: skip
    more = ("--eval_file", "testingPeerSamplerDynamic.py") if "node" in options else ()
    made = _made(tmp_path, cache, options)
    doomed = start_doomed(made, running, (8,), 2, killed_at, *more)
    whole = undisturbed(made, ITERATIONS, *TESTED, *more)
    root = fallen(doomed)
    before = machine_records(MachineFolder(root / "machine0")).rows
    resume(made, root, (8,), workers, *more)
    assert digests(root) == whole
    _check_story(root, before)


def _made(folder: Path, cache: Path, options: dict[str, str]) -> Experiment:
    made = Experiment(folder, regular(8, 4, 1), cache, **{**EVERYTHING, **options})
    (folder / "remembers.py").write_text(MEMORY)
    return made


def _check_story(root: Path, before: list[dict]) -> None:
    """Records are complete, those of after the resume say so, and run.json tells of both."""
    folder = MachineFolder(root / "machine0")
    rows = machine_records(folder).rows
    assert {(r["uid"], r["iteration"]) for r in rows} == {
        (uid, t) for uid in range(8) for t in (1, 6, 12, 18)
    }
    assert {r.get("attempt", 0) for r in rows if r["iteration"] == 18} == {1}
    assert {r.get("attempt", 0) for r in rows if r["iteration"] == 1} == {0}
    for row in before:  # bytes and seconds go on counting
        later = [r for r in rows if r["uid"] == row["uid"] and r["iteration"] > row["iteration"]]
        assert all(r["total_bytes"] > row["total_bytes"] for r in later)
        assert all(r["elapsed_s"] > 0 for r in later)
    run = json.loads(folder.run.read_text())
    assert run["outcome"] == "done" and run["last_attempt"] == 1
    assert [one["outcome"] for one in run["attempts"]] == ["running"]  # it could not say more
    assert any("resuming after iteration" in note for note in run["notes"])
    assert CheckpointSets(folder).usable()[-1] == 16


def test_without_the_checkpoints_of_a_node_the_set_before_is_taken(
    tmp_path: Path, cache: Path, running: list
) -> None:
    made = _made(tmp_path, cache, {})
    doomed = start_doomed(made, running, (4, 4), 1, 14)
    whole = undisturbed(made, ITERATIONS, *TESTED)
    root = fallen(doomed)
    sets = CheckpointSets(MachineFolder(root / "machine1"))
    newest = sets.usable()[-1]
    path = sets.folder(newest) / "5.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert sets.usable()[-1] == newest - 4
    resume(made, root, (4, 4), 2)
    assert digests(root) == whole
    notes = json.loads((root / "machine0" / "run.json").read_text())["notes"]
    assert f"resuming after iteration {newest - 4}" in notes


def test_a_run_resumed_before_its_first_checkpoint_starts_again(
    tmp_path: Path, cache: Path, running: list
) -> None:
    made = _made(tmp_path, cache, {})
    root = fallen(start_doomed(made, running, (8,), 1, 2))
    shutil.rmtree(root / "machine0" / "checkpoints", ignore_errors=True)
    resume(made, root, (8,), 1)
    notes = json.loads((root / "machine0" / "run.json").read_text())["notes"]
    assert notes == ["no checkpoint is complete on all machines: starting from the beginning"]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Experiment:
    """An experiment whose only run has ended."""
    folder = tmp_path_factory.mktemp("ended")
    made = _made(folder, cache, {"rounds": "rounds.json"})
    (folder / "rounds.json").write_text(json.dumps(dict.fromkeys(range(8), 2)))
    made.run((8,), 1, ITERATIONS, *KEEP)
    return made


def test_a_checkpoint_is_plain_tensors_in_the_models_order(ended: Experiment) -> None:
    sets = CheckpointSets(MachineFolder(ended.folder / "run1/machine0"))
    assert sets.usable() == [12, 16]  # two are kept; after the last iteration there are weights
    assert sorted(path.name for path in sets.root.iterdir()) == ["12", "16"]
    tensors = load_file(sets.folder(16) / "3.safetensors")
    assert tensors["row"].shape[0] == tensors["optimizer/momentum_buffer"].shape[0] + 8
    assert torch.isfinite(tensors["row"]).all()


def test_a_checkpoint_that_has_changed_does_not_count(ended: Experiment, tmp_path: Path) -> None:
    folder = MachineFolder(tmp_path / "copy")
    shutil.copytree(ended.folder / "run1/machine0", folder.root)
    sets = CheckpointSets(folder)
    assert sets.usable(verify=True) == [12, 16]
    path = sets.folder(16) / "3.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert sets.usable() == [12, 16] and sets.usable(verify=True) == [12]


def test_what_can_not_be_resumed_is_said(
    ended: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "copy"
    shutil.copytree(ended.folder, folder)
    monkeypatch.chdir(folder)

    def complain(*more: str, name: str = "run1") -> str:
        words = ended.words(folder / name, 0, (8,), 1, ITERATIONS, *more, *TESTED, "--digests")
        with pytest.raises(SystemExit) as refused:
            cli.main(words)
        assert refused.value.code == 2
        return capsys.readouterr().err

    keep = ("--checkpoint_after", "4")
    assert "contains no run to resume" in complain(*keep, "--resume", name="run2")
    assert "already contains a run" in complain(*keep)
    numbers = (folder / "rounds.json").read_text()
    (folder / "rounds.json").write_text(json.dumps(dict.fromkeys(range(8), 3)))
    assert "different files of [TRAIN_PARAMS];" in complain(*keep, "--resume")
    (folder / "rounds.json").write_text(numbers)
    text = (folder / "config.ini").read_text()
    (folder / "config.ini").write_text(text.replace("lr = 0.05", "lr = 0.06"))
    assert "different INI file" in complain(*keep, "--resume")
    (folder / "config.ini").write_text(text)
    assert "different --averaging_steps, --reset_optimizer;" in complain(
        *keep, "--resume", "-as", "2", "-ro", "1"
    )
    assert "--iterations (fewer than the 16 that are done)" in complain(
        *keep, "--resume", "-is", "10"
    )
    held = os.open(folder / "run1/machine0", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert "is in use: another process runs there" in complain(*keep, "--resume")
    os.close(held)
    (folder / "run1/machine0/run.json").write_text("{")
    assert "nothing to resume" in complain(*keep, "--resume")
    assert "set --checkpoint_after" in complain("--on_loss", "wait")


# ------------------------------------------------------------------ parts


@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_file_makes_the_check_raise(data: bytes, cut: int) -> None:
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        is_whole(Path(file.name))


def test_only_whole_files_count(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "1.safetensors"
    save_file({"row": torch.rand(50)}, path, {"decentralizepy": "{}"})
    data = path.read_bytes()
    assert is_whole(path)
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        assert not is_whole(path)
    path.write_bytes(data + b"x")
    assert not is_whole(path) and not is_whole(tmp_path / "2.safetensors")
