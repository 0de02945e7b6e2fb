"""``python -m results report RUN...`` and ``watch RUN``: one page, after a run or during it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from decentralizepy.files import replacing

if TYPE_CHECKING:
    from results.load import Run

NAME: Final = "report.html"


def main(argv: Sequence[str]) -> int:
    """Write the report of one run, or of a comparison."""
    from results.load import load_runs

    args = _parser().parse_args(argv)
    if len(args.run_folder) > 1 and args.output is None:
        raise ValueError("several run folders: say where the report goes with --output FILE.html")
    path = args.output or args.run_folder[0] / NAME
    write_page(load_runs(args.run_folder), path)
    print(path)
    return 0


def write_page(runs: Sequence[Run], path: Path, refresh: int = 0, now: str = "") -> None:
    """Write the page of `results.report.page.page` aside and rename it."""
    from results.report.page import page

    text = page(runs, refresh, now)
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m results report",
        description="One HTML page with all in it: outcome, plan against reality, curves, "
        "topology, slowest nodes, versions, configuration, and how to repeat it.",
    )
    parser.add_argument("run_folder", nargs="+", type=Path, help="folder of a run")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"the page (RUN/{NAME})")
    return parser
