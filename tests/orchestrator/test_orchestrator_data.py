"""DATASETS_DIR: where data sets are on the machines, and that each storage gets them once."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orchestrator_fakes as fakes
import pytest
import sshd
from orchestrator_fakes import Make

from decentralizepy.errors import ConfigError, RunError
from decentralizepy.runfolder import RunFolder
from decentralizepy.text import bytes_text
from orchestrator import staging
from orchestrator.backends.remote import contained
from orchestrator.backends.ssh import SshBackend
from orchestrator.cli import main
from orchestrator.hosts.base import HostError
from orchestrator.hosts.shared import SharedHost
from orchestrator.hosts.ssh import SshHost
from orchestrator.planning.describe import describe
from orchestrator.planning.placed import Placed
from orchestrator.running.experiment import (
    Setting,
    example_folder,
    make_plan,
    make_run_plan,
    preview,
    run_experiment,
)
from orchestrator.text import Screen

INI = fakes.INI.replace(
    """\
dataset_package = decentralizepy.datasets.Digits
dataset_class = Digits
model_class = MLP
""",
    """\
dataset_package = decentralizepy.datasets.NumpyFiles
dataset_class = NumpyFiles
model_class = MLP
train_dir = /datasets/mine/train
test_dir = /datasets/mine/test
""",
).replace("[OPTIMIZER_PARAMS]", "[MODEL]\ninputs = 6\nclasses = 3\n\n[OPTIMIZER_PARAMS]")
#: A method of the user's, which needs a further file.
MINE = """\
from decentralizepy.sharing.plain_average import PlainAverageSharing
from library.factor import FACTOR


class Mine(PlainAverageSharing):
    assert FACTOR == 0.5
