"""INI files in the one dialect of this project, that of the reference system.

No interpolation, no default section; ``;`` and ``#`` start a comment also behind a value; keys are
in lower case.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from decentralizepy.errors import ConfigError

COMMENTS: Final = (";", "#")

#: section -> key -> value, as text
Sections = dict[str, dict[str, str]]


def parse_ini(text: str, path: Path, comments: Sequence[str] = COMMENTS) -> Sections:
    """The sections of an INI text, in its order; raises `ConfigError`, which names ``path``.

    ``comments`` start one behind a value; without them, values are as they stand in the text.
    """
    parser = configparser.ConfigParser(
        interpolation=None, inline_comment_prefixes=tuple(comments), default_section="\0"
    )
    try:
        parser.read_string(text, source=str(path))
    except configparser.Error as error:
        said = " ".join(error.message.split())
        raise ConfigError(f"{path} is not a valid INI file: {said:.300}") from None
    return {name: dict(parser[name]) for name in parser.sections()}


def without_port(text: str) -> str:
    """An INI text without its first port: where a run listens may change when it is resumed."""
    return re.sub(r"^offset[ \t]*[=:].*\n?", "", text, flags=re.MULTILINE | re.IGNORECASE)
