"""Shared by the tests of sharing methods."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("engine", "transport"):  # launching, teams, proxies, the ends of a wire
    sys.path.append(str(Path(__file__).parents[1] / folder))
