"""``python -m results bundle RUN... --output X.tar.gz``: all that redraws a paper's figures."""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from results.bundle import Losses
    from results.load import Run

#: kinds of figures that need no more than the packed files and no flags
USUAL: Final = ("privacy", "attack", "topology", "labels", "phases", "staleness")
#: those of the losses of a node's samples, which are packed for the figures that are asked for
OF_LOSSES: Final = ("roc", "losses")
#: in the folder of a run whose models were run already
ATTACKED: Final = Path("attacks/losses.json")
_DESCRIPTION: Final = """\
Pack configuration, lock file, image digest, hosts, records, tables, figures, their data, and the
code that draws them. Unpacked, `python redraw.py` draws everything again and compares the bytes.
"""
_EPILOG: Final = """\
Packed are the curves of all metrics, the figures that need no flags (privacy, attack, topology,
labels, phases, staleness, and roc and losses of a run that was attacked; those that the runs have
data for), and those of --figure. Figures of one run show the first, or the one named with --run.
Models are not packed; of losses by sample, those are that roc and losses show.

examples:
  python -m results bundle runs/zerosum_* runs/muffliato_* --output paper.tar.gz
  python -m results bundle runs/* --output paper.tar.gz --targets 80 \\
      --figure "privacy --risk lira.roc_auc --name privacy_lira" --figure "target --target 80" \\
      --figure "roc --node 3 --run muffliato_1 --name roc_muffliato"
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
        commands = [*_commands(runs, args)]
        losses = _losses(runs, commands)
        names = write_bundle(runs, [c.words for c in commands], args.output, Path(aside), losses)
    figures = [name for name in names if name.endswith(".pdf")]
    print(f"{args.output}: {len(runs)} run(s), {len(figures)} figures, {len(names)} files")
    return 0


@dataclass(frozen=True)
class Command:
    """Words of a command as the bundle keeps it, and words that only hold where it is packed."""

    words: list[str]
    here: Sequence[str] = ()


def _commands(runs: Sequence[Run], args: argparse.Namespace) -> Iterator[Command]:
    whole = [*_places(runs), "--output", "{into}", "--width", args.width]
    for flag in ("targets", "labels"):
        if given := getattr(args, flag):
            whole += [f"--{flag}", *given]
    yield Command(whole)
    wanted = [shlex.split(text) for text in args.figure]
    for kind, *flags in [[kind] for kind in (*USUAL, *OF_LOSSES) if _drawn(kind, runs)] + wanted:
        where = ["--output", "{into}/figures", "--width", args.width]
        own, rest = _own_flags().parse_known_args(flags)
        here = [f"--cache-dir={own.cache_dir}"] if own.cache_dir else []
        here += [f"--set={change}" for change in own.set]
        words = ["figure", kind, *_places(_named(runs, own.run)), *where, *rest]
        yield Command(words, here)


def _places(runs: Sequence[Run]) -> list[str]:
    return [f"{{runs}}/{run.name}" for run in runs]


def _own_flags() -> argparse.ArgumentParser:
    """Flags of --figure that the packed command does without."""
    found = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    found.add_argument("--run")
    found.add_argument("--cache-dir")
    found.add_argument("--set", action="append", default=[])
    return found


def _named(runs: Sequence[Run], name: str | None) -> Sequence[Run]:
    chosen = [run for run in runs if name in (None, run.name)]
    if not chosen:
        names = ", ".join(run.name for run in runs)
        raise ValueError(f"--figure ... --run {name}: no such run; there are {names}")
    return chosen


def _drawn(kind: str, runs: Sequence[Run]) -> bool:
    """Whether the runs have what a kind of figure shows."""
    from results.figures.command import drawable

    if kind in OF_LOSSES and not (runs[0].folder / ATTACKED).is_file():
        return False  # to find out would be to run the models
    return drawable(kind, runs)


def _losses(runs: Sequence[Run], commands: Sequence[Command]) -> Losses:
    """What figures of losses show, by run."""
    from results.figures.command import module, parser
    from results.figures.kept_losses import kept_losses

    found: Losses = {}
    folders = {place: str(run.folder) for place, run in zip(_places(runs), runs, strict=True)}
    for command in commands:
        if command.words[:1] == ["figure"] and command.words[1] in OF_LOSSES:
            words = [folders.get(word, word) for word in (*command.words[1:], *command.here)]
            args = parser().parse_args(words)
            run = next(run for run in runs if run.folder == args.run_folder[0])
            if run.name not in found:
                found[run.name] = kept_losses(run, args.cache_dir, args.set), []
            shown = args.node, args.iterations, module(args.kind).MOST
            found[run.name][1].append(shown)
    return found
