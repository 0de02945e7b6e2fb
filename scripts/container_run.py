"""The runscript of compute_container.def: makes `decentralizepy run` of eight arguments and binds.

It runs inside the image, before it is known which code is to run, so it imports none of ours.
"""

from __future__ import annotations

import argparse
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

EXIT_USAGE: Final = 2
ARGUMENTS: Final = (
    "graph", "nb_machines", "nb_procs_per_machine", "iterations", "eval_file", "test_after",
    "log_level", "averaging_steps",
)  # fmt: skip
NO_GRAPH: Final = "-"
PACKAGE: Final = "decentralizepy"


class UsageError(Exception):
    """What the user can mend: it is told without a traceback."""


@dataclass(frozen=True)
class Places:
    """Where things are in the container; tests have theirs elsewhere."""

    logs: Path = Path("/logs")
    addresses: Path = Path("/ip.json")
    bound: Path = Path("/decentralizepy")
    image: Path = Path("/opt/decentralizepy")
    bare: Path = Path("/opt/bare")

    @property
    def ini(self) -> Path:
        return self.logs / "config.ini"

    @property
    def code_is_bound(self) -> bool:
        """Whether the user's folder lies over the one of the image."""
        return not (self.bound / ".of_the_image").is_file()

    @property
    def addresses_are_bound(self) -> bool:
        return not self.addresses.read_bytes().startswith(b"of the image")


@dataclass(frozen=True)
class Code:
    """Which code runs: what is put on Python's path, and where relative paths start."""

    search: tuple[Path, ...]
    folder: Path

    def environment(self, ours: dict[str, str]) -> dict[str, str]:
        """Ours, with nothing that the host says to Python; nor is bytecode left in the tree."""
        kept = {name: value for name, value in ours.items() if not name.startswith("PYTHON")}
        only = ("PYTHONSAFEPATH", "PYTHONNOUSERSITE", "PYTHONDONTWRITEBYTECODE")
        path = {"PYTHONPATH": os.pathsep.join(map(str, self.search))}
        return kept | path | dict.fromkeys(only, "1")


def find_code(places: Places) -> Code:
    """The bound tree or package, or else the image's own; raises `UsageError` for anything else."""
    if not places.code_is_bound:
        return Code((places.image,), places.image)
    if (places.bound / PACKAGE / "__init__.py").is_file():
        return Code((places.bound, places.bound / "run_configuration"), places.bound)
    if (places.bound / "__main__.py").is_file() and (places.bound / "engine").is_dir():
        return Code((places.bare,), places.logs)
    raise UsageError(
        f"{places.bound}: what is bound there is neither a tree with {PACKAGE}/ in it nor that "
        "package's folder; to run the code of the image, bind nothing there"
    )


def find_graph(name: str, places: Places) -> Path:
    """An absolute path as it is, any other name in one of the folders; raises `UsageError`."""
    if Path(name).is_absolute():
        tried = [Path(name)]
    else:
        configurations = "run_configuration"
        folders = [places.logs, places.bound / configurations, places.bound / "eval"]
        tried = [folder / name for folder in [*folders, places.image / configurations]]
    for path in tried:
        if path.is_file():
            return path
    listed = "".join(f"\n  {path}" for path in tried)
    raise UsageError(f"there is no graph {name}; these places were tried:{listed}")


def address_arguments(places: Places) -> list[str]:
    """The flag that names the bound address file; without one the INI names it, beside itself."""
    if places.addresses_are_bound:
        return ["--set", f"COMMUNICATION.addresses_filepath={places.addresses}"]
    beside = places.logs / "ip.json"
    if beside.is_file():
        return ["--set", f"COMMUNICATION.addresses_filepath={beside}"]
    return []


def cache_folder() -> Path:
    """This user's folder for prepared data among the temporary ones, which are the host's.

    Raises `UsageError` if somebody else has made it: others could lay links there.
    """
    folder = Path(tempfile.gettempdir()) / f"{PACKAGE}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UsageError(f"{folder} is not a folder of ours: remove it, or give --cache-dir")
    return folder / "cache"


def positional(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The eight arguments by name, and the further ones; raises `UsageError`."""
    if len(arguments) < len(ARGUMENTS):
        raise UsageError(
            f"{len(ARGUMENTS)} arguments are needed: {' '.join(ARGUMENTS)}; got {len(arguments)}: "
            f"{' '.join(arguments)}"
        )
    values = dict(zip(ARGUMENTS, arguments, strict=False))
    for name, value in values.items():
        if not value or (value.startswith("-") and value != NO_GRAPH):
            raise UsageError(
                f"{name} is {value!r}; flags come after the {len(ARGUMENTS)} arguments"
            )
    if not values["nb_machines"].isdecimal():
        raise UsageError(f"nb_machines is no whole number: {values['nb_machines']!r}")
    return values, list(arguments[len(ARGUMENTS) :])


@dataclass(frozen=True)
class Further:
    """What this script must know of the further arguments."""

    machine: str | None
    cache: str | None


def look(further: Sequence[str]) -> Further:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-mid", "--machine_id")
    parser.add_argument("--cache-dir")
    known, _ = parser.parse_known_args(list(further))
    return Further(known.machine_id, known.cache_dir)


def which_machine(
    values: dict[str, str], flags: Sequence[str], code: Code, places: Places, ours: dict[str, str]
) -> str:
    """The machine whose address in the file is one of ours; ends with the code that it gives."""
    if values["nb_machines"] == "1":
        return "0"
    command = [sys.executable, "-m", PACKAGE, "where", str(places.ini)]
    command += ["-ms", values["nb_machines"], "--here", *flags]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, cwd=code.folder, env=code.environment(ours)
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout.strip()


def settings_in(further: Sequence[str]) -> list[str]:
    """The flags --set among the further arguments, which the address file may depend on."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--set", action="append", default=[])
    known, _ = parser.parse_known_args(list(further))
    return [word for value in known.set for word in ("--set", value)]


def run_command(
    arguments: Sequence[str], code: Code, places: Places, ours: dict[str, str]
) -> list[str]:
    """The whole command of this machine; raises `UsageError`."""
    values, further = positional(arguments)
    if not places.ini.is_file():
        raise UsageError(f"{places.ini} is not there: bind a folder that has it over {places.logs}")
    graph = [] if values["graph"] == NO_GRAPH else ["-gf", str(find_graph(values["graph"], places))]
    known, addresses = look(further), address_arguments(places)
    flags = [*addresses, *settings_in(further)]
    machine = known.machine or which_machine(values, flags, code, places, ours)
    logs = str(places.logs / f"machine{machine}")
    cache = [] if known.cache else ["--cache-dir", str(cache_folder())]
    return [
        *(sys.executable, "-m", PACKAGE, "run", "-mid", machine, "-ms", values["nb_machines"]),
        *("-ps", values["nb_procs_per_machine"], *graph, "--eval_file", values["eval_file"]),
        *("-ld", logs, "-wsd", logs, "-cf", str(places.ini), "-ll", values["log_level"]),
        *("-is", values["iterations"], "-ta", values["test_after"], "-tea", values["test_after"]),
        *("-ro", "0", "-as", values["averaging_steps"], *addresses, *cache, *further),
    ]


def main(arguments: Sequence[str], places: Places = Places()) -> NoReturn:
    """Become `decentralizepy run`, whose exit code is then the container's."""
    ours = dict(os.environ)
    try:
        code = find_code(places)
        command = run_command(arguments, code, places, ours)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
    os.chdir(code.folder)
    os.execve(command[0], command, code.environment(ours))


if __name__ == "__main__":
    main(sys.argv[1:])
