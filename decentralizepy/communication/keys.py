"""The key that the machines of a run share: a file that only its owner can read.

It holds 32 random bytes as base64, on one line. Nothing else ever holds them: no flag, no record,
no log, no command line.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from decentralizepy.errors import ConfigError

KEY_NAME: Final = "run.key"
KEY_BYTES: Final = 32
_MAX_FILE: Final = 1024


def make_key(folder: Path) -> Path:
    """Write a new key into ``folder``; raises `ConfigError`, also if there is one already."""
    path = folder / KEY_NAME
    text = base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}") from None
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists already: use it, or delete it first if no run needs it any more"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    with os.fdopen(handle, "wb") as out:
        os.fchmod(handle, 0o600)
        out.write(text)
        out.flush()
        os.fsync(handle)
    return path


def load_key(path: Path) -> bytes:
    """The 32 bytes of a key file; raises `ConfigError` unless it is one that others can't read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe must not hang us
    except OSError as error:
        raise ConfigError(
            f"cannot read the run key {path}: {error.strerror}; "
            "'decentralizepy keys DIR' makes one, which all machines of the run need"
        ) from None
    try:
        _check_file(path, os.fstat(handle))
        text = os.read(handle, _MAX_FILE + 1)
    finally:
        os.close(handle)
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(text) > _MAX_FILE or len(key) != KEY_BYTES:
        raise ConfigError(
            f"{path} is not a run key: one line of base64 for {KEY_BYTES} bytes is "
            "expected; copy it again, or make a new one with 'decentralizepy keys DIR'"
        )
    return key


def _check_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"the run key {path} is not a regular file")
    if found.st_mode & 0o077:
        raise ConfigError(
            f"the run key {path} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}): "
            f"chmod 600 {path}"
        )


def find_key(log_dir: Path, named: Path | None) -> Path | None:
    """Where the key is: in the log folder, else in the folder above, else the one named."""
    for folder in (log_dir, log_dir.absolute().parent):
        path = folder / KEY_NAME
        if path.exists() or path.is_symlink():
            return path
    return named


def only_loopback(addresses: Sequence[str]) -> bool:
    """Whether no packet of a run can leave this computer."""
    return all(_is_loopback(address) for address in addresses)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
