"""``python -m results compare RUN...``: is the difference between settings more than chance?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from results.settings import Setting

_DESCRIPTION: Final = """\
Compare settings with a test of significance. Runs that differ only in their random_seed are one
setting. The first one is the baseline of all others, unless --baseline names another.
"""
_EPILOG: Final = """\
tests:
  several seeds, shared    paired t and Wilcoxon on the differences of equal seeds
  several seeds, others    Welch's t
  one run each             over the nodes, in pairs: about these two runs only
p_holm corrects for the number of settings and metrics.

examples:
  python -m results compare runs/dpsgd_seed* runs/zerosum_seed*
  python -m results compare runs/a runs/b --metrics test_acc test_loss threshold.roc_auc
  python -m results compare runs/* --baseline "Sharing" --output paper/compared.csv
"""


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    found = argparse.ArgumentParser(
        prog="python -m results compare", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = found.add_argument
    add("run_folder", nargs="+", type=Path, help="folder of a run")
    add(
        "--metrics",
        nargs="+",
        default=[],
        metavar="METRIC",
        help="columns of the records, or ATTACK.COLUMN (what the test set was measured by)",
    )
    add("--baseline", metavar="LABEL", help="the setting to compare with (the first)")
    add("--labels", nargs="+", default=[], metavar="TEXT", help="what settings are called")
    add("--output", type=Path, metavar="FILE", help="write the table as CSV")
    return found


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    from results.compare import compare, in_words
    from results.csvfile import write_csv
    from results.load import load_runs
    from results.settings import settings

    args = parser().parse_args(argv)
    compared = settings(load_runs(args.run_folder), args.labels)
    table = compare(compared, args.metrics, _baseline(compared, args.baseline))
    print("\n".join(in_words(table)))
    if args.output is not None:
        print(write_csv(table, args.output))
    return 0


def _baseline(compared: Sequence[Setting], wanted: str | None) -> int:
    labels = [setting.label for setting in compared]
    if wanted is None:
        return 0
    if wanted not in labels:
        raise ValueError(f"--baseline {wanted}: the settings are {', '.join(map(repr, labels))}")
    return labels.index(wanted)
