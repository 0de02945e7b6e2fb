"""Shared by the tests of node programs: one cache of prepared data for all."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that all runs of the session share."""
    return tmp_path_factory.mktemp("cache")
