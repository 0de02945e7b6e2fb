"""``python -m results figure KIND RUN...``: one figure, with its data beside it."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from results.load import Run

#: kind -> its module, which has ABOUT, add_arguments and draw
KINDS: Final = {
    "privacy": "trade_off",
    "attack": "attack_success",
    "roc": "roc",
    "losses": "loss_distribution",
    "multiples": "small_multiples",
    "target": "to_target",
    "topology": "node_map",
    "labels": "label_histogram",
    "phases": "phases",
    "staleness": "staleness",
    "heatmap": "heat_map",
}
_EPILOG: Final = """\
examples:
  python -m results figure privacy runs/zerosum_* runs/muffliato_* --output paper
  python -m results figure attack runs/zerosum_* --metric tpr_at_fpr0.01 --output paper
  python -m results figure roc runs/zerosum --node 3
"""


def module(kind: str) -> ModuleType:
    """The module of a kind of figure."""
    return importlib.import_module(f"results.figures.{KINDS[kind]}")


def parser() -> argparse.ArgumentParser:
    """The command's parser, with a subcommand for each kind of figure."""
    found = argparse.ArgumentParser(
        prog="python -m results figure", epilog=_EPILOG,
        description="Draw one figure of one or several runs; its data go beside it as CSV.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    kinds = found.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind in KINDS:
        about = module(kind).ABOUT
        one = kinds.add_parser(kind, help=about, description=about)
        one.add_argument("run_folder", nargs="+", type=Path, help="folder of a run")
        add_common(one)
        module(kind).add_arguments(one)
    return found


def add_common(parser: argparse.ArgumentParser) -> None:
    """Flags of every figure."""
    from results.cli import FORMATS, WIDTHS

    add = parser.add_argument
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="where it goes (RUN/figures of the first)",
    )
    add("--name", help="its file name, without an ending (the kind)")
    add("--width", choices=WIDTHS, default=WIDTHS[0], help="one column (3.33 in) or two (6.9 in)")
    add("--format", nargs="+", choices=FORMATS, default=["pdf"], help="kinds of files (pdf)")


def drawable(kind: str, runs: Sequence[Run]) -> bool:
    """Whether runs have what a kind shows without flags of its own."""
    try:
        args = parser().parse_args([kind, *(str(run.folder) for run in runs)])
        module(kind).draw(runs, args)
    except (ValueError, OSError):
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """Run the command; ValueError where there is nothing to draw."""
    from results.load import load_runs
    from results.plots import save

    args = parser().parse_args(argv)
    made = module(args.kind).draw(load_runs(args.run_folder), args)
    folder = args.output or args.run_folder[0] / "figures"
    for path in save(made, folder / (args.name or args.kind), args.format):
        print(path)
    return 0