"""
OWN = INI.replace("decentralizepy.sharing.Sharing", "mine").replace("= Sharing\n", "= Mine\n")
SSH = {"BACKEND": "ssh", "HOSTS": ["node-1", "node-2"], "HOST_DIR": "/tmp/host"}


def write_data(folder: Path, seed: int = 5) -> None:
    """A small data set, and files beside it that no INI names."""
    draw = np.random.default_rng(seed)
    for name, rows in (("train", 270), ("test", 40)):
        part = folder / "mine" / name
        part.mkdir(parents=True)
        x = draw.normal(size=(rows, 6)).astype(np.float32)
        np.save(part / "x.npy", x)
        np.save(part / "y.npy", x[:, :3].argmax(1))
    (folder / "mine" / "raw.zip").write_bytes(bytes(1000))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path / "data")
    return tmp_path / "data"


def shown(path: Path) -> Placed:
    """The plan that ``--dry-run`` shows."""
    inputs, planned = make_plan(path, Setting())
    return preview(inputs, planned, Setting(), example_folder(planned))


def folders(plan: Placed) -> list[str]:
    options = plan.task.experiment.dataset.options
    return [str(options["train_dir"]), str(options["test_dir"])]


# ---------------------------------------------------------------------- where it is


def test_here_it_is_used_where_it_lies(make: Make, data: Path) -> None:
    plan = shown(make(ini=INI, DATASETS_DIR="data", NB_MACHINE=1))
    assert folders(plan) == [str(data / "mine" / "train"), str(data / "mine" / "test")]
    assert f"mine/test, mine/train of {data}, used where it lies" in describe(
        plan, example_folder(plan)
    )


def test_elsewhere_it_is_named_by_its_content(make: Make, data: Path) -> None:
    plan = shown(make(ini=INI, DATASETS_DIR=str(data), **SSH))
    found = plan.task.data
    assert found is not None and found.copied and found.files == 4
    assert found.bytes == sum(path.stat().st_size for path in data.rglob("*.npy"))
    root = found.root
    assert folders(plan) == [f"{root}/mine/train", f"{root}/mine/test"]
    assert root.startswith("/tmp/host/datasets/")
    text = describe(plan, example_folder(plan))
    assert (
        f"4 files, {bytes_text(found.bytes)}" in text and f"train_dir = {root}/mine/train" in text
    )


def test_the_name_depends_on_contents_and_names_alone(make: Make, data: Path) -> None:
    def root() -> str:
        found = shown(make(ini=INI, DATASETS_DIR=str(data), **SSH)).task.data
        assert found is not None
        return found.root

    first, x = root(), data / "mine" / "train" / "x.npy"
    os.utime(x, (1, 1))
    (data / "mine" / "raw.zip").unlink()
    assert root() == first
    old = x.read_bytes()
    x.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
    assert root() != first
    x.write_bytes(old)
    assert root() == first
    (data / "mine" / "train" / "new").touch()
    assert root() != first


def test_files_are_not_read_again(make: Make, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(ini=INI, DATASETS_DIR=str(data), **SSH)
    first = folders(shown(path))

    def read(path: Path) -> str:
        raise AssertionError(path)

    monkeypatch.setattr("orchestrator.planning.data._of_file", read)
    assert folders(shown(path)) == first


def test_an_ini_of_the_laptop_means_the_same(make: Make, data: Path) -> None:
    """Paths below the folder itself are mapped too; others stay as they are."""
    ini = INI.replace("/datasets/mine/train", str(data / "mine" / "train"))
    ini = ini.replace("/datasets/mine/test", "/elsewhere/test")
    train, test = folders(shown(make(ini=ini, DATASETS_DIR="data", **SSH)))
    assert train.startswith("/tmp/host/datasets/") and test == "/elsewhere/test"


def test_a_folder_that_the_hosts_have(make: Make) -> None:
    plan = shown(make(ini=INI, DATASETS_DIR="hosts:/srv/storage", **SSH))
    assert folders(plan) == ["/srv/storage/mine/train", "/srv/storage/mine/test"]
    assert plan.task.data is not None and not plan.task.data.copied


@pytest.mark.parametrize(
    ("given", "ini", "said"),
    [
        ("dta", INI, "there is no folder"),
        ("hosts:srv", INI, "an absolute path is expected after hosts:"),
        ("hosts:/a b", INI, "an absolute path is expected after hosts:"),
        ("data", INI.replace("mine/test", "mine/tst"), "[DATASET] test_dir = /datasets/mine/tst"),
        ("data", INI.replace("mine/test", "../test"), "leads out of /datasets"),
    ],
)
def test_what_is_not_there_is_named(
    make: Make, data: Path, given: str, ini: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        shown(make(ini=ini, DATASETS_DIR=given, **SSH))


def test_a_folder_that_nobody_wants_is_told(make: Make, data: Path) -> None:
    plan = shown(make(DATASETS_DIR="data"))
    assert any("DATASETS_DIR is not used" in note for note in plan.notes)


@pytest.mark.parametrize("place", [SSH, {"BACKEND": "local"}])
def test_a_container_sees_it_under_both_names(
    make: Make, tmp_path: Path, data: Path, place: dict[str, Any]
) -> None:
    image = tmp_path / "image.sif"
    image.touch()
    path = make(ini=INI, DATASETS_DIR="data", CONTAINER=str(image), **place)
    plan = shown(path)
    assert plan.task.data is not None
    root = plan.task.data.root
    words = plan.places[0].core
    if place == SSH:
        words = contained(plan.config, "/r", "/c", plan.task.data)
    for target in (root, "/datasets"):
        assert f"type=bind,source={root},destination={target},ro" in words


# ---------------------------------------------------------------------- on hosts


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    if not Path(sshd.SSHD).exists():
        pytest.skip("sshd is not installed")
    with sshd.running(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts to which data sets are copied."""
    seen: list[str] = []
    real = SshHost.put_data

    def put_data(self: SshHost, folder: Path, names: Sequence[str], root: str) -> None:
        seen.append(self.name)
        real(self, folder, names, root)

    monkeypatch.setattr(SshHost, "put_data", put_data)
    return seen


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr("orchestrator.running.experiment.rehearse", lambda *_, **__: None)
    results = fakes.script(tmp_path, "results_room.py", fakes.RESULTS)
    return Setting(results=results, costs=tmp_path / "costs.json")


