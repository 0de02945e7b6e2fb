"""What holds for all tests."""

import gc

from hypothesis import HealthCheck, settings

# a busy machine may take any time for an example
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_finish() -> None:
    """Have no test's garbage looked for among a million objects of libraries."""
    gc.freeze()
