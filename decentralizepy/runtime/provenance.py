"""What is needed to repeat a run, written before it starts; and how it ended, written after."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import decentralizepy
from decentralizepy.runfolder import SCHEMA_VERSION, write_atomic, write_json
from decentralizepy.runtime.settings import Settings

_PACKAGES = ("torch", "numpy", "pyzmq", "networkx", "safetensors", "scikit-learn")


def begin(settings: Settings, flags: dict[str, Any]) -> None:
    """Make the log folder with ``args.json``, copies of INI and graph, and ``run.json``."""
    folder, experiment = settings.folder, settings.experiment
    folder.root.mkdir(parents=True, exist_ok=True)
    write_json(folder.args, flags)
    write_atomic(folder.root / experiment.path.name, experiment.text)
    graph = Path(flags["graph_file"])
    if graph.is_file():
        write_atomic(folder.root / graph.name, graph.read_text(encoding="utf-8"))
    for flag in ("simulate", "faults"):
        if flags.get(flag):
            source = Path(flags[flag])
            write_atomic(folder.root / source.name, source.read_text(encoding="utf-8-sig"))
    write_json(folder.run, describe(settings, flags))


def end(
    settings: Settings, outcome: str, error: str | None, training_started: float | None,
    seconds: float,
) -> None:  # fmt: skip
    """Add the outcome, when training began (Unix time) and how long it took to ``run.json``."""
    path = settings.folder.run
    value = json.loads(path.read_text(encoding="utf-8"))
    value |= {"training_started": training_started, "ended": _now(), "wall_s": round(seconds, 6)}
    write_json(path, value | {"outcome": outcome, "error": error})


def describe(settings: Settings, flags: dict[str, Any]) -> dict[str, Any]:
    """Everything needed to repeat the run on this machine."""
    experiment = settings.experiment
    return {
        "schema": SCHEMA_VERSION,
        "started": _now(),
        "outcome": "running",
        "command": [sys.executable, "-m", "decentralizepy", *sys.argv[1:]],
        "flags": flags,
        "ini": experiment.text,
        "graph": {"file": flags["graph_file"], "sha256": settings.graph.digest()},
        "addresses": list(settings.addresses),
        "agents_per_machine": list(settings.mapping.counts),
        "workers": settings.workers,
        "threads_per_worker": settings.threads,
        "device": settings.device,
        "simulation": settings.simulation.text if settings.simulation else None,
        "faults": settings.faults.text if settings.faults else None,
        "seed": experiment.seed,
        "streams": "Philox, key (seed, uid), counter (0, 0, purpose, iteration << 16 | round)",
        "version": decentralizepy.__version__,
        "revision": revision(),
        "code_sha256": code_digest(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "host": platform.node(),
    }


def digests(settings: Settings, flags: dict[str, Any]) -> dict[str, str]:
    """What must be equal on all machines, by the name a user knows it by."""
    own = {"machine_id", "log_dir", "weights_store_dir", "config_file", "graph_file", "workers"}
    own |= {"cache_dir", "log_level", "simulate", "faults"}
    common = {key: value for key, value in flags.items() if key not in own}
    plan = settings.faults.text if settings.faults else None
    return {
        f"INI file ({settings.experiment.path.name})": _sha(settings.experiment.text),
        f"graph ({Path(flags['graph_file']).name})": settings.graph.digest(),
        f"addresses ({Path(settings.experiment.addresses_filepath).name})": _sha(
            json.dumps(settings.addresses)
        ),
        "flags": _sha(json.dumps(common, sort_keys=True)),
        "fault plan (--faults)": _sha(json.dumps(plan)),
        "code of decentralizepy": code_digest(),
    }


def code_digest() -> str:
    """SHA-256 over the package's source files."""
    root = Path(decentralizepy.__file__).parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def revision() -> str | None:
    """Git revision of the source tree, with ``+dirty`` if it was changed; None without git."""
    root = Path(decentralizepy.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+dirty" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        capture_output=True, text=True, check=True, timeout=5, env=environment,
    )  # fmt: skip
    return done.stdout.strip()


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