@pytest.fixture
def faked(setting: Setting, tmp_path: Path) -> Setting:
    """The same, and hosts have a fake core."""
    core = (*fakes.script(tmp_path, "core.py", fakes.CORE), "ok")
    return replace(setting, backend=SshBackend(core=core, grace_s=0.5))


def weights(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.root.glob("machine*/*_weight_*")}


def there(tmp_path: Path, server: sshd.Sshd) -> dict[str, Any]:
    return SSH | {"SSH_OPTIONS": server.options, "HOST_DIR": str(tmp_path / "host")}


def test_the_same_numbers_as_here_and_copied_once(
    make: Make, tmp_path: Path, data: Path, server: sshd.Sshd, setting: Setting, copies: list[str]
) -> None:
    """Both hosts have one disk; the second run finds data and prepared data there.

    The method is the user's own, with a further file: MODULES brings that to the hosts.
    """
    library = tmp_path / "elsewhere" / "library"
    library.mkdir(parents=True)
    (library / "factor.py").write_text("FACTOR = 0.5\n")
    for folder in (tmp_path, tmp_path / "here"):
        folder.mkdir(exist_ok=True)
        (folder / "mine.py").write_text(MINE)
    own = {"ini": OWN, "MODULES": [str(library)], "NB_ITERATION": 4, "TEST_AFTER": 2}
    path = make(DATASETS_DIR="data", **own, **there(tmp_path, server))
    first = run_experiment(path, setting, Screen(io.StringIO()))
    assert len(copies) == 1
    (prepared,) = (tmp_path / "host" / "cache").iterdir()
    made = {file: file.stat().st_mtime_ns for file in prepared.iterdir()}
    second = run_experiment(path, setting, Screen(io.StringIO()))
    assert len(copies) == 1 and [*(tmp_path / "host" / "cache").iterdir()] == [prepared]
    assert {file: file.stat().st_mtime_ns for file in prepared.iterdir()} == made
    (kept,) = (tmp_path / "host" / "datasets").iterdir()
    assert {p.name for p in kept.rglob("*")} == {"mine", "train", "test", "x.npy", "y.npy"}
    local = make(tmp_path / "here", DATASETS_DIR=str(data), NB_MACHINE=1, **own)
    here = run_experiment(local, setting, Screen(io.StringIO()))
    found = [weights(run.folder) for run in (first, second, here)]
    assert found[0] == found[1] == found[2] and len(found[0]) == 9
    for run in (first, here):
        told = json.loads(run.folder.machine(0).run.read_text())["modules"]
        assert told.keys() == {"mine", "library.factor", "library/factor.py"}
        assert (run.folder.machine(0).root / "library" / "factor.py").is_file()


def test_a_run_can_be_planned_again_without_its_data(
    make: Make, tmp_path: Path, data: Path, server: sshd.Sshd, faked: Setting
) -> None:
    """So that it can be attached to, collected and freed; to start anew, the data is asked for."""
    path = make(ini=INI, DATASETS_DIR="data", NB_ITERATION=1, **there(tmp_path, server))
    folder = run_experiment(path, faked, Screen(io.StringIO())).folder
    assert json.loads(folder.config.read_text())["DATASETS_DIR"] == str(data)
    before = make_run_plan(folder, faked)[1].task.data
    shutil.rmtree(data)
    after = make_run_plan(folder, faked)[1].task.data
    assert after == before and after is not None
    host = SshHost("node-1", str(tmp_path / "host"), tuple(server.options))
    staging.stage(after, host)
    shutil.rmtree(after.root)
    with pytest.raises(HostError, match="not as they were when the run was planned"):
        staging.stage(after, host)


def test_what_hosts_do_not_have_is_named(
    make: Make, tmp_path: Path, server: sshd.Sshd, faked: Setting
) -> None:
    path = make(ini=INI, DATASETS_DIR=f"hosts:{tmp_path}/data", **there(tmp_path, server))
    with pytest.raises(RunError, match=r"node-\d\).*there is no .*/data/mine/test on this host"):
        run_experiment(path, faked, Screen(io.StringIO()))


