"""Where a run is, for people: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from decentralizepy.text import accuracy_text, iteration_text, left_text
from orchestrator.status import Overview, Status, merged_notes, overview
from orchestrator.text import Screen

#: Seconds between plain lines.
EVERY_S = 5.0
#: Columns of a bar: fewer say nothing, more say nothing more.
LEAST_BAR, MOST_BAR = 8, 40


class Progress(Protocol):
    """Shows a run while it is entered."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def update(self, statuses: Sequence[Status], notes: Sequence[str] = ()) -> None:
        """Called about twice a second; ``notes`` are ours, beside those of the machines."""


def progress_for(
    screen: Screen, total: int, environment: Mapping[str, str] = os.environ
) -> Progress:
    """The live display where somebody watches, lines where a file does."""
    if is_terminal(screen.stream, environment):
        return Live(screen.stream, total)
    return Plain(screen, total)


def is_terminal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a stream can redraw its last line."""
    try:
        return stream.isatty() and environment.get("TERM", "dumb") != "dumb"
    except ValueError:  # closed
        return False


class News:
    """Notes of the machines and ours, each once, however often and by whom it is told."""

    def __init__(self) -> None:
        self._told: Counter[str] = Counter()

    def take(self, statuses: Sequence[Status], notes: Sequence[str]) -> list[str]:
        """The notes that were not there before."""
        now = [*notes, *merged_notes([status.notes for status in statuses])]
        fresh, seen = [], Counter[str]()
        for note in now:
            seen[note] += 1
            if seen[note] > self._told[note]:
                fresh.append(note)
        self._told |= seen
        return fresh


class Plain:
    """A line when the run starts, at new accuracies and ends, at most one per ``every_s``."""

    def __init__(
        self,
        screen: Screen,
        total: int,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._screen, self._total = screen, total
        self._every_s, self._clock = every_s, clock
        self._next = clock()
        self._shown: tuple[int, float | None] = (-1, None)
        self._news = News()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Lines need no tidying up."""

    def update(self, statuses: Sequence[Status], notes: Sequence[str] = ()) -> None:
        """Print a line if there is news and enough time has passed; the last round and notes
        always."""
        for note in self._news.take(statuses, notes):
            self._screen.say(f"  note: {note}")
        now, seen = self._clock(), overview(statuses, self._total)
        news = (seen.done, seen.accuracy)
        ended = seen.done == self._total
        if news == self._shown or (now < self._next and not ended):
            return
        self._shown, self._next = news, now + self._every_s
        self._screen.say(f"  {line(seen)}")


class Live:
    """A line that is redrawn, with a bar where there is room for one (by rich)."""

    def __init__(self, stream: TextIO, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._total, self._news = total, News()
        self._head = TextColumn("{task.fields[head]}", markup=False)
        self._rest = TextColumn("{task.fields[rest]}", markup=False)
        self._middle = BarColumn()
        self._bar = Bar(console=Console(file=stream), auto_refresh=False)
        head, rest = fitted(iteration_text(0, total), ["starting"], self._bar.console.width)
        self._lay_out(head, rest)
        self._task: Any = self._bar.add_task("", total=total, head=head, rest=rest)

    def _lay_out(self, head: str, rest: str) -> None:
        """Give the bar what is left of the line."""
        room = self._bar.console.width - len(head) - len(rest) - 2
        self._middle.bar_width = min(room, MOST_BAR)
        bar = (self._middle,) if room >= LEAST_BAR else ()
        self._bar.columns = (self._head, *bar, self._rest)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._bar.stop()
        except OSError:  # the terminal is gone: nothing to restore
            return

    def update(self, statuses: Sequence[Status], notes: Sequence[str] = ()) -> None:
        """Redraw; notes stand above the bar."""
        seen = overview(statuses, self._total)
        try:
            for note in self._news.take(statuses, notes):
                self._bar.console.print(f"  note: {note}", markup=False, highlight=False)
            head, rest = fitted(
                iteration_text(seen.done, seen.total), parts(seen), self._bar.console.width
            )
            self._lay_out(head, rest)
            self._bar.update(self._task, completed=seen.done, head=head, rest=rest, refresh=True)
        except OSError:
            return


def line(seen: Overview) -> str:
    """``iteration 40/120, accuracy 0.712 (at 40), 12 s left``."""
    return f"{iteration_text(seen.done, seen.total)}, {details(seen)}"


def details(seen: Overview) -> str:
    """What stands behind the iteration."""
    return ", ".join(parts(seen))


def parts(seen: Overview) -> list[str]:
    """The details, the most important one last."""
    if not seen.total:
        return ["nothing to train"]
    if not seen.running and not seen.done:
        return ["starting"]
    found = []
    if seen.slowest is not None:
        found.append(f"slowest: machine {seen.slowest}")
    if seen.accuracy is not None:
        found.append(accuracy_text(seen.accuracy, seen.accuracy_iteration))
    if seen.done >= seen.total:
        found.append("done")
    elif seen.seconds_left is not None:
        found.append(left_text(seen.seconds_left))
    return found or ["running"]


def fitted(head: str, details: Sequence[str], width: int) -> tuple[str, str]:
    """What fits into a line: the iteration in any case, then the last ones of the details."""
    for first in range(len(details)):
        rest = ", ".join(details[first:])
        if len(head) + 1 + len(rest) <= width:
            return head, rest
    return head, ""
