"""Images by content, staged once, and the engine through spython around its defects."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.errors import ConfigError, RunError
from orchestrator import container
from orchestrator.container import Bind, Recipe
from orchestrator.singularity import Engine, find_engine, rights

ROOT = Path(__file__).resolve().parents[2]
#: of a definition that takes a moment: nothing is installed
TINY = """\
Bootstrap: {{ BOOTSTRAP }}
From: {{ FROM }}

%arguments
    BOOTSTRAP=docker
    FROM=none
    ANSWER=0

%files
    constraints.txt /answers

%post
    test {{ ANSWER }} -gt 0 || { echo "there is no answer" >&2; exit 7; }
    touch /ip.json /decentralizepy

%runscript
    for word in "$@"; do echo "word $word"; done
    echo "and an error" >&2
    exit "$1"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files as an image needs them, each short."""
    made = tmp_path / "tree"
    for name in container.INGREDIENTS:
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    (made / container.DEFINITION).write_text(TINY)
    for folder in container.CODE:
        (made / folder / "__pycache__").mkdir(parents=True)
        (made / folder / "a.py").write_text("1")
    return made


def recipe(tree: Path, base: Path, answer: int = 42) -> Recipe:
    given = {"BOOTSTRAP": "oci", "FROM": str(base / "oci"), "ANSWER": str(answer)}
    return Recipe(tree, given)


def test_the_digest_is_of_all_that_is_built_in_and_of_nothing_else(tree: Path) -> None:
    one = Recipe(tree).digest()
    assert Recipe(tree).digest() == one == Recipe(tree, wheels=tree).digest()
    seen = {one, Recipe(tree, {"A": "1"}).digest(), Recipe(tree, {"A": "2"}).digest()}
    for number, name in enumerate(container.INGREDIENTS):
        (tree / name).write_text("changed")
        seen.add(Recipe(tree).digest())
        assert len(seen) == 4 + number
    bound, built_in = Recipe(tree).digest(), Recipe(tree, bound=False).digest()
    (tree / "decentralizepy/a.py").write_text("2")
    (tree / "decentralizepy/__pycache__/a.pyc").write_text("2")
    assert Recipe(tree).digest() == bound
    changed = Recipe(tree, bound=False).digest()
    (tree / "decentralizepy/__pycache__/a.pyc").unlink()
    assert built_in != changed == Recipe(tree, bound=False).digest()


def test_a_missing_ingredient_is_named(tree: Path) -> None:
    (tree / "constraints.txt").unlink()
    with pytest.raises(ConfigError, match=r"the container needs .*constraints\.txt"):
        Recipe(tree).digest()


def test_an_image_is_built_once_and_its_output_is_heard(
    engine: Engine, base: Path, tree: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    made = container.build(recipe(tree, base), tmp_path / "images", engine, said.append)
    assert any("Build complete" in line for line in said)
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    written = made.stat().st_mtime_ns
    assert container.build(recipe(tree, base), tmp_path / "images", engine) == made
    assert made.stat().st_mtime_ns == written

    heard: list[str] = []
    with pytest.raises(RunError, match=r"failed with exit code 9:(.|\n)*and an error"):
        engine.run(made, ["9", "two words", "*", '"'], say=heard.append)
    words = [line.removeprefix("word ") for line in heard if line.startswith("word ")]
    assert words == ["9", "two words", "*", '"']  # spython drops a line with "Progess" in it only
    engine.run(made, ["0"], gpu=True)
    with pytest.raises(ConfigError, match="an argument is empty"):
        engine.run(made, ["0", ""])


def test_a_failed_build_is_an_error_with_its_reason(
    engine: Engine, base: Path, tree: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"(?s)building .* failed with exit code .*there is no ans"):
        container.build(recipe(tree, base, 0), tmp_path / "images", engine)
    assert list((tmp_path / "images").iterdir()) == []


def test_an_engine_that_makes_nothing_is_an_error(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="left no image"):
        container.build(Recipe(tree), tmp_path / "images", Engine(Path("/bin/true")))


def test_both_streams_are_read_however_much_is_written(tmp_path: Path) -> None:
    """Of an engine that writes more into each than a pipe holds."""
    engine = tmp_path / "engine"
    engine.write_text(
        '#!/bin/sh\nhead -c 300000 /dev/zero | tr "\\0" x >&2; echo >&2; echo done; exit 0\n'
    )
    engine.chmod(0o755)
    heard: list[str] = []
    Engine(engine).run(tmp_path / "an.sif", ["0"], say=heard.append)
    assert [len(line) for line in heard] == [300000, 4]


def test_binds_may_have_any_path(engine: Engine, image: Path, tmp_path: Path) -> None:
    """Blanks, commas, colons and quotes included; the engine's own --bind takes none of these."""
    odd = tmp_path / 'a, b:c "d"'
    odd.mkdir()
    (odd / "found").write_text("here")
    shown = [Bind(str(odd), "/logs", read_only=True), Bind(str(odd / "found"), "/ip.json")]
    shell = "cat /logs/found /ip.json; touch /logs/x 2>/dev/null && echo wrote"
    command = [str(engine.path), "exec", *container.flags(shown), str(image), "sh", "-c", shell]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "herehere", done.stderr


