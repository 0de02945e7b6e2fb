"""``python -m decentralizepy``, and the command of that name."""

from __future__ import annotations

import sys


def main() -> None:
    """Hand over to `decentralizepy.cli`, which takes a moment to load."""
    try:
        from decentralizepy.cli import main as command
    except KeyboardInterrupt:
        print("decentralizepy: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    command()


if __name__ == "__main__":
    main()
