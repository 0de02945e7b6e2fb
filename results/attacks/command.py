"""``python -m results attack RUN...``: what the messages of a run tell about its nodes' samples."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import pandas as pd

from decentralizepy.errors import ConfigError
from decentralizepy.files import cache_home
from decentralizepy.jsonfile import read_object
from decentralizepy.runfolder import RunFolder
from results.csvfile import write_csv
from results.progress import shown_progress

FOLDER: Final = "attacks"
ATTACKS: Final = {
    "threshold": "loss threshold: AUC whole, balanced, per class; TPR at low FPR",
    "biasedthreshold": "members among the samples of lowest loss",
    "linkability": "whose model is it?",
    "lira": "likelihood ratio with the other nodes' models as shadows",
    "attribute": "which classes does a node have?",
    "reconstruction": "how near is a message to the node's own model?",
    "classifier": "a network on trajectories of losses (seconds a node)",
    "colluders": "several receivers pool what they got",
}
#: those that every run with saved models allows and that take no minutes
USUAL: Final = ("threshold", "biasedthreshold", "linkability", "lira")
#: those that need the losses of samples which neither the sender nor the test set has
OF_ALL: Final = frozenset(("linkability", "lira"))
_DESCRIPTION: Final = """\
What could an observer of the messages learn? Attacks the models that a run has kept with
save_models_for_attacks in [SHARING] of its INI, and writes one CSV per attack into RUN/attacks.
"""
_EPILOG: Final = (
    "attacks:\n"
    + "".join(f"  {name:16s} {what}\n" for name, what in ATTACKS.items())
    + """
The losses of all models on all samples are worked out once and kept in RUN/attacks/losses.npy.

examples:
  python -m results attack runs/zerosum
  python -m results attack runs/zerosum_* --attacks threshold classifier --information all last
  python -m results attack old/run --set DATASET.train_dir=/data/cifar --device cuda:0
"""
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    from results.attacks.names import INFORMATION, NON_MEMBERS

    add = parser.add_argument
    add("run_folder", nargs="+", type=Path, help="folder of a run with saved models")
    add(
        "--attacks",
        nargs="+",
        choices=ATTACKS,
        default=[*USUAL],
        metavar="NAME",
        help=f"which ones ({' '.join(USUAL)})",
    )
    add("--output", type=Path, metavar="DIR", help="where CSVs go, for one run (RUN/attacks)")
    add("--device", default="cpu", help="where models and classifiers run: cpu, cuda, cuda:1 (cpu)")
    add("--cache-dir", type=Path, metavar="DIR", help="where prepared data sets are kept")
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a key of the run's INI, as where the data lie now; may be repeated",
    )
    add("--seed", type=int, default=421, help="for balanced halves and classifiers (421)")
    add(
        "--information",
        nargs="+",
        choices=INFORMATION,
        default=["all"],
        help="classifier: which of the models the attacker uses (all)",
    )
    add(
        "--non-members",
        nargs="+",
        choices=NON_MEMBERS,
        default=["global"],
        help="classifier: who are the non-members (global)",
    )
    add("--epochs", type=int, default=300, help="classifier: epochs (300)")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    found = argparse.ArgumentParser(
        prog="python -m results attack", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_arguments(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Attack every run; those that cannot be are named. Returns the exit code."""
    from results.cli import EXIT_OK, EXIT_PARTIAL

    if args.output is not None and len(args.run_folder) > 1:
        raise ValueError("--output is for one run; several keep theirs in RUN/attacks each")
    failed = 0
    for folder in args.run_folder:
        try:
            attack_run(folder, args)
        except (ValueError, ConfigError) as error:
            if len(args.run_folder) == 1:
                raise ValueError(str(error)) from None
            print(f"error: {error}; left out", file=sys.stderr)
            failed += 1
    if failed == len(args.run_folder):
        raise ValueError("none of these runs could be attacked")
    return EXIT_PARTIAL if failed else EXIT_OK


def attack_run(folder: Path, args: argparse.Namespace) -> list[Path]:
    """Write the CSVs of one run; returns them."""
    output = args.output or folder / FOLDER
    frames = attacks(folder, args, output)
    experiment = str(read_object(RunFolder(folder).config).get("job_name") or folder.resolve().name)
    written = []
    for name, frame in frames.items():
        path = write_csv(frame, output / f"{name}_{experiment}.csv")
        written.append(path)
        print(f"  {name:16s} {_in_words(name, frame)}")
    print(f"  tables           {output}: {', '.join(path.name for path in written)}")
    return written


def attacks(folder: Path, args: argparse.Namespace, output: Path) -> dict[str, pd.DataFrame]:
    """The tables of the attacks that ``args`` ask for, by name."""
    from results.attacks import all_of_them as a

    saved = a.find(folder)
    seen = a.world(folder, args.cache_dir or cache_home(), args.set)
    victims = cache(lambda: seen.victims(args.device).losses)
    print(f"{folder}: {len(saved)} saved models of {len({one.agent for one in saved})} nodes")
    progress = shown_progress("models")
    members = None if _needs_all(args) else seen.truth.members
    table = a.loss_table(saved, seen.truth.samples, victims, output, progress, members)
    learning = a.Learning(epochs=args.epochs, seed=args.seed)
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "threshold": lambda: a.threshold(seen.truth, table, args.seed),
        "biasedthreshold": lambda: a.topk(seen.truth, table),
        "linkability": lambda: a.linkability(seen.truth, table),
        "lira": lambda: a.lira(seen.truth, table),
        "attribute": lambda: a.attribute(seen.truth, table),
        "reconstruction": lambda: a.reconstruction(folder),
        "classifier": lambda: a.classifier(
            seen.truth, table, args.information, args.non_members, learning, args.device,
            shown_progress("classifiers"),
        ),
        "colluders": lambda: a.colluders(seen.truth, saved, victims),
    }  # fmt: skip
    return {name: makers[name]() for name in dict.fromkeys(args.attacks)}


def _needs_all(args: argparse.Namespace) -> bool:
    others = "classifier" in args.attacks and "local_train" in args.non_members
    return others or not OF_ALL.isdisjoint(args.attacks)


#: what is told of an attack: its main column, and how
_TOLD: Final = {
    "threshold": ("roc_auc", "AUC"),
    "biasedthreshold": ("top100_acc", "members among the first 100"),
    "linkability": ("linkability_top1", "linked"), "lira": ("roc_auc", "AUC"),
    "attribute": ("attribute_auc", "AUC of a node's classes"),
    "reconstruction": ("reconstruction_error", "relative distance"),
    "classifier": ("roc_auc", "AUC"), "colluders": ("roc_auc", "AUC"),
}  # fmt: skip


def _in_words(name: str, frame: pd.DataFrame) -> str:
    column, what = _TOLD[name]
    if frame.empty or frame[column].isna().all():
        return "nothing to tell: see the table"
    if "iteration" in frame:
        frame = frame[frame["iteration"] == frame["iteration"].max()]
    values = frame[column].dropna()
    if name == "linkability":  # yes or no of each model
        return f"{what}{_when(frame)}: {100 * values.mean():.1f} % of {len(values)} models"
    return f"{what}{_when(frame)}: mean {values.mean():.4f}, highest {values.max():.4f}"


def _when(frame: pd.DataFrame) -> str:
    return f" in iteration {frame['iteration'].iloc[0]}" if "iteration" in frame else ""


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    return run(parser().parse_args(argv))
