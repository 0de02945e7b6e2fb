"""``python -m results bundle RUN... --output X.tar.gz``: all that redraws a paper's figures."""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from results.load import Run

#: kinds of figures that need no more than the packed files and no flags
USUAL: Final = ("privacy", "attack", "topology", "labels", "phases", "staleness")
#: those that need the models, or the data
_NEED_MODELS: Final = ("roc", "losses")
_DESCRIPTION: Final = """\
Pack configuration, lock file, image digest, hosts, records, tables, figures, their data, and the
code that draws them. Unpacked, `python redraw.py` draws everything again and compares the bytes.
"""
_EPILOG: Final = """\
Packed are the curves of all metrics, the figures that need no flags (privacy, attack, topology,
labels, phases, staleness; those that the runs have data for), and those of --figure. roc and losses
need the models, which are not packed.

examples:
  python -m results bundle runs/zerosum_* runs/muffliato_* --output paper.tar.gz
  python -m results bundle runs/* --output paper.tar.gz --targets 80 \\
      --figure "privacy --risk lira.roc_auc --name privacy_lira" --figure "target --target 80"
"""


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    found = argparse.ArgumentParser(
        prog="python -m results bundle", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = found.add_argument
    add("run_folder", nargs="+", type=Path, help="folder of a run")
    add("--output", type=Path, required=True, metavar="FILE", help="the archive, X.tar.gz")
    add(
        "--figure", action="append", default=[], metavar='"KIND FLAGS"',
        help="one more figure, as behind `python -m results figure`; may be repeated",
    )  # fmt: skip
    add("--targets", nargs="+", default=[], metavar="TARGET", help="as of `python -m results`")
    add("--labels", nargs="+", default=[], metavar="TEXT", help="what settings are called")
    add("--width", choices=("single", "double"), default="single", help="of all figures (single)")
    return found


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    from results.bundle import write_bundle
    from results.load import load_runs

    args = parser().parse_args(argv)
    if not args.output.name.endswith((".tar.gz", ".tgz")):
        raise ValueError(f"--output {args.output}: an archive's name, X.tar.gz")
    runs = load_runs(args.run_folder)
    with tempfile.TemporaryDirectory() as aside:
        names = write_bundle(runs, [*_commands(runs, args)], args.output, Path(aside))
    figures = [name for name in names if name.endswith(".pdf")]
    print(f"{args.output}: {len(runs)} run(s), {len(figures)} figures, {len(names)} files")
    return 0


def _commands(runs: Sequence[Run], args: argparse.Namespace) -> Iterator[list[str]]:
    folders = [f"{{runs}}/{run.name}" for run in runs]
    whole = [*folders, "--output", "{into}", "--width", args.width]
    for flag in ("targets", "labels"):
        if given := getattr(args, flag):
            whole += [f"--{flag}", *given]
    yield whole
    wanted = [shlex.split(text) for text in args.figure]
    for kind, *flags in [[kind] for kind in USUAL if _drawn(kind, runs)] + wanted:
        if kind in _NEED_MODELS:
            raise ValueError(f"--figure {kind}: it needs the models, which no bundle has")
        where = ["--output", "{into}/figures", "--width", args.width]
        yield ["figure", kind, *folders, *where, *flags]


def _drawn(kind: str, runs: Sequence[Run]) -> bool:
    """Whether the runs have what a kind of figure shows."""
    from results.figures.command import drawable

    return drawable(kind, runs)
