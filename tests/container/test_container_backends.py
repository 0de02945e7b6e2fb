"""CONTAINER of the JSON: the same command, with its machines in the image."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_container_by_hand import weights

ROOT = Path(__file__).resolve().parents[2]
ITERATIONS = 12


def _sshd() -> ModuleType:
    path = ROOT / "tests/orchestrator/sshd.py"
    spec = importlib.util.spec_from_file_location("sshd", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sshd"] = module
    spec.loader.exec_module(module)
    return module


sshd = _sshd()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    if not Path(sshd.SSHD).exists():
        pytest.skip("sshd is not installed")
    (tmp_path / "sshd").mkdir()
    with sshd.running(tmp_path / "sshd") as found:
        yield found


def execute(folder: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    """Run the quickstart with changes, into a folder."""
    folder.mkdir()
    config = json.loads((ROOT / "g5k_config/quickstart.json").read_text()) | changes
    config |= {"NB_ITERATION": ITERATIONS, "TEST_AFTER": ITERATIONS, "WORKERS": 1}
    config |= {"LOCAL_SAVE_DIR": str(folder)}
    config.pop("$schema")
    (folder / "run.json").write_text(json.dumps(config))
    command = [sys.executable, str(ROOT / "g5k_execution.py"), str(folder / "run.json")]
    return subprocess.run(command, capture_output=True, text=True, timeout=190, cwd=folder)


def what_ran(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/machine*/run.json"))]


@pytest.mark.timeout(400)
def test_containers_by_ssh_and_here_give_the_same_bits(
    image: Path, server: Any, tmp_path: Path
) -> None:
    """By ssh the image is copied to the host's own disk, once; here it is used where it is."""
    here = execute(tmp_path / "here", CONTAINER=str(image))
    assert here.returncode == 0, here.stdout + here.stderr
    hosts = {"BACKEND": "ssh", "HOSTS": ["node-1"], "NB_MACHINE": 1, "SSH_OPTIONS": server.options}
    disk = tmp_path / "disk"
    there = execute(tmp_path / "there", CONTAINER=str(image), HOST_DIR=str(disk), **hosts)
    assert there.returncode == 0, there.stdout + there.stderr

    (staged,) = (disk / "images").glob("*.sif")
    assert staged.stat().st_size == image.stat().st_size
    folders = [next((tmp_path / name).glob("*_quickstart")) for name in ("here", "there")]
    found = [weights(folder) for folder in folders]
    assert len(found[0]) == 16 and found[0] == found[1]
    ran = [*what_ran(tmp_path / "here"), *what_ran(tmp_path / "there")]
    assert [one["container"] for one in ran] == [str(image), str(image), str(staged)]
    assert {one["code_sha256"] for one in ran} == {ran[0]["code_sha256"]}
    assert ran[0]["code_folder"] == "/decentralizepy/decentralizepy"
    assert ran[2]["code_folder"].startswith(f"{disk}/code/")


def test_an_image_that_is_not_there_is_reported_before_anything_starts(tmp_path: Path) -> None:
    done = execute(tmp_path / "run", CONTAINER="none.sif")
    assert done.returncode == 2 and "'make' builds compute_container.sif" in done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
