"""Redraw every table and figure of this bundle, and compare them with those in it.

    python redraw.py [FOLDER]

Needs the packages of requirements.txt; the code that drew them is in code/. Exit code 0: all are
the same, byte for byte; 1: some are not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DRAWN = ("tables", "figures")


def draw(into: Path) -> None:
    """Run all commands of the bundle."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(HERE / "code"))
    from results.cli import main

    for words in json.loads((HERE / "commands.json").read_text(encoding="utf-8")):
        places = {"{into}": str(into), "{runs}": str(HERE / "runs")}
        for name, path in places.items():
            words = [word.replace(name, path) for word in words]
        if main(words) not in (0, 6):
            sys.exit(f"failed: python -m results {' '.join(words)}")


def compare(into: Path) -> list[str]:
    """Files that differ or are missing; Parquet, which tells what wrote it, is left out."""
    drawn = [path for name in DRAWN for path in sorted((HERE / name).rglob("*"))]
    files = [path for path in drawn if path.is_file() and path.suffix != ".parquet"]
    print(f"{len(files)} files compared")
    return [
        str(path.relative_to(HERE))
        for path in files
        if not (into / path.relative_to(HERE)).is_file()
        or (into / path.relative_to(HERE)).read_bytes() != path.read_bytes()
    ]


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "redrawn").resolve()
    draw(folder)
    different = compare(folder) if folder != HERE else []
    for name in different:
        print(f"differs: {name}")
    print(f"drawn into {folder}" + ("" if different else ": all the same"))
    sys.exit(1 if different else 0)
