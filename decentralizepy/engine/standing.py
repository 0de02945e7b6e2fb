"""Where in a user's file a suspended program stands, for errors that it did not raise itself."""

from __future__ import annotations

import linecache
from types import GeneratorType
from typing import Any

from decentralizepy.node.effects import Send


def standing(program: object, effect: Any = None) -> str:
    """File, line and text of the yield at which a program waits; empty if it has ended.

    That of the generator that a `Send` takes its messages from, if there is one that goes on.
    """
    sending = _place(effect.outgoing) if isinstance(effect, Send) else ""
    return sending or _place(program)


def _place(program: object) -> str:
    while isinstance(program, GeneratorType) and isinstance(program.gi_yieldfrom, GeneratorType):
        program = program.gi_yieldfrom
    frame = program.gi_frame if isinstance(program, GeneratorType) else None
    if frame is None:
        return ""
    file, line = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(file, line).strip()
    return f"{file}, line {line}{f': {text:.100}' if text else ''}"
