"""Files that notebooks of the reference system read: its older tables, results and summaries.

Its core once wrote a privacy summary per node, and an accuracy on test samples with the node's own
label shares (``test_niid_acc``); both come from the attacks and the models that a run has kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from decentralizepy.files import replacing, write_json
from decentralizepy.jsonfile import read_object
from decentralizepy.runfolder import LEGACY_RESULTS, RunFolder
from results.csvfile import write_csv
from results.load import Run
from results.privacy import attack_tables
from results.reference_columns import settings_of
from results.spread import RunWarning

NIID: Final = "test_niid_acc"
#: where the attack took place, as the notebooks call it -> our column
PLACES: Final = {"PRE-STEP": "attacker_advantage", "PRE-STEP-niid": "attacker_advantage_niid"}
_AGGREGATED: Final = ("test_acc", "total_bytes", NIID)
_STATISTICS: Final = ("mean", "std", "sum", "min", "max")
_Z95: Final = 1.96
_SUMMARY_COLUMNS: Final = ("iteration", "slice feature", "slice value", "attack type",
                           "Attacker advantage", "AUC")  # fmt: skip


def node_values(run: Run, niid: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per node and evaluation: machine, rank, uid, iteration, the reference's metrics.

    ``niid`` has uid, iteration and `NIID`, for runs that did not record it.
    """
    metrics = [name for name in (*LEGACY_RESULTS, NIID) if name in run.records.column_names]
    frame = run.records.select(["machine", "uid", "iteration", *metrics]).to_pandas()
    frame = frame.rename(columns=LEGACY_RESULTS)
    if NIID not in frame and niid is not None:
        frame = frame.merge(niid, on=["uid", "iteration"], how="left")
    nodes = frame[["machine", "uid"]].drop_duplicates().sort_values("uid")
    nodes = nodes.assign(rank=nodes.groupby("machine").cumcount())
    return frame.merge(nodes, on=["machine", "uid"])


def formatted(run: Run, values: pd.DataFrame) -> pd.DataFrame:
    """The wide table of both older notebooks, by iteration.

    Statistics over the nodes that have all three of test_acc, total_bytes and test_niid_acc, mean
    advantages of the attacker, and mean -+ 1.96 std / sqrt(n) of the accuracies.
    """
    there = [name for name in _AGGREGATED if name in values]
    used = values[values["uid"] >= 0].dropna(subset=there)
    grouped = used.groupby("iteration")
    table = pd.DataFrame(index=grouped.size().index)
    table["experience_name"], table["number_agents"] = run.name, run.nodes
    for name in there:
        for statistic in _STATISTICS:
            table[f"{name} {statistic}"] = getattr(grouped[name], statistic)()
    threshold = attack_tables(run.folder).get("threshold")
    for place, column in PLACES.items():
        if threshold is not None and column in threshold:
            table[f"Attacker advantage mean {place}"] = threshold.groupby("iteration")[
                column
            ].mean()
    for name in [one for one in ("test_acc", NIID) if one in there]:
        half = _Z95 * table[f"{name} std"] / np.sqrt(run.nodes)
        table[f"{name} lower confidence"] = table[f"{name} mean"] - half
        table[f"{name} upper confidence"] = table[f"{name} mean"] + half
    return table.reset_index()


def legacy_name(run: Run) -> str:
    """A run's name with what the notebooks parse from it, as ``_static_zerosum_16th_1avgsteps``.

    They know noise by its share of 0.225, and nothing else of a name.
    """
    found = settings_of(run)
    variant, share = found.get("variant"), found["noise_level"]
    words = [
        found["network_size"], found["topology_type"], variant, found["avgsteps"],
        "" if share == variant else share, f"seed{found['seed']}" if "seed" in found else "",
    ]  # fmt: skip
    there = set(run.name.split("_"))
    return "_".join([run.name, *(word for word in words if word and word not in there)])


def write_legacy(run: Run, output: Path, niid: pd.DataFrame | None = None) -> list[Path]:
    """Write ``formatted_results/<name>.csv`` and ``my_results/<name>``; returns both.

    The name is `legacy_name`. The folder has ``machine<m>/<rank>_results.json``, the configuration,
    attack tables, and ``machine<m>/privacy/summary/<uid>/privacy-summary-<place>.json``.
    """
    values, name = node_values(run, niid), legacy_name(run)
    if NIID not in values:
        _warn(run, f"no {NIID}: keep models (save_models_for_attacks) whose targets are classes")
    table = write_csv(formatted(run, values), output / "formatted_results" / f"{name}.csv")
    root = RunFolder(output / "my_results" / name)
    for _, node in values.groupby(["machine", "rank"]):
        machine, rank = int(node["machine"].iloc[0]), int(node["rank"].iloc[0])
        write_json(root.machine(machine).results(rank), _series(node))
    _write_configuration(run, root)
    for attack, frame in attack_tables(run.folder).items():
        numbered = frame.drop(columns="Unnamed: 0", errors="ignore")
        numbered.insert(0, "", range(len(numbered)))  # the index that pandas writes
        write_csv(numbered, root.root / f"{attack}_{name}.csv")
    _write_summaries(run, root, dict(zip(values["uid"], values["machine"], strict=True)))
    return [table, root.root]


def _write_configuration(run: Run, root: RunFolder) -> None:
    """The notebooks ask the JSON for nodes and machines, which runs by hand lack."""
    sizes = {"NB_AGENTS": run.nodes, "NB_MACHINE": run.machines}
    write_json(root.config, sizes | read_object(RunFolder(run.folder).config) | sizes)
    if RunFolder(run.folder).ini.is_file():
        with replacing(root.ini) as aside:
            aside.write_bytes(RunFolder(run.folder).ini.read_bytes())


def _series(node: pd.DataFrame) -> dict[str, dict[str, float]]:
    metrics = [name for name in node if name not in ("machine", "rank", "uid", "iteration")]
    return {
        str(name): {
            str(iteration): value
            for iteration, value in zip(node["iteration"], node[name].tolist(), strict=True)
            if np.isfinite(value)
        }
        for name in metrics
    }


def _write_summaries(run: Run, root: RunFolder, machines: Mapping[int, int]) -> None:
    threshold = attack_tables(run.folder).get("threshold")
    if threshold is None or not set(PLACES.values()) <= set(threshold):
        _warn(run, "no privacy summaries: run `python -m results attack` on it first")
        return
    first = threshold.drop_duplicates(["agent", "iteration"])
    for _, node in first.groupby("agent"):
        uid = int(node["agent"].iloc[0])
        folder = root.machine(machines.get(uid, 0)).root / "privacy/summary" / str(uid)
        for place, column in PLACES.items():
            write_json(folder / f"privacy-summary-{place}.json", _summary(node, column))


def _summary(node: pd.DataFrame, column: str) -> dict[str, dict[str, Any]]:
    """Columns, each with its values by row."""
    rows = [
        (int(iteration), "Entire dataset", "", "THRESHOLD_ATTACK", advantage, auc)
        for iteration, advantage, auc in zip(
            node["iteration"], node[column].tolist(), node["roc_auc"].tolist(), strict=True
        )
    ]
    return {
        name: {str(i): row[place] for i, row in enumerate(rows)}
        for place, name in enumerate(_SUMMARY_COLUMNS)
    }


def _warn(run: Run, message: str) -> None:
    warnings.warn(f"{run.name}: {message}", RunWarning, stacklevel=3)
