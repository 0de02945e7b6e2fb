"""The scripts around the image: what make says, whose rights it takes, and what the base is."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest
from test_container_runscript import EIGHT, load

from orchestrator.singularity import PRIVATE, Engine

ROOT = Path(__file__).resolve().parents[2]
#: an engine that writes down how it was called, and builds a file
RECORDER = """\
#!/bin/sh
printf '%s\\n' "$@" >"$RECORD"
for word in "$@"; do case $word in *.sif) echo image >"$word" ;; esac; done
"""


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """Commands of this computer but for any engine, to be put on the path alone."""
    made = tmp_path / "bin"
    made.mkdir()
    names = "bash sh make git sed grep realpath dirname basename id mkdir mktemp mv rm du df cut ls"
    for name in f"{names} tail head cat sort sha256sum env".split():
        (made / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    return made


def build(bin_folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(bin_folder), "HOME": str(bin_folder.parent), "ENGINE": "recorder"}
    env |= {"RECORD": str(bin_folder.parent / "record")}
    return subprocess.run(
        ["bash", ROOT / "scripts/build_container.sh", *arguments],
        capture_output=True, text=True, env=env | variables, timeout=60,
    )  # fmt: skip


def recorder(folder: Path, name: str = "recorder") -> None:
    (folder / name).write_text(RECORDER)
    (folder / name).chmod(0o755)


def recorded(bin_folder: Path) -> list[str]:
    return (bin_folder.parent / "record").read_text().splitlines()


def test_bare_make_builds_and_says_what_is_missing(bin_folder: Path) -> None:
    env = {"PATH": str(bin_folder), "HOME": "/nowhere"}
    done = subprocess.run(
        ["make", "-C", ROOT, "ENGINE=none-such"], capture_output=True, text=True, env=env
    )
    assert done.returncode == 2
    for said in ("none-such is not there", "install_apptainer.sh", "oarsub -I", "make run"):
        assert said in done.stderr, done.stderr


def test_make_help_still_explains_the_targets() -> None:
    done = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True)
    for target in ("container", "run", "test", "check", "bench", "clean"):
        assert f"\n{target} " in done.stdout


def test_the_defaults_build_from_a_registry(bin_folder: Path, tmp_path: Path) -> None:
    recorder(bin_folder)
    done = build(bin_folder, str(tmp_path / "new" / "an.sif"))
    assert done.returncode == 0, done.stderr
    words = recorded(bin_folder)
    assert words[0] == "build" and words[-1] == "compute_container.def"
    assert {"BOOTSTRAP=docker", "FROM=python:3.11-slim-bookworm"} <= set(words)
    assert "--bind" not in words and ("--fakeroot" in words) == (os.getuid() != 0)
    assert (tmp_path / "new/an.sif").read_text() == "image\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["an.sif"]


def test_wheels_are_bound_where_the_definition_looks(bin_folder: Path, tmp_path: Path) -> None:
    recorder(bin_folder)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "a-1-py3-none-any.whl").touch()
    local = {"BOOTSTRAP": "localimage", "FROM": str(tmp_path)}
    done = build(bin_folder, str(tmp_path / "an.sif"), WHEELS=str(wheels), **local)
    assert done.returncode == 0, done.stderr
    words = recorded(bin_folder)
    assert words[words.index("--bind") + 1] == f"{wheels}:/mnt"
    (wheels / "a-1-py3-none-any.whl").unlink()
    done = build(bin_folder, str(tmp_path / "an.sif"), WHEELS=str(wheels), **local)
    assert done.returncode == 2 and "has no wheels" in done.stderr


def test_who_is_not_root_builds_as_the_place_has_it(bin_folder: Path, tmp_path: Path) -> None:
    """By a namespace of their own, or on Grid'5000 as root for a while."""
    recorder(bin_folder)
    (bin_folder / "id").unlink()
    (bin_folder / "id").write_text("#!/bin/sh\necho 1000\n")
    (bin_folder / "id").chmod(0o755)
    assert build(bin_folder, str(tmp_path / "an.sif")).returncode == 0
    assert recorded(bin_folder)[:3] == ["build", "--force", "--fakeroot"]

    (bin_folder / "sudo-g5k").write_text('#!/bin/sh\necho "$1" >>"$RECORD.sudo"\nexec "$@"\n')
    (bin_folder / "sudo-g5k").chmod(0o755)
    (bin_folder / "chown").symlink_to("/bin/true")
    assert build(bin_folder, str(tmp_path / "an.sif")).returncode == 0
    assert "--fakeroot" not in recorded(bin_folder)
    assert (tmp_path / "record.sudo").read_text().split() == ["env", "chown"]


