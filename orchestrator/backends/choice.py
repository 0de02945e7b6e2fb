"""Which back-end a configuration asks for; each is loaded only then."""

from __future__ import annotations

from importlib.util import find_spec

from decentralizepy.errors import ConfigError
from orchestrator.backends.base import Backend
from orchestrator.config import Config


def backend_for(config: Config, path: object) -> Backend:
    """The place that BACKEND or ``cluster`` names; raises `ConfigError`."""
    if config.backend == "local":
        from orchestrator.backends.local import LocalBackend

        return LocalBackend()
    if config.backend == "ssh":
        from orchestrator.backends.ssh import SshBackend

        return SshBackend()
    if config.backend == "slurm":
        from orchestrator.backends.slurm import SlurmBackend

        return SlurmBackend()
    if find_spec("enoslib") is None:
        why = "" if config.BACKEND else f" (because cluster = {config.cluster!r})"
        raise ConfigError(
            f"{path}: BACKEND {config.backend!r}{why} needs EnOSlib: pip install -e '.[grid5000]'; "
            'to run on this computer, set "BACKEND": "local"'
        )
    from orchestrator.backends.grid5000 import Grid5000Backend

    return Grid5000Backend()
