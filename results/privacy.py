"""What attacks found out about runs: their tables, read back and joined with the runs' own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from results.load import Run
from results.spread import RunWarning

#: attack -> its columns that are metrics of a node and iteration
METRICS: Final[dict[str, tuple[str, ...]]] = {
    "threshold": ("roc_auc", "roc_auc_balanced", "roc_auc_within", "tpr_at_fpr0.001",
                  "tpr_at_fpr0.01", "generalization_gap"),
    "biasedthreshold": ("top1_acc", "top100_acc", "top500_acc"),
    "linkability": ("linkability_top1", "linkability_top5", "linkability_real_rank"),
    "lira": ("roc_auc", "tpr_at_fpr0.001", "tpr_at_fpr0.01"),
    "attribute": ("attribute_auc", "attribute_top", "attribute_correlation"),
    "reconstruction": ("reconstruction_error", "reconstruction_snr_db"),
    "colluders": ("roc_auc",),
    "classifier": ("roc_auc", "tpr_at_fpr0.001", "tpr_at_fpr0.01"),
}  # fmt: skip
#: the reference system measures noise by it: its level "16th" is a 16th of it
FULL_NOISE: Final = 0.225
_KEYS: Final = frozenset({"agent", "target", "iteration"})
_STATISTICS: Final = ("mean", "std", "sum", "min", "max", "percentile_50", "percentile_95")


def attack_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables that attacks have left in a run folder, by attack.

    Ours lie in ``attacks/``, the reference system's in the folder itself. Warns of files that
    cannot be read or are no such tables, and leaves them out.
    """
    found: dict[str, pd.DataFrame] = {}
    for attack in METRICS:
        for path in (*folder.glob(f"attacks/{attack}_*.csv"), *folder.glob(f"{attack}_*.csv")):
            frame = _read(path, attack)
            if frame is not None:
                found.setdefault(attack, frame)
    return found


def _read(path: Path, attack: str) -> pd.DataFrame | None:
    """None for what is no table of an attack: of numbers, with its columns."""
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        _left_out(path, str(error))
        return None
    metrics = [name for name in METRICS[attack] if name in frame]
    if "agent" not in frame or not metrics:
        _left_out(path, f"no columns agent and {METRICS[attack][0]}")
        return None
    keys = [name for name in ("agent", "target", "iteration", *metrics) if name in frame]
    numbers = frame[keys].apply(pd.to_numeric, errors="coerce")
    whole = numbers[[key for key in keys if key not in metrics]].notna().all(axis=1)
    if not whole.all():
        _left_out(path, f"{int((~whole).sum())} cut or damaged row(s)")
    return frame.assign(**numbers)[whole].astype(dict.fromkeys(_KEYS & set(keys), int))


def _left_out(path: Path, why: str) -> None:
    warnings.warn(f"{path}: {why}; left out", RunWarning, stacklevel=4)


def by_iteration(run: Run) -> pd.DataFrame:
    """Statistics of the attacks over the nodes, by iteration; empty without any.

    Columns ``<metric> <statistic>`` under the reference system's names, with ``50auc-distance``
    (|AUC - 1/2|) for each AUC of the threshold; metrics of other attacks have the attack's name
    before theirs where the threshold has them too.
    """
    parts = [_of_attack(attack, frame) for attack, frame in attack_tables(run.folder).items()
             if "iteration" in frame]  # fmt: skip
    return pd.concat(parts, axis=1).sort_index() if parts else pd.DataFrame()


def _of_attack(attack: str, frame: pd.DataFrame) -> pd.DataFrame:
    metrics = [name for name in METRICS[attack] if name in frame]
    frame = frame[["iteration", *metrics]].copy()
    if attack == "threshold":
        for name in ("roc_auc", "roc_auc_balanced"):
            if name in frame:
                frame[name.replace("roc_auc", "50auc-distance")] = (frame[name] - 0.5).abs()
    elif attack in ("lira", "colluders"):
        frame = frame.rename(columns={name: f"{attack}_{name}" for name in metrics})
    grouped = frame.groupby("iteration")
    columns = {
        f"{name} {statistic}": _statistic(grouped[name], statistic)
        for name in frame.columns.drop("iteration")
        for statistic in _STATISTICS
    }
    return pd.DataFrame(columns)


def _statistic(grouped: Any, statistic: str) -> pd.Series:
    if statistic == "sum":  # of nothing but NaN it is NaN, not 0
        return pd.Series(grouped.sum(min_count=1))
    if statistic.startswith("percentile_"):
        return pd.Series(grouped.quantile(float(statistic.split("_")[1]) / 100))
    return pd.Series(getattr(grouped, statistic)())


def noise(attributes: Mapping[str, Any]) -> dict[str, float]:
    """``noise_level_value`` (the standard deviation) and ``log_noise`` of a run with noise.

    The latter is that of the reference system: 7 for its full noise, 0 for a 128th of it.
    """
    found = attributes.get("noise_std")
    if not isinstance(found, int | float) or isinstance(found, bool) or not found > 0:
        return {}
    return {"noise_level_value": float(found), "log_noise": 7 + math.log2(found / FULL_NOISE)}


def points(runs: Sequence[Run], risk: str, utility: str) -> pd.DataFrame:
    """One row per run that was attacked: what an attacker gets, and what the model is good for.

    Columns: run; variant (what it is but for noise and seed); noise; risk, the mean over nodes and
    iterations of ``risk`` (``<attack>.<metric>`` or a metric of the threshold); utility, the best
    mean over the nodes of ``utility`` during the run (the lowest for a loss).
    """
    rows = list(_points(runs, risk, utility))
    return pd.DataFrame(rows, columns=["run", "variant", "noise", "risk", "utility"])


def _points(runs: Sequence[Run], risk: str, utility: str) -> Iterator[dict[str, Any]]:
    attack, _, metric = risk.rpartition(".")
    differing = _differing(runs)
    for run in runs:
        frame = attack_tables(run.folder).get(attack or "threshold")
        if frame is None or metric not in frame or utility not in run.over_nodes:
            continue
        means = run.over_nodes[utility, "mean"].dropna()
        best = means.min() if utility.endswith("loss") else means.max()
        level = noise(run.attributes).get("noise_level_value", 0.0)
        variant = ", ".join(_said(key, run.attributes.get(key)) for key in differing) or "runs"
        yield {
            "run": run.name, "variant": variant, "noise": level,
            "risk": float(np.nanmean(frame[metric])), "utility": float(best),
        }  # fmt: skip


def _said(key: str, value: Any) -> str:
    return value if isinstance(value, str) else f"{key} = {value}"


#: attributes that do not make another variant: noise, chance, and what is the same elsewhere
_NO_VARIANT: Final = ("noise_std", "random_seed", "sharing_seed", "save_models_for_attacks")


def _differing(runs: Sequence[Run]) -> list[str]:
    keys = dict.fromkeys(key for run in runs for key in run.attributes)
    differing = [
        key
        for key in keys
        if key not in _NO_VARIANT
        and not key.endswith("_file")
        and len({run.attributes.get(key) for run in runs}) > 1
    ]
    return [key for key in differing if key == "sharing_class"] or differing[:3]
