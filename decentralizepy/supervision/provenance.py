"""What is needed to repeat a run, written before it starts; and how it ended, written after."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import decentralizepy
from decentralizepy import reference
from decentralizepy.cpus import cpu_name
from decentralizepy.engine.checkpoints import CheckpointSets
from decentralizepy.errors import ConfigError
from decentralizepy.files import write_atomic, write_json
from decentralizepy.ini import without_port
from decentralizepy.jsonfile import read_object
from decentralizepy.locks import try_lock
from decentralizepy.runfolder import SCHEMA_VERSION
from decentralizepy.settings import Settings
from decentralizepy.supervision.status import Status

#: what is kept of a run that is resumed
_OF_AN_ATTEMPT = (
    "started", "ended", "training_started", "outcome", "error", "notes", "workers", "revision",
    "host", "last_attempt",
)  # fmt: skip
#: flags that say which numbers a run gives; all others may change when it is resumed
_OF_THE_NUMBERS = (
    "eval_file", "averaging_steps", "reset_optimizer", "working_rate", "server_machine",
)  # fmt: skip
_PACKAGES = ("torch", "numpy", "pyzmq", "cryptography", "networkx", "safetensors", "scikit-learn")


def begin(settings: Settings, flags: dict[str, Any]) -> Settings:
    """Make the log folder with ``args.json``, copies of INI and graph, and ``run.json``.

    Returns the settings, which know how often the run was resumed. Raises `ConfigError` for a
    resumed run that is not the same experiment.
    """
    folder, experiment = settings.folder, settings.experiment
    attempts: list[dict[str, Any]] = []
    if settings.resume:
        old = _former(settings, flags)
        before = old.get("attempts")
        attempts = [
            *(before if isinstance(before, list) else []),
            {key: old.get(key) for key in _OF_AN_ATTEMPT},
        ]
        settings = dataclasses.replace(settings, attempt=max(map(_last_attempt, attempts)) + 1)
    folder.root.mkdir(parents=True, exist_ok=True)
    write_json(folder.args, reference.flags(flags))
    write_atomic(folder.root / experiment.path.name, experiment.text)
    for name, source in experiment.files.items():
        if not Path(name).is_absolute():
            write_atomic(folder.root / name, source.read_text(encoding="utf-8"))
    own = {str(name): source for name, source in experiment.own_files.items()}
    for relative, source in (own | dict(settings.further)).items():
        (folder.root / relative).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder.root / relative, source.read_bytes())
    graph = None if flags["graph_file"] is None else Path(flags["graph_file"])
    if graph is not None and graph.is_file():
        write_atomic(folder.root / graph.name, graph.read_text(encoding="utf-8"))
    for flag in ("simulate", "faults"):
        if flags.get(flag):
            source = Path(flags[flag])
            write_atomic(folder.root / source.name, source.read_text(encoding="utf-8-sig"))
    write_json(folder.run, describe(settings, flags) | {"attempts": attempts})
    return settings


def began_nothing(settings: Settings) -> bool:
    """Whether the run in the log folder ended before it trained: then a new one may start there."""
    old = read_object(settings.folder.run)
    ended = old.get("outcome") in ("failed", "interrupted")
    return ended and old.get("training_started", 0) is None and old.get("attempts") == []


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a log folder against other processes, where the file system has locks.

    Raises `ConfigError` if another one holds it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            if not try_lock(handle):
                raise ConfigError(
                    f"{folder} is in use: another process runs there; wait for its end, or choose "
                    "another folder (-ld)"
                )
        yield
    finally:
        os.close(handle)


def missing_folders(folder: Path) -> list[Path]:
    """The folder and those above it that are not there yet, from the inside out."""
    return [path for path in (folder.absolute(), *folder.absolute().parents) if not path.exists()]


def withdraw(settings: Settings, made: Sequence[Path]) -> None:
    """Remove what `begin` and the workers wrote for a run that was refused before it trained.

    The folders ``made`` for it go too. In a folder that was there before (somebody else may look
    into it) the reason stays in ``status.json``.
    """
    folder = settings.folder
    if made:
        shutil.rmtree(folder.root, ignore_errors=True)
        with contextlib.suppress(OSError):  # another machine may be using one of them
            for path in made[1:]:
                path.rmdir()
        return
    logs = [folder.log(rank) for rank in range(len(settings.uids))]
    for path in (folder.args, folder.run, folder.data, *folder.all_records(), *logs):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _last_attempt(old: dict[str, Any]) -> int:
    number = old.get("last_attempt") if isinstance(old, dict) else 0
    return number if type(number) is int else 0


def _former(settings: Settings, flags: dict[str, Any]) -> dict[str, Any]:
    """What ``run.json`` says of the run that is to be resumed, which must be the same one."""
    path = settings.folder.run
    try:
        old: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        flagged = {flag: old["flags"][flag] == flags[flag] for flag in _OF_THE_NUMBERS}
        same = {
            f"INI file ({settings.experiment.path})": without_port(old["ini"])
            == without_port(settings.experiment.text),
            "graph (-gf)": old["graph"]["sha256"] == settings.graph.digest(),
            "nodes per machine (-ps)": old["nodes_per_machine"] == list(settings.mapping.counts),
            "files of [TRAIN_PARAMS]": old["files"] == _files(settings),
            "modules that the INI names, or these import": old["modules"] == _modules(settings),
            "simulation (--simulate)": old["simulation"] == _simulated(settings),
            **{f"--{flag}": equal for flag, equal in flagged.items()},
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path} does not describe a run ({type(error).__name__}): nothing to resume (-ld)"
        ) from None
    done = max(CheckpointSets(settings.folder).usable(), default=0)
    same[f"--iterations (fewer than the {done} that are done)"] = (
        done <= settings.intervals.iterations
    )
    differ = [name for name, equal in same.items() if not equal]
    if differ:
        raise ConfigError(
            f"{settings.log_dir} contains another experiment: different {', '.join(differ)}; "
            "resume with the same files and flags, or start a new run in a new folder (-ld)"
        )
    return old


def training(settings: Settings, status: Status) -> None:
    """Training begins: write when, in case nobody gets to write how it ended."""
    path = settings.folder.run
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, value | {"training_started": status.began})


def end(settings: Settings, outcome: str, status: Status) -> None:
    """Add the outcome, who left, what was counted, and when training began, to ``run.json``."""
    path = settings.folder.run
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    value |= {"training_started": status.began, "ended": _now(), "wall_s": round(status.seconds, 6)}
    value |= {"outcome": outcome, "error": status.error, "notes": status.notes}
    value |= {"membership": status.membership.value(), "last_attempt": status.attempt}
    write_json(path, value | {"transport": status.transport.value})


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
        "files": _files(settings),
        "modules": _modules(settings),
        "graph": {"file": flags["graph_file"], "sha256": settings.graph.digest()},
        "addresses": list(settings.addresses),
        "encrypted": settings.key is not None,
        "nodes_per_machine": list(settings.mapping.counts),
        "workers": settings.workers,
        "last_attempt": settings.attempt,
        "threads_per_worker": settings.threads,
        "device": settings.device,
        "simulation": _simulated(settings),
        "faults": settings.faults.text if settings.faults else None,
        "seed": experiment.seed,
        "streams": "Philox, key (seed, uid), counter (0, peer, purpose, iteration << 16 | round)",
        "version": decentralizepy.__version__,
        "revision": revision(),
        "code_sha256": code_digest(),
        "code_folder": str(Path(decentralizepy.__file__).parent),
        "container": container(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "host": platform.node(),
    }


def digests(settings: Settings, flags: dict[str, Any]) -> dict[str, str]:
    """What must be equal on all machines, by the name a user knows it by."""
    own = {"machine_id", "log_dir", "weights_store_dir", "config_file", "graph_file", "workers"}
    own |= {"cache_dir", "log_level", "resume", "simulate", "faults", "key"}
    common = {key: value for key, value in flags.items() if key not in own}
    plan = settings.faults.text if settings.faults else None
    return {
        f"INI file ({settings.experiment.path.name})": _sha(settings.experiment.text),
        f"graph ({Path(flags['graph_file'] or 'no file').name})": settings.graph.digest(),
        f"addresses ({Path(settings.experiment.addresses_filepath).name})": _sha(
            json.dumps(settings.addresses)
        ),
        **{f"file {name} of [TRAIN_PARAMS]": digest for name, digest in _files(settings).items()},
        **{f"module {name}": digest for name, digest in _modules(settings).items()},
        **{f"--{flag}": _sha(json.dumps(value)) for flag, value in common.items()},
        "fault plan (--faults)": _sha(json.dumps(plan)),
        "code of decentralizepy": code_digest(),
    }


def _simulated(settings: Settings) -> Any:
    """The simulation as JSON; None in real time."""
    return json.loads(json.dumps(settings.simulation.text)) if settings.simulation else None


def _files(settings: Settings) -> dict[str, str]:
    """Digests of the files of numbers by node that the INI names."""
    files = settings.experiment.files.items()
    return {name: _sha(source.read_text(encoding="utf-8")) for name, source in files}


def _modules(settings: Settings) -> dict[str, str]:
    """Digests of modules that the INI names, of the user's own that these import, of more files."""
    modules = settings.experiment.modules | dict(settings.further)
    return {n: hashlib.sha256(source.read_bytes()).hexdigest() for n, source in modules.items()}


def code_digest() -> str:
    """SHA-256 over the package's source files."""
    root = Path(decentralizepy.__file__).parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def container() -> str | None:
    """The image that this process runs in, as its engine names it; None outside of one."""
    names = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
    return next((image for name in names if (image := os.environ.get(name))), None)


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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
