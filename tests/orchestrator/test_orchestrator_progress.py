"""What people see while it runs."""

from __future__ import annotations

import io
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.running.progress import Live, Plain, line, progress_for
from orchestrator.status import Status, overview, read_status
from orchestrator.text import Screen


def running(machine: int, done: int, **changes: Any) -> Status:
    base = Status(machine, "running", 8, 100, done, float(done), done, done / 10)
    return replace(base, **changes)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_overview_goes_by_the_slowest_machine_and_weighs_by_nodes() -> None:
    seen = overview(
        [
            running(0, 40, accuracy=(40, 50.0, 3)),
            running(1, 30, nodes=1, accuracy=(30, 90.0, 1)),
        ],
        100,
    )
    assert seen.done == 30
    assert seen.accuracy == pytest.approx(0.6)
    assert seen.seconds_left == pytest.approx(4.0 * 70 / 30)
    assert line(seen) == "iteration 30/100, slowest: machine 1, accuracy 0.600 (at 30), 9.3 s left"


def test_nothing_is_known_before_the_start() -> None:
    assert line(overview([Status(0), Status(1)], 9)) == "iteration 0/9, starting"
    assert line(overview([running(0, 0)], 9)) == "iteration 0/9, running"


@pytest.mark.parametrize("state", ["starting", "running", "done"])
def test_a_run_without_iterations(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out = Status(0, state, 8), io.StringIO()
    assert line(overview([status], 0)) == "iteration 0/0, nothing to train"
    plain = Plain(Screen(out), 0)
    plain.update([status])
    plain.update([status])
    assert out.getvalue() == "  iteration 0/0, nothing to train\n"
    monkeypatch.setenv("TERM", "xterm")
    shown = Terminal()
    with progress_for(Screen(shown), 0, {"TERM": "xterm"}) as live:
        live.update([status])
    assert "nothing to train" in shown.getvalue()


def test_plain_lines_are_few_and_never_say_the_same_twice() -> None:
    out, now = io.StringIO(), [0.0]
    plain = Plain(Screen(out), 100, every_s=10, clock=lambda: now[0])
    with plain:
        for done in range(101):
            now[0] = done * 0.5
            plain.update([running(0, done)])
            plain.update([running(0, done)])
    lines = out.getvalue().splitlines()
    assert [text.split(",")[0].strip() for text in lines] == [
        f"iteration {done}/100" for done in (0, 20, 40, 60, 80, 100)
    ]
    assert lines[-1].endswith("done")


def test_notes_are_said_once_by_whomever() -> None:
    out = io.StringIO()
    plain = Plain(Screen(out), 100, every_s=10)
    both = [running(0, 1, notes=("a", "b")), running(1, 1, notes=("a",))]
    plain.update([running(0, 1, notes=("a",)), running(1, 1)])
    plain.update(both)
    plain.update(both, ["machine 1 was lost"])
    plain.update([running(0, 1, notes=("a", "b", "a")), running(1, 1)], ["machine 1 was lost"])
    notes = [text.strip() for text in out.getvalue().splitlines() if "note" in text]
    assert notes == ["note: a", "note: b", "note: machine 1 was lost", "note: a"]


def test_time_left_goes_by_the_present_attempt() -> None:
    seen = overview([running(0, 60, round_start=50, elapsed_s=2.0)], 100)
    assert seen.seconds_left == pytest.approx(8.0)
    assert overview([running(0, 50, round_start=50)], 100).seconds_left is None


def test_seconds_before_the_checkpoint_say_nothing_of_the_pace() -> None:
    """Of an hour before, and two seconds for the ten iterations since."""
    seen = overview([running(0, 60, round_start=50, elapsed_s=3602.0, past_s=3600.0)], 100)
    assert seen.seconds_left == pytest.approx(8.0)


ACCURACY = "accuracy 0.250 (at 1200)"


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (120, f"iteration 1234/5000 BAR slowest: machine 1, {ACCURACY}, 5 min 05 s left"),
        (80, f"iteration 1234/5000 BAR {ACCURACY}, 5 min 05 s left"),
        (65, f"iteration 1234/5000 {ACCURACY}, 5 min 05 s left"),
        (50, "iteration 1234/5000 BAR 5 min 05 s left"),
        (35, "iteration 1234/5000 5 min 05 s left"),
        (25, "iteration 1234/5000"),
    ],
)
def test_a_narrow_terminal_shows_what_matters_most(
    monkeypatch: pytest.MonkeyPatch, width: int, expected: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    out = Terminal()
    left = 1234 * 305 / (5000 - 1234)
    statuses = [
        running(machine, done, elapsed_s=left, accuracy=(1200, 25.0, 8))
        for machine, done in ((0, 1300), (1, 1234))
    ]
    with progress_for(Screen(out), 5000, {"TERM": "xterm"}) as live:
        live.update(statuses)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).replace("\r", "\n")
    lines = [re.sub("[━╸╺]+ *", "BAR ", text).rstrip() for text in plain.splitlines()]
    assert expected in lines
    assert all(len(text) <= width for text in plain.splitlines())


@pytest.mark.parametrize("state", ["starting", "running", "done", "failed", "interrupted"])
def test_every_state_of_the_core_is_known(tmp_path: Path, state: str) -> None:
    (tmp_path / "s.json").write_text(json.dumps({"state": state}))
    assert read_status(tmp_path / "s.json", 0).state == state


def test_a_machine_whose_nodes_all_left_holds_nothing_up() -> None:
    assert overview([running(0, 70), running(1, 0, members=0)], 100).done == 70


def test_a_bar_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress_for(Screen(io.StringIO()), 5, {"TERM": "xterm"}), Plain)
    assert isinstance(progress_for(Screen(Terminal()), 5, {"TERM": "dumb"}), Plain)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[38;5;" in _drawn() or "\x1b[3" in _drawn()
    monkeypatch.setenv("NO_COLOR", "1")
    shown = _drawn()
    assert "3/10" in shown
    assert "note: [node] 3 is [b]gone" in shown
    assert "accuracy 0.250" in shown
    assert not any(f"\x1b[{colour}" in shown for colour in ("38;", "31m", "32m", "35m"))


def _drawn() -> str:
    out = Terminal()
    live = progress_for(Screen(out), 10, {"TERM": "xterm"})
    assert isinstance(live, Live)
    with live:
        live.update([running(0, 3, accuracy=(3, 25.0, 8), notes=("[node] 3 is [b]gone",))])
    return out.getvalue()


def test_a_screen_that_went_away_stays_silent() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    screen = Screen(Gone())
    screen.say("a")
    screen.say("b")
    assert screen.gone


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["mean", "nodes", "iteration"]), inner)
    ),
    max_leaves=4,
)
NAMES = [
    "state",
    "nodes",
    "round_min",
    "round_mean",
    "elapsed_s",
    "test_acc",
    "error",
    "notes",
    "members",
]


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_whatever_a_status_file_holds_it_is_shown(value: dict[str, Any]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(value))
        file.flush()
        line(overview([read_status(Path(file.name), 0), running(1, 5)], 10))


def test_a_status_that_is_half_there(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"state": "runn')
    assert read_status(tmp_path / "s.json", 3) == Status(3)
    assert read_status(tmp_path / "absent.json", 3) == Status(3)
