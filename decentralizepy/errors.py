"""The errors a user can cause, each with the exit code of the command that meets it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_RUN_FAILED = 5
EXIT_INTERRUPTED = 130


class ConfigError(ValueError):
    """Bad input: the text names the file, the key and the remedy (exit code 2)."""


def naming(error: ConfigError, path: object) -> ConfigError:
    """The same error with the name of the file that it is about, if it does not have it."""
    return error if str(path) in str(error) else ConfigError(f"{path}: {error}")


class RunError(RuntimeError):
    """A run that started and could not end well: names machine, node and round (exit code 5)."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the closest known name, or an empty string."""
    found = nearest_name(word, known)
    return f" (did you mean '{found}'?)" if found else ""


def nearest_name(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The closest known name, or None if none is at least ``cutoff`` (0 to 1) alike."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None