def rows(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What doctor says of data sets: "" if it is well."""
    capsys.readouterr()
    main(["doctor", str(path), "--json"])
    told = json.loads(capsys.readouterr().out)
    return {row["name"]: "" if row["ok"] else row["message"] for row in told
            if row["name"].startswith("data sets")}  # fmt: skip


def test_doctor_looks_for_data_sets_here(
    make: Make, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rows(make(), capsys) == {}
    path = make(ini=INI, DATASETS_DIR="data", NB_MACHINE=1)
    assert rows(path, capsys) == {"data sets": ""}
    (data / "mine" / "test" / "x.npy").unlink()
    (data / "mine" / "test" / "x.npy").symlink_to(tmp_path / "nowhere.npy")
    told = rows(path, capsys)["data sets"]
    assert "x.npy: No such file" in told and told.startswith("DATASETS_DIR")
    shutil.rmtree(data / "mine" / "test")
    assert "there is no" in rows(path, capsys)["data sets"]


def test_doctor_looks_for_data_sets_on_the_hosts(
    make: Make, data: Path, tmp_path: Path, server: sshd.Sshd, capsys: pytest.CaptureFixture[str]
) -> None:
    where = there(tmp_path, server) | {"NB_MACHINE": 1}
    path = make(ini=INI, DATASETS_DIR="data", **where)
    assert rows(path, capsys) == {"data sets": "", "data sets on node-1": ""}
    assert not (tmp_path / "host" / "datasets").exists()
    path = make(ini=INI, DATASETS_DIR=f"hosts:{tmp_path}/elsewhere", **where)
    told = rows(path, capsys)["data sets on node-1"]
    assert f"there is no {tmp_path}/elsewhere/mine/test on this host" in told


def test_doctor_wants_room_for_data_sets_that_a_host_does_not_have(
    make: Make, data: Path, tmp_path: Path, server: sshd.Sshd
) -> None:
    found = shown(make(ini=INI, DATASETS_DIR="data", **there(tmp_path, server))).task.data
    assert found is not None
    host = SshHost("node-1", str(tmp_path / "host"), tuple(server.options))
    told = staging.problem(found, host, found.bytes - 1)
    assert "are copied to" in told and "make room" in told
    assert staging.problem(found, host, found.bytes) == ""
    staging.stage(found, host)
    assert staging.problem(found, host, 0) == ""


def test_an_interrupted_copy_is_continued(
    make: Make, tmp_path: Path, data: Path, server: sshd.Sshd
) -> None:
    """What lies aside is not taken for whole; links are followed."""
    (data / "mine" / "train" / "x.npy").rename(data / "x.npy")
    (data / "mine" / "train" / "x.npy").symlink_to(data / "x.npy")
    found = shown(make(ini=INI, DATASETS_DIR="data", **there(tmp_path, server))).task.data
    assert found is not None
    part = Path(f"{found.root}.arriving") / "mine" / "test"
    part.mkdir(parents=True)
    (part / "x.npy").write_bytes(b"half")
    staging.stage(found, SshHost("node-1", str(tmp_path / "host"), tuple(server.options)))
    for name in ("mine/train/x.npy", "mine/test/x.npy"):
        assert (Path(found.root) / name).read_bytes() == (data / name).read_bytes()
        assert not (Path(found.root) / name).is_symlink()
    assert not part.exists()


def test_a_node_copies_from_common_storage_itself(make: Make, tmp_path: Path, data: Path) -> None:
    """As in a job of Slurm, whose steps are commands on the node."""
    found = shown(make(ini=INI, DATASETS_DIR="data", **SSH | {"HOST_DIR": str(tmp_path / "n")}))
    assert found.task.data is not None
    nodes = [SharedHost(f"node {n}", tmp_path, str(tmp_path / "n"), ("env",)) for n in (1, 2)]
    assert nodes[0].storage() == nodes[1].storage() != ""
    staging.stage(found.task.data, nodes[0])
    copy = Path(found.task.data.root) / "mine" / "train" / "x.npy"
    assert copy.read_bytes() == (data / "mine" / "train" / "x.npy").read_bytes()
    assert copy.stat().st_mtime_ns == (data / "mine" / "train" / "x.npy").stat().st_mtime_ns
    shutil.rmtree(data)
    staging.stage(found.task.data, nodes[1])
