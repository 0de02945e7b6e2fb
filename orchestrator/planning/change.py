"""What makes one experiment of a series differ from the JSON and the INI that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True)
class Change:
    """Keys of the JSON (``values``), keys ``SECTION.key`` of the INI (``ini``), and keys of the INI
    that are left out (``without``)."""

    values: Mapping[str, Any] = field(default_factory=dict)
    ini: Mapping[str, Any] = field(default_factory=dict)
    without: frozenset[str] = frozenset()


NO_CHANGE: Final = Change()
