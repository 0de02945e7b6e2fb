"""What stands in the files: a README beside the tables and one beside the figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from decentralizepy.files import replacing
from results.curves import CURVE_COLUMNS
from results.tidy import TIDY_COLUMNS

_FIGURES: Final = """\
# Figures

Each figure has its data beside it, in a CSV of the same name: one row per line of the figure and
evaluation, with these columns (only those that apply are there):

{columns}

A figure of one run shows the mean over its nodes, the band of nine nodes in ten (5 to 95 %) and,
as thin lines, the lowest and the highest node. In a comparison, runs that differ by their seed
only are one line, the mean over the seeds, with the 95 % confidence interval of that mean as band.
Servers (uid -1, -2, ...) are no nodes and count only in metrics that no node has. Values that are
not finite are left out of means. Whether an axis is logarithmic is chosen for each metric from all
of its curves; `--log` chooses otherwise.
"""
_TABLES: Final = """\
# Tables

`<experiment>.csv`: a row per evaluation. `iteration`; for every metric `<metric> mean`, `std` (of
a sample), `sum`, `min`, `max`, `percentile_50` and `percentile_95` over the nodes, those of the
reference system first and under its names; where machines were sampled, `cpu_s`,
`sent_bytes`, `received_bytes` and, where power was measured, `energy_j` of all machines since the
first training step, and `memory_bytes`, the most since the row before; `experience_name`,
`number_agents`; then the run's settings.

`<name>_tidy.parquet` and, up to a million rows or with `--tidy-csv`, `<name>_tidy.csv`: a row per
node, iteration and metric.

{columns}

`<name>_time_to_accuracy.csv`, with `--targets`: a row per run and target: `seconds`, `iteration`
and `bytes_per_node` when the mean of `metric` (`test_acc`, in per cent, unless the target names
another) first was as good (empty if it never was); `energy_j` of all nodes where it was recorded;
`simulated` for simulated seconds.

`comparison_runs.csv`: a row per run: its setting as in the legends, `outcome` and `error`, nodes,
evaluations and the last `iteration`; `<metric> mean` and `std` over the nodes at the end;
`bytes_per_node`, `bytes` and `wire_bytes` of all nodes, `seconds`; then the run's settings.

`comparison_settings.csv`: a row per setting, that is for runs that differ by their seed only: `n`,
their names and seeds, the last `iteration` that all share; for every metric, for `bytes_per_node`
and `seconds`: `mean`, `ci95_low`, `ci95_high` (Student's t; empty for one seed) and `n`, over the
seeds; with `--window 5` the same for `<metric> last5`, means over the last five evaluations;
with `--targets` the same for `seconds to 80`, `iteration to 80`, `bytes_per_node to 80` (and
`seconds to test_loss 0.5`, ...), over the `n` seeds that got there.

Metrics are the columns of the runs' records.
"""


def write_about(folder: Path) -> None:
    """Write ``README.md`` into the folders of tables and figures in ``folder``, if they exist."""
    for name, text, columns in (
        ("tables", _TABLES, TIDY_COLUMNS),
        ("figures", _FIGURES, CURVE_COLUMNS),
    ):
        if (folder / name).is_dir():
            with replacing(folder / name / "README.md") as aside:
                aside.write_text(text.format(columns=_listed(columns)), encoding="utf-8")


def _listed(columns: Mapping[str, str]) -> str:
    rows = "\n".join(f"| `{name}` | {what} |" for name, what in columns.items())
    return f"| column | what it is |\n| --- | --- |\n{rows}"
