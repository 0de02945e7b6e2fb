"""Run a decentralized learning experiment: ``python g5k_execution.py CONFIG.json``.

``--help`` explains the rest; ``orchestrator`` does the work.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
INSTALL = f"{sys.executable} -m pip install -e '{ROOT}[orchestrator,results,digits]'"


def main() -> int:
    """Hand over to the orchestrator, wherever this was called from."""
    sys.path.insert(0, str(ROOT))
    try:
        from orchestrator.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("interrupted; nothing was started", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if error.name not in {"pydantic", "jinja2", "rich", "numpy"}:
            raise
        print(
            f"{error.name} is not installed; install what is needed:\n  {INSTALL}", file=sys.stderr
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
