"""Checkpoint sets of one machine: which are there, complete, and to be kept; free of torch.

A set is a folder named by the iterations that were done, with one file per node. It counts once
``set.json`` says that every node of the run, on all machines, has been saved. Two sets are kept:
a machine may have died before it learnt that the newest one is complete.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from decentralizepy.node.membership import are_epochs, describe
from decentralizepy.runfolder import MachineFolder, write_atomic, write_json

KEPT: Final = 2
_MARK: Final = "set.json"
_BLOCK: Final = 1 << 20


def node_file(folder: Path, uid: int) -> Path:
    """The file of a node in a set's folder."""
    return folder / f"{uid}.safetensors"


class CheckpointSets:
    """The checkpoint sets in a machine's folder."""

    def __init__(self, folder: MachineFolder) -> None:
        self.root = folder.checkpoints
        #: nodes that ended -> the first set that they are in, the newest one, their checksum
        self._ended: dict[int, tuple[int, int, int]] = {}

    def folder(self, iteration: int) -> Path:
        """The set after ``iteration`` iterations."""
        return self.root / str(iteration)

    def end(self, uid: int, iteration: int, crc32: int) -> None:
        """A node has ended: its file in this set belongs to all later ones."""
        self._ended[uid] = iteration, iteration, crc32

    def ended(self, iteration: int) -> set[int]:
        """Nodes that had ended before a set, and need not be saved for it."""
        return {uid for uid, (first, _, _) in self._ended.items() if first <= iteration}

    def all_ended(self, uids: set[int]) -> int:
        """The first set before which all of these had ended; 0 if some have not."""
        firsts = [self._ended[uid][0] for uid in uids & self._ended.keys()]
        return max(firsts) if firsts and len(firsts) == len(uids) else 0

    def carry_on(self, iteration: int, uids: Iterable[int]) -> dict[int, int]:
        """Take over into a set what those of the nodes were that had ended; their checksums."""
        found = {}
        for uid in self.ended(iteration).intersection(uids):
            first, newest, crc32 = self._ended[uid]
            if newest != iteration:
                content = node_file(self.folder(newest), uid).read_bytes()
                write_atomic(node_file(self.folder(iteration), uid), content)
            self._ended[uid] = first, max(newest, iteration), crc32
            found[uid] = crc32
        return found

    def complete(self, iteration: int, checksums: Mapping[int, int], left: Any) -> None:
        """Note that a set is complete, and remove old ones.

        ``checksums`` are CRC-32 of the files of this machine's nodes; ``left`` says which nodes had
        left the run by then (`Membership.value`).
        """
        uids = sorted(checksums)
        crc32 = {str(uid): checksums[uid] for uid in uids}
        write_json(self.folder(iteration) / _MARK, {"uids": uids, "crc32": crc32, "left": left})
        for old in self.usable()[:-KEPT]:
            shutil.rmtree(self.folder(old), ignore_errors=True)
        for unfinished in self._numbers():
            if unfinished < iteration and self.read(unfinished) is None:
                shutil.rmtree(self.folder(unfinished), ignore_errors=True)

    def shortcomings(
        self, saved: Mapping[int, Mapping[int, int]], members: set[int], due: bool
    ) -> Iterator[str]:
        """Which sets never became complete, in words; nobody can resume from them.

        ``saved`` are the nodes of sets that are not complete; ``due``: whether any set was.
        """
        for iteration, nodes in sorted(saved.items()):
            if absent := sorted(members - nodes.keys() - self.ended(iteration)):
                yield (
                    f"the checkpoint after iteration {iteration} is incomplete: "
                    f"{describe(absent)} did not save"
                )
        if due and not saved and not self.all_ended(members) and not self.usable():
            yield "no checkpoint was saved: the node program yields no Checkpoint"

    def read(self, iteration: int, verify: bool = False) -> dict[str, Any] | None:
        """What ``set.json`` says if every node's file is whole; None otherwise.

        With ``verify`` each file is read, and has to be as it was written.
        """
        folder = self.folder(iteration)
        try:
            value = json.loads((folder / _MARK).read_text(encoding="utf-8"))
            fit = all(type(uid) is int for uid in value["uids"]) and are_epochs(value["left"])
            files = {uid: node_file(folder, uid) for uid in value["uids"]} if fit else {}
            whole = fit and all(map(is_whole, files.values()))
            if verify and whole:
                sums = value["crc32"]
                whole = all(crc32_of(path) == sums[str(uid)] for uid, path in files.items())
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return value if whole else None

    def usable(self, verify: bool = False) -> list[int]:
        """Iterations with a complete and valid set, ascending."""
        return [number for number in self._numbers() if self.read(number, verify) is not None]

    def _numbers(self) -> list[int]:
        if not self.root.is_dir():
            return []
        return sorted(int(path.name) for path in self.root.iterdir() if path.name.isdecimal())


def crc32_of(path: Path) -> int:
    """CRC-32 of a file's content."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def is_whole(path: Path) -> bool:
    """Whether a safetensors file is there from its first byte to its last."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < size else {}
        ends = [value["data_offsets"][1] for key, value in header.items() if key[:2] != "__"]
        return bool(ends) and size == 8 + length + max(ends)
    except (
        OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError,
        OverflowError,
    ):  # fmt: skip
        return False
