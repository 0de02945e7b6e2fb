"""What a run needs, looked at before there is one: rows of ok or not ok, and what to do."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from decentralizepy.errors import EXIT_OK, ConfigError
from decentralizepy.files import cache_home
from orchestrator.backends.base import Check
from orchestrator.config import Config
from orchestrator.errors import EXIT_REFUSED
from orchestrator.planning.data import Data, unreadable
from orchestrator.planning.inputs import read_config
from orchestrator.running.experiment import Setting, backend_of, make_plan
from orchestrator.text import Screen

LEAST_BYTES: Final = 1 << 30
INSTALL: Final = "pip install -e '.[{extra}]'"


def examine(path: Path | None, setting: Setting, as_json: bool) -> int:
    """Print the rows; exit code 3 if something is not ok.

    With a configuration the place that it names is looked at too, hosts included.
    """
    rows = [*here(), *(of_place(path, setting) if path is not None else ())]
    screen = Screen(sys.stdout)
    if as_json:
        screen.say(json.dumps([vars(row) for row in rows], indent=2))
    else:
        width = max(len(row.name) for row in rows)
        for row in rows:
            told = "ok" if row.ok else f"NOT OK  {row.message}"
            screen.say(f"{row.name:<{width}}  {told}")
    return EXIT_OK if all(row.ok for row in rows) else EXIT_REFUSED


def here() -> Iterator[Check]:
    """This computer, whatever the place."""
    for module, extra in (("torch", "orchestrator"), ("matplotlib", "results")):
        there = find_spec(module) is not None
        yield Check(f"Python module {module}", there, INSTALL.format(extra=extra))
    cache = cache_home()
    yield Check("cache folder", _writable(cache), f"make {cache} writable, or set XDG_CACHE_HOME")
    free = shutil.disk_usage(Path.cwd()).free
    yield Check("disk", free > LEAST_BYTES, f"only {free:,} bytes are free in {Path.cwd()}")


def of_place(path: Path, setting: Setting) -> Iterator[Check]:
    """The place of a configuration, and its machines where they can be asked now."""
    try:
        config = read_config(path)
        backend = backend_of(config, path, setting)
        backend.site(config)
    except ConfigError as error:
        yield Check("configuration", False, str(error))
        return
    yield Check("configuration", True, "")
    data = None
    if config.DATASETS_DIR is not None:
        row, data = datasets(path, setting)
        yield row
    if not backend.remote:
        yield from backend.examine(config, data)
        return
    for program in ("ssh", "rsync"):
        there = shutil.which(program) is not None
        yield Check(program, there, f"install it: apt-get install {_package(program)}")
    yield from keys(config)
    yield from backend.examine(config, data)


def datasets(path: Path, setting: Setting) -> tuple[Check, Data | None]:
    """Whether what the INI reads of DATASETS_DIR is here and readable; and what hosts need of it.

    Every file is read to its end, unless it is as it was at an earlier time.
    """
    try:
        data = make_plan(path, setting)[1].task.data
        problem = "" if data is None else unreadable(data)
    except ConfigError as error:
        return Check("data sets", False, str(error)), None
    return Check("data sets", not problem, problem), data


def keys(config: Config) -> Iterator[Check]:
    """A key of one's own, or an agent that has one."""
    if config.SSH_OPTIONS:
        return
    folder = Path.home() / ".ssh"
    found = (
        [p for p in sorted(folder.glob("id_*")) if p.suffix != ".pub"] if folder.is_dir() else []
    )
    agent = bool(os.environ.get("SSH_AUTH_SOCK"))
    yield Check("ssh key", bool(found) or agent, "make one: ssh-keygen -t ed25519")
    for key in found:
        private = not key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        yield Check(f"ssh key {key.name}", private, f"chmod 600 {key}")


def _package(program: str) -> str:
    return {"ssh": "openssh-client"}.get(program, program)


def _writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)
