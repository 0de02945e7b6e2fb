"""The image of this tree, and the engine; made by the project's scripts, on Debian 12 as root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.singularity import PRIVATE, Engine, find_engine

ROOT = Path(__file__).resolve().parents[2]
SET_UP = ROOT / "scripts/container_for_tests.sh"


@pytest.fixture(scope="session")
def image() -> Path:
    """The image of this tree; `make test` has built it before."""
    env = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run([SET_UP], capture_output=True, text=True, env=env)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.split()[-1])


@pytest.fixture(scope="session")
def base(image: Path) -> Path:
    """The local base that images are built from, in both of its forms."""
    return image.parent / "base"


@pytest.fixture(scope="session")
def engine(image: Path) -> Iterator[Engine]:
    """The engine, where commands find it, too; it unpacks images in memory."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", str(PRIVATE), prepend=os.pathsep)
        patched.setenv("APPTAINER_TMPDIR", "/dev/shm")
        yield Engine(find_engine())