@given(st.text(st.characters(exclude_characters="\0\n\r", codec="utf-8"), min_size=1))
@settings(max_examples=50)
def test_a_bind_is_one_line_of_comma_separated_values(path: str) -> None:
    import csv

    flag, value = Bind(path, "/logs").flag()
    assert flag == "--mount"
    assert list(csv.reader([value], strict=True)) == [
        ["type=bind", f"source={path}", "destination=/logs"]
    ]


def test_the_core_runs_in_the_image_with_bound_code(
    engine: Engine, image: Path, tmp_path: Path
) -> None:
    """Whatever the host's environment says."""
    package = tmp_path / "code/decentralizepy"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import os, sys\nprint(sys.argv[1:], os.environ['XDG_CACHE_HOME'], __file__,"
        " os.environ['CUDA_VISIBLE_DEVICES'])\n"
    )
    binds = [Bind(str(tmp_path / "code"), container.TREE)]
    command = container.core(str(image), binds, [container.TREE], cache="/logs")
    env = os.environ | {"PYTHONPATH": "/nowhere", "XDG_CACHE_HOME": "/nowhere"}
    env |= {"PYTHONHOME": "/nowhere", "CUDA_VISIBLE_DEVICES": "1,3"}
    done = subprocess.run([*command, "run", "a b"], capture_output=True, text=True, env=env)
    module = "/decentralizepy/decentralizepy/__main__.py"
    assert done.stdout.strip() == f"['run', 'a b'] /logs {module} 1,3", done.stderr


def test_a_host_without_an_engine_says_so(image: Path, tmp_path: Path) -> None:
    (tmp_path / "hostname").symlink_to(shutil.which("hostname") or "/bin/hostname")
    command = container.by_hand(str(image), ["ring.edges"], [], gpu=True)
    command[:3] = ["/bin/sh", "-c", command[2].replace("/opt/", "/none/")]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert done.returncode == 127
    assert done.stderr.startswith("neither apptainer nor singularity is on the PATH of ")
    assert command[-4:] == ["--no-home", "--nv", str(image), "ring.edges"]


class Disk:
    """A host whose disk is a folder here; counts what is copied."""

    def __init__(self) -> None:
        self.copied = 0
        self.breaks = False

    def put_data(self, folder: Path, names: Sequence[str], root: str) -> None:
        Path(root).mkdir(parents=True, exist_ok=True)
        for name in names:
            self.copied += 1
            whole = (folder / name).read_bytes()
            (Path(root) / name).write_bytes(whole[: len(whole) // 2] if self.breaks else whole)
        if self.breaks:
            raise ConnectionError("the cable was pulled")

    def storage(self) -> str:
        return "its own"

    def call(self, command: Sequence[str]) -> int:
        return subprocess.run(command, capture_output=True).returncode


def test_an_image_is_staged_once_and_never_by_half(tmp_path: Path) -> None:
    image, disk = tmp_path / "here" / "an image.sif", Disk()
    image.parent.mkdir()
    image.write_bytes(b"an image")
    root = tmp_path / "its disk"
    disk.breaks = True
    with pytest.raises(ConnectionError):
        container.stage(image, disk, str(root))
    assert not list(root.glob("*.sif"))
    disk.breaks = False
    there = root / container.staged_name(image)
    for _ in range(3):
        assert container.stage(image, disk, str(root)) == str(there)
    assert disk.copied == 2 and there.read_bytes() == b"an image"
    assert [path.name for path in root.iterdir()] == [there.name]
    there.write_bytes(b"cut")  # a disk that was full
    container.stage(image, disk, str(root))
    assert disk.copied == 3
    image.write_bytes(b"of image")  # as long, and under the same name
    assert Path(container.stage(image, disk, str(root))).read_bytes() == b"of image"


def test_an_engine_is_found_by_either_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither apptainer nor singularity"):
        _without_private(tmp_path)
    (tmp_path / "singularity").symlink_to("/bin/true")
    assert _without_private(tmp_path) == tmp_path / "singularity"
    (tmp_path / "apptainer").symlink_to("/bin/true")
    assert _without_private(tmp_path) == tmp_path / "apptainer"


def _without_private(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("orchestrator.singularity.PRIVATE", folder / "none")
        return find_engine({"PATH": str(folder)})


def test_who_is_not_root_builds_with_fakeroot() -> None:
    assert rights(0) == [] and rights(1000) == ["--fakeroot"]
