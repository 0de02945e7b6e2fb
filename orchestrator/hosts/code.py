"""What hosts get of ours: the runner's two files, and the core's package, each by its content."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

RUNNER: Final = Path(__file__).with_name("runner.py")
GUARD: Final = Path(__file__).resolve().parents[1] / "backends" / "guard.py"


@dataclass(frozen=True)
class Bundle:
    """Files by name, and a digest of all of them."""

    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        total = hashlib.sha256()
        for name, data in sorted(self.files.items()):
            total.update(f"{name}\0{len(data)}\0".encode() + data)
        return total.hexdigest()[:16]

    def packed(self) -> bytes:
        """As a tar archive, the same bytes for the same files."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
            for name, data in sorted(self.files.items()):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o644
                archive.addfile(entry, io.BytesIO(data))
        return out.getvalue()


@cache
def runner() -> Bundle:
    """What starts and watches commands on a host."""
    return Bundle({path.name: path.read_bytes() for path in (RUNNER, GUARD)})


@cache
def core() -> Bundle:
    """The package ``decentralizepy``, as it is here."""
    found = find_spec("decentralizepy")
    assert found is not None and found.origin is not None
    root = Path(found.origin).parent
    return Bundle({
        path.relative_to(root.parent).as_posix(): path.read_bytes() for path in _sources(root)
    })  # fmt: skip


def _sources(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path
