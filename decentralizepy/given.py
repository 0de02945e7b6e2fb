"""What a method gives that may be a user's, checked where it is called."""

from __future__ import annotations

from decentralizepy.errors import ConfigError
from decentralizepy.messages.meta import shown


def check_is(kind: type, given: object, by: object, method: str, example: str) -> None:
    """Raise `ConfigError` unless a ``method`` of ``by``, which may be a user's, gave a ``kind``.

    ``example`` shows how one is written.
    """
    if not isinstance(given, kind):
        raise ConfigError(
            f"{type(by).__name__}.{method} gives {shown(given)}: a {kind.__name__} is expected, "
            f"as {example}"
        )
