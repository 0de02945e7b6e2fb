"""Tables of a run: the wide CSV people open, tidy CSV and Parquet for further work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from decentralizepy.runfolder import RECORD_COLUMNS
from results.curves import BYTES, SECONDS
from results.files import replacing
from results.load import TIDY_COLUMNS, Run, tidy

#: Version of the tidy schema, in the metadata of every Parquet file.
SCHEMA_VERSION: Final = 1
#: metric -> its name in the wide table, where it keeps the reference system's
WIDE_METRICS: Final[dict[str, str]] = {
    "train_loss": "train_loss",
    "test_loss": "test_loss",
    "test_acc": "test_acc",
    "validation_loss": "validation_loss",
    "validation_acc": "validation_acc",
    "total_bytes": "total_bytes",
    "total_meta": "total_meta",
    "total_data": "total_data_per_n",
    "consensus_distance": "consensus_distance",
    "local_steps": "local_steps",
    "samples": "samples",
}
#: Statistics over the nodes, in the wide table's order; std has ddof = 1.
WIDE_STATISTICS: Final = ("mean", "std", "sum", "min", "max", "percentile_50", "percentile_95")


def wide(run: Run) -> pd.DataFrame:
    """One row per evaluated iteration of a run.

    Columns: iteration; ``<metric> <statistic>`` for the metrics of `WIDE_METRICS` that were
    recorded and the `WIDE_STATISTICS` over the nodes; experience_name; number_agents; then the
    run's attributes.
    """
    statistics = run.over_nodes
    table = pd.DataFrame({"iteration": statistics.index})
    for metric, name in WIDE_METRICS.items():
        if metric in statistics:
            for statistic in WIDE_STATISTICS:
                table[f"{name} {statistic}"] = statistics[metric, statistic].to_numpy()
    constants = {"experience_name": run.experiment, "number_agents": run.nodes, **run.attributes}
    return table.assign(**{key: v for key, v in constants.items() if key not in table.columns})


def time_to_accuracy(runs: Sequence[Run], targets: Sequence[float]) -> pd.DataFrame:
    """When each run first had a mean test accuracy, over its nodes, of at least each target.

    One row per run and target. Columns: run; target (per cent); seconds since the first training
    step until the last node had done the iteration (simulated ones in a simulated run); iteration;
    bytes_per_node, the mean over the nodes of what they had sent; simulated. A target that was
    never reached, or a column that was not recorded, is NaN.
    """
    rows = [_reached(run, target) for run in runs for target in targets]
    return pd.DataFrame(rows, columns=["run", "target", SECONDS, "iteration", BYTES, "simulated"])


def _reached(run: Run, target: float) -> dict[str, object]:
    row: dict[str, object] = {"run": run.name, "target": target, "simulated": run.simulated}
    statistics = run.over_nodes
    if "test_acc" not in statistics:
        return row
    good = statistics[statistics["test_acc", "mean"] >= target]
    if good.empty:
        return row
    first = good.iloc[0]
    row["iteration"] = good.index[0]
    for name, column in ((SECONDS, ("elapsed_s", "max")), (BYTES, ("total_bytes", "mean"))):
        if column in statistics:
            row[name] = first[column]
    return row


def write_wide(run: Run, path: Path) -> Path:
    """Write the wide table of a run as CSV."""
    return write_csv(wide(run), path)


def write_tidy(runs: Sequence[Run], folder: Path, name: str) -> list[Path]:
    """Write the tidy frame of some runs as ``<name>_tidy.parquet`` and ``<name>_tidy.csv``."""
    frame = tidy(runs)
    parquet = write_parquet(frame, _metadata(runs), folder / f"{name}_tidy.parquet")
    return [parquet, write_csv(frame, folder / f"{name}_tidy.csv")]


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """Write a frame as CSV, numbers in full precision."""
    with replacing(path) as aside:
        frame.to_csv(aside, index=False, lineterminator="\n")
    return path


def write_parquet(frame: pd.DataFrame, metadata: dict[str, str], path: Path) -> Path:
    """Write a frame as Parquet with ``metadata`` beside what pandas adds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    with replacing(path) as aside:
        pq.write_table(table, aside, compression="zstd")
    return path


def _metadata(runs: Sequence[Run]) -> dict[str, str]:
    about = {
        run.name: {
            "experiment": run.experiment,
            "attributes": run.attributes,
            "provenance": run.provenance,
        }
        for run in runs
    }
    return {
        "schema_version": str(SCHEMA_VERSION),
        "columns": json.dumps(TIDY_COLUMNS),
        "metrics": json.dumps(RECORD_COLUMNS),
        "runs": json.dumps(about),
    }
