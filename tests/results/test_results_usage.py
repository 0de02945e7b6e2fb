"""What machines took, joined to iterations, against closed forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.runfolder import RunFolder
from results import plots
from results.curves import curves
from results.load import Run, load_run
from results.settings import settings as settings_of
from results.tables import runs_table, time_to_accuracy, wide
from results.usage import energy, usage

EPOCH = 1_800_000_000.0


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"time": 1')


def sample(run: Path, machine: int, restart: bool = False, power: bool = True) -> None:
    """Every half second from 1 s before training on: 2 (machine 1: 4) CPU seconds a second,
    memory that peaks at 1.5 s, 100 bytes a second, and 10 t watts."""
    rows = []
    for half in range(-2, 8):
        t = half / 2
        cpu = 2 * (machine + 1) * (t + 1)
        if restart and t >= 2:  # the command began anew: its counters too
            cpu -= 2 * (machine + 1) * 3
        rows.append({"time": EPOCH + t, "elapsed_s": t if t >= 0 else None, "cpu_s": cpu,
                     "memory_bytes": 500 if t == 1.5 else 100, "sent_bytes": 100 * (t + 1),
                     "received_bytes": 0})  # fmt: skip
    folder = RunFolder(run).machine(machine)
    write(folder.usage, rows)
    if power:
        times = np.arange(-1, 5)
        write(
            folder.power, [{"time": EPOCH + t, "watts": max(10.0 * t, 0)} for t in times.tolist()]
        )


@pytest.fixture
def sampled(make_run: Callable[..., Any]) -> Callable[..., Run]:
    """Evaluated at 0.1, 1, 2 and 3 s."""

    def build(**options: bool) -> Run:
        root = make_run().root
        sample(root, 0, **options)
        sample(root, 1, **options)
        return load_run(root)

    return build


@pytest.mark.parametrize("restart", [False, True])
def test_sums_over_machines_since_training_began(
    sampled: Callable[..., Run], restart: bool
) -> None:
    table = usage(sampled(restart=restart))
    t = np.array([0.1, 1, 2, 3])
    if not restart:
        assert table["cpu_s"].to_numpy() == pytest.approx((2 + 4) * t)
        assert table["memory_bytes"].tolist() == [200, 200, 1000, 200]
    else:  # of the half second in which it began anew, what was counted since then
        assert np.all(np.diff(table["cpu_s"]) >= 0)
        assert table["cpu_s"].iloc[1] == pytest.approx(6)
        assert table["cpu_s"].iloc[3] == pytest.approx(6 * 1.5 + 0 + 6)
    assert table["sent_bytes"].to_numpy() == pytest.approx(200 * t)
    assert table["energy_j"].to_numpy() == pytest.approx(2 * 10 * t**2 / 2, rel=1e-4)


def test_in_the_tables(sampled: Callable[..., Run], make_run: Callable[..., Any]) -> None:
    run = sampled()
    assert wide(run)["energy_j"].tolist() == pytest.approx([0.1, 10, 40, 90], rel=1e-4)
    assert runs_table(settings_of([run]))["energy_j"].tolist() == pytest.approx([90])
    reached = time_to_accuracy([run], [70])
    assert reached["energy_j"][0] == pytest.approx({20: 40, 30: 90}[reached["iteration"][0]])
    plain = load_run(make_run("plain").root)
    assert not {"cpu_s", "energy_j"} & {*wide(plain), *runs_table(settings_of([plain]))}
    assert "energy_j" not in time_to_accuracy([plain], [70])


def test_a_run_that_was_resumed_an_hour_later(make_run: Callable[..., Any]) -> None:
    """Ended at 1.5 s, resumed from a checkpoint at 1 s: the hour between counts for nothing."""
    root = make_run(counts=(3,)).root
    first = [{"time": EPOCH + t, "elapsed_s": t, "cpu_s": t} for t in (0, 0.5, 1, 1.5)]
    later = [{"time": EPOCH + 3600 + t, "elapsed_s": t or None, "cpu_s": max(t - 0.5, 0)}
             for t in (0, 1, 1.5, 2, 2.5, 3)]  # fmt: skip
    rest = {"memory_bytes": 1, "sent_bytes": 0, "received_bytes": 0}
    folder = RunFolder(root).machine(0)
    write(folder.usage, [row | rest for row in first + later])
    write(folder.power, [{"time": EPOCH + t, "watts": 100} for t in (0, 4000)])
    table = usage(load_run(root))
    assert table["cpu_s"].tolist()[:2] == pytest.approx([0.1, 1.0])
    assert table["cpu_s"].iloc[3] == pytest.approx(1.5 + 2.5)  # what was done twice was spent twice
    assert table["energy_j"].to_numpy() == pytest.approx(100 * np.array([0.1, 1, 2, 3]), rel=1e-4)


def test_without_power_there_is_no_energy(sampled: Callable[..., Run]) -> None:
    table = usage(sampled(power=False))
    assert "cpu_s" in table and "energy_j" not in table


@given(st.lists(st.floats(0, 1000), min_size=2, max_size=20), st.floats(0, 5), st.floats(0, 30))
@settings(max_examples=60)
def test_energy_is_the_integral(watts: list[float], begin: float, length: float) -> None:
    """Additive, within the extremes of power, and that of constant power the product."""
    time = np.arange(float(len(watts)))
    when = np.array([begin, begin + length / 3, begin + length])
    found = energy(time, np.array(watts), when)
    rest = energy(time, np.array(watts), when[1:])
    assert found[0] == 0
    assert found[2] == pytest.approx(found[1] + rest[1], abs=1e-6)
    assert min(watts) * length - 1e-6 <= found[2] <= max(watts) * length + 1e-6
    assert energy(time, np.full(len(watts), 150.0), when)[2] == pytest.approx(150 * length)


def test_a_metric_is_drawn_against_joules_where_power_was_measured(
    sampled: Callable[..., Run],
) -> None:
    """The closed form: two machines of 10 t watts have taken 10 t^2 joules by then."""
    with pytest.raises(plots.NothingToPlotError, match="test_acc by joules"):
        plots.figure([sampled(power=False)], "test_acc", "joules")
    run = sampled()
    made = plots.figure([run], "test_acc", "joules")
    assert made.axes[0].get_xlabel() == "Energy of all nodes (J)"
    np.testing.assert_allclose(made.data["energy_j"], [0.1, 10, 40, 90])
    np.testing.assert_allclose(made.axes[0].lines[-1].get_xdata(), made.data["energy_j"])


def test_over_seeds_joules_are_the_mean(make_run: Callable[..., Any], tmp_path: Path) -> None:
    """As nodes recorded them."""
    roots = [
        make_run(f"run{s}", seed=s, change=lambda row, each=s: row | {"energy_j": each}).root
        for s in (1, 3)
    ]
    compared = settings_of([load_run(root) for root in roots])
    (curve,) = curves(compared, "test_acc")
    nodes = curve.data["energy_j"] / 2
    assert nodes.nunique() == 1 and nodes.iloc[0] == load_run(roots[0]).nodes
    saved = plots.save_figures(compared, tmp_path / "figures")
    assert "test_accuracy_joules.pdf" in {path.name for path in saved}
