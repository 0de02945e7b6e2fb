"""An archive from which every figure of some runs can be redrawn: records, code, versions."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import decentralizepy
import results
from decentralizepy.files import replacing, write_json
from decentralizepy.jsonfile import read_object
from results.figures.kept_losses import PACKED, KeptLosses, Shown, pack
from results.load import Run
from results.report.facts import machines_of

#: what of a run folder is packed, by the ends of names; keys, logs, weights and models are not
_PACKED: Final = (".json", ".jsonl", ".csv", ".ini", ".edges", ".adj", ".txt")
_LEFT_OUT: Final = (
    "tables",
    "figures",
    "checkpoints",
    "attacked_model",
    "model_val",
    "__pycache__",
)
_CODE: Final = (".py", ".j2")
#: what draws; a bundle is redrawn with the same versions
_DRAWING: Final = ("jinja2", "matplotlib", "networkx", "numpy", "pandas", "pillow", "pyarrow",
                   "safetensors")  # fmt: skip
_README: Final = """\
# {title}

{count} run(s): their configuration and records (`runs/`), tables and figures with their data
(`tables/`, `figures/`), and the code that drew them (`code/`).

    python -m venv .venv && .venv/bin/pip install -r requirements.txt
    .venv/bin/python redraw.py

draws everything again into `redrawn/` and tells whether it is the same, byte for byte.
`commands.json` lists the commands. `environment.json` has versions, image and machines of each run,
`nodes.txt` its hosts, `constraints.txt` the versions of all packages of the project. To repeat a
run itself: install the project with `-c constraints.txt`, then
`python g5k_execution.py runs/<run>/g5k_config.json`, or the commands in
`runs/<run>/machine<m>/run.json`. Models as sent, weights, logs and keys are not in here.
"""


#: by run, the losses of its models, and which of them figures show
Losses = dict[str, tuple[KeptLosses, list[Shown]]]


def write_bundle(
    runs: Sequence[Run],
    commands: Sequence[Sequence[str]],
    output: Path,
    aside: Path,
    losses: Losses,
) -> list[str]:
    """Pack runs, and what ``commands`` draw of them, into ``output``; returns the names in it.

    ``aside`` is an empty folder to work in. Words of commands have ``{runs}`` for the folder of
    runs and ``{into}`` for where they write. Everything is drawn from what is packed. The same runs
    give the same bytes.
    """
    root = aside / output.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
    root.mkdir(parents=True)
    for run in runs:
        pack_run(run.folder, root / "runs" / run.name)
        if run.name in losses:
            pack(*losses[run.name], root / "runs" / run.name / PACKED)
    _pack_code(root / "code")
    shutil.copyfile(Path(results.__file__).with_name("redraw.py"), root / "redraw.py")
    (root / "commands.json").write_text(json.dumps(list(commands), indent=1), encoding="utf-8")
    write_json(root / "environment.json", {run.name: environment(run) for run in runs})
    _write_texts(runs, root)
    _draw(root)
    return _archive(root, output)


def pack_run(folder: Path, into: Path) -> None:
    """Copy what tables and figures are made of."""
    recorded = any(folder.rglob("records_*.jsonl"))
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        skipped = set(inner.parts[:-1]) & set(_LEFT_OUT) or not path.name.endswith(_PACKED)
        derived = recorded and path.name.endswith("_results.json")
        if path.is_file() and not (skipped or derived or path.name.startswith("digests_")):
            target = into / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _pack_code(into: Path) -> None:
    for package in (decentralizepy, results):
        source = Path(str(package.__file__)).parent
        for path in sorted(source.rglob("*")):
            inner = path.relative_to(source.parent)
            if path.name.endswith(_CODE) and "my_results" not in inner.parts:
                target = into / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def environment(run: Run) -> dict[str, Any]:
    """What a run was run with and on: versions, image with its SHA-256 if it is there, hosts."""
    keys = ("version", "revision", "code_sha256", "python", "platform", "packages", "container")
    found = {key: run.provenance[key] for key in keys if key in run.provenance}
    image = run.provenance.get("container")
    path = Path(image) if isinstance(image, str) else None
    if path is not None and path.is_file():
        with path.open("rb") as source:
            found["container_sha256"] = hashlib.file_digest(source, "sha256").hexdigest()
    return found | {"hosts": _hosts(run)}


def _hosts(run: Run) -> list[str]:
    return [str(read_object(machine.run).get("host") or "?") for machine in machines_of(run)]


def _write_texts(runs: Sequence[Run], root: Path) -> None:
    texts = {
        "README.md": _README.format(title=root.name, count=len(runs)),
        "requirements.txt": "".join(f"{line}\n" for line in _versions(_DRAWING)),
        "constraints.txt": _constraints(runs),
        "nodes.txt": "".join(
            f"{run.name} machine{number} {host}\n"
            for run in runs
            for number, host in enumerate(_hosts(run))
        ),
    }
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")


def _constraints(runs: Sequence[Run]) -> str:
    """The project's lock file; from an installation without it, the packages of the first run."""
    lock = Path(results.__file__).parents[1] / "constraints.txt"
    if lock.is_file():
        return lock.read_text(encoding="utf-8")
    packages = runs[0].provenance.get("packages")
    there = packages if isinstance(packages, dict) else {}
    return "".join(f"{name}=={there[name]}\n" for name in sorted(there))


def _versions(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        try:
            yield f"{name}=={version(name)}"
        except PackageNotFoundError:
            continue


def _draw(root: Path) -> None:
    """By the bundle's own script, from its own files alone."""
    command = [sys.executable, "-I", str(root / "redraw.py"), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"nothing was packed: {(done.stderr or done.stdout).strip()}")


def _archive(root: Path, output: Path) -> list[str]:
    """A tar without dates and owners."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(output) as aside,
        aside.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in files:
            about = tarfile.TarInfo(str(path.relative_to(root.parent)))
            about.size, about.mode = path.stat().st_size, 0o644
            with path.open("rb") as source:
                tar.addfile(about, source)
    return [str(path.relative_to(root)) for path in files]
