"""Print the requirements of the package, one a line, as `pip install -r` reads them.

python scripts/container_requirements.py pyproject.toml [EXTRA ...]
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: Sequence[str]) -> list[str]:
    """What a project needs with some extras, which may name others of its own; without itself.

    ``project`` is the table of that name. Raises KeyError for an extra that is not there.
    """
    found = list(project.get("dependencies", []))
    for extra in extras:
        found += _of_extra(project, extra)
    return list(dict.fromkeys(found))


def _of_extra(project: dict[str, Any], extra: str) -> Iterator[str]:
    for line in project["optional-dependencies"][extra]:
        itself = re.fullmatch(rf"{re.escape(project['name'])}\[(.+)\]", line)
        if itself is None:
            yield line
        else:
            for other in itself.group(1).split(","):
                yield from _of_extra(project, other.strip())


def main(arguments: Sequence[str]) -> int:
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    path, *extras = arguments
    project = tomllib.loads(Path(path).read_text(encoding="utf-8"))["project"]
    try:
        print(*requirements(project, extras), sep="\n")
    except KeyError as error:
        known = ", ".join(project.get("optional-dependencies", {}))
        print(f"{path}: there is no extra {error}; there are {known}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