@pytest.mark.parametrize("bootstrap", ("localimage", "oci"))
def test_a_base_that_is_not_there_is_named(bin_folder: Path, bootstrap: str) -> None:
    recorder(bin_folder)
    assert "needs FROM" in build(bin_folder, BOOTSTRAP=bootstrap).stderr
    done = build(bin_folder, BOOTSTRAP=bootstrap, FROM="/nowhere")
    assert done.returncode == 2 and "FROM=/nowhere is not there" in done.stderr


def test_a_failed_build_leaves_the_former_image(bin_folder: Path, tmp_path: Path) -> None:
    recorder(bin_folder)
    with (bin_folder / "recorder").open("a") as script:
        script.write("exit 9\n")
    (tmp_path / "an.sif").write_text("former")
    assert build(bin_folder, str(tmp_path / "an.sif")).returncode == 9
    assert (tmp_path / "an.sif").read_text() == "former"
    assert not list(tmp_path.glob(".building*"))


def test_the_definition_has_all_its_parts() -> None:
    text = (ROOT / "compute_container.def").read_text()
    parts = "help labels arguments environment files post runscript test"
    assert {line[1:] for line in text.splitlines() if line.startswith("%")} == set(parts.split())


def test_requirements_are_those_of_the_package() -> None:
    requirements = load("container_requirements").requirements
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = project["dependencies"]
    assert requirements(project, []) == core
    assert requirements(project, ["digits"]) == [*core, "scikit-learn>=1.4"]
    everything = requirements(project, ["dev"])
    assert "scikit-learn>=1.4" in everything and not any("[" in line for line in everything)
    with pytest.raises(KeyError, match="none"):
        requirements(project, ["none"])


def test_an_oci_layout_has_the_digests_that_it_names(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        entry = tarfile.TarInfo("etc/name")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"abc"))
    folder = tmp_path / "oci"
    load("oci_layout").write_layout(tmp_path / "root.tar", folder, "base")
    blobs = {path.name: path.read_bytes() for path in (folder / "blobs/sha256").iterdir()}
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in blobs.items())

    def blob(described: dict) -> bytes:
        data = blobs[described["digest"].removeprefix("sha256:")]
        assert len(data) == described["size"]
        return data

    (described,) = json.loads((folder / "index.json").read_text())["manifests"]
    assert described["annotations"]["org.opencontainers.image.ref.name"] == "base"
    manifest = json.loads(blob(described))
    configuration = json.loads(blob(manifest["config"]))
    layer = gzip.decompress(blob(manifest["layers"][0]))
    assert layer == (tmp_path / "root.tar").read_bytes()
    assert configuration["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    load("oci_layout").write_layout(tmp_path / "root.tar", tmp_path / "again", "base")
    assert (tmp_path / "again/index.json").read_text() == (folder / "index.json").read_text()


def test_what_is_installed_already_takes_no_time(engine: Engine, base: Path) -> None:
    """And asks nobody: there is no mirror."""
    env = os.environ | {"MIRROR": "http://127.0.0.1:1/debian"}
    for script, folder in (("install_apptainer.sh", PRIVATE.parent), ("container_base.sh", base)):
        subprocess.run([ROOT / "scripts" / script, folder], check=True, timeout=10, env=env)


def test_the_pages_command_has_the_eight_arguments() -> None:
    text = (ROOT / "docs/by_hand.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("singularity run --bind"))
    words = line.split()
    assert len(words[words.index("compute_container.sif") + 1 :]) == len(EIGHT)
    assert "--bind logs:/logs --bind ip.json:/ip.json" in line
