"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# a busy machine may take any time for an example
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
