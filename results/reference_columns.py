"""Columns under which the reference system's notebooks look for a run's settings and attacks."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from results.load import Run
from results.privacy import FULL_NOISE, noise

VARIANTS: Final = {"ZeroSumSharing": "zerosum", "Muffliato": "muffliato", "Sharing": "nonoise"}
#: theirs -> ours, of the same value
_SAME: Final = {"local_rounds": "rounds", "seed": "random_seed", "model": "model_class"}
#: theirs -> ours, statistics of attacks
_STATISTICS: Final = {
    "linkability_top1 count_percentage_success": "linkability_top1 mean",
    "linkability_real_rank median": "linkability_real_rank percentile_50",
}
#: of these they also draw the mean since the start of the run, and the sum
_SINCE_START: Final = ("roc_auc mean", "linkability_top1 count_percentage_success")


def settings_of(run: Run) -> dict[str, Any]:
    """What they parse from a folder's name, in their words: variant, noise_level (``16th`` is a
    16th of 0.225), avgsteps, topology_type, network_size, ...; what is not known is left out."""
    found = run.attributes
    variant = VARIANTS.get(str(found.get("sharing_class", "")))
    about = {
        "network_size": f"{run.nodes}nodes",
        "topology_type": _topology(run),
        "variant": variant,
        "avgsteps": f"{found.get('averaging_steps', 1)}avgsteps",
        "additional_attribute": _additional(run) if variant == "zerosum" else variant,
        "noise_level": noise_level(run),
        **{theirs: found.get(ours) for theirs, ours in _SAME.items()},
    }
    return {name: value for name, value in about.items() if value is not None}


def noise_level(run: Run) -> str:
    """The share of 0.225 that a run's noise is, as ``16th`` or ``2p5th``; ``nonoise``."""
    level = noise(run.attributes).get("noise_level_value")
    return "nonoise" if level is None else f"{FULL_NOISE / level:.3g}th".replace(".", "p")


def _topology(run: Run) -> str:
    return "dynamic" if "dynamic" in str(run.attributes.get("eval_file", "")).lower() else "static"


def _additional(run: Run) -> str:
    return "selfnoise" if run.attributes.get("self_noise") is True else "noselfnoise"


def with_statistics(table: pd.DataFrame) -> pd.DataFrame:
    """A wide table with statistics of attacks under their names too, and those since the start."""
    more = {new: table[old] for new, old in _STATISTICS.items() if old in table}
    table = table.assign(**more)
    for name in _SINCE_START:
        if name in table:
            mean = table[name].expanding().mean().where(table[name].notna())
            table = table.assign(
                **{f"{name}_start_avg": mean, f"{name}_cum_sum": table[name].cumsum()}
            )
    return table
