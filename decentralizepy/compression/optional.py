"""Libraries that only some parts need: imported when such a part is made."""

from __future__ import annotations

import importlib
from typing import Any


def library(module: str, part: str) -> Any:
    """The module; raises ValueError with the remedy if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{part} needs the library {module.split('.')[0]}, which is not installed: "
            f"pip install 'decentralizepy[compression]' ({error})"
        ) from None
