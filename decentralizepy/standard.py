"""Standard input, output and errors that whoever started us has closed."""

from __future__ import annotations

import os
import sys


def open_closed() -> None:
    """Open what is closed of them, to nowhere; raises nothing.

    Otherwise the next file that we open would be our output, and get what we print; and Python has
    None in place of the stream.
    """
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
