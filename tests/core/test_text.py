"""Numbers as people read them."""

import pytest

from decentralizepy.text import bytes_text, plural, seconds_text, time_left


def test_bytes():
    assert [bytes_text(n) for n in (0, 999, 1234, 5.6e9)] == ["0 B", "999 B", "1.23 kB", "5.6 GB"]
    assert [bytes_text(n) for n in (999_499, 999_600, 2e18)] == ["999 kB", "1 MB", "2,000 PB"]


def test_seconds():
    texts = ["0.0 s", "9.9 s", "59 s", "1 min 15 s", "1 h 06 min"]
    assert [seconds_text(s) for s in (0.04, 9.94, 59.4, 75, 4000)] == texts


def test_numbers_of_things():
    assert [plural(n, "node") for n in (1, 2, 1200)] == ["1 node", "2 nodes", "1,200 nodes"]


@pytest.mark.parametrize(
    ("done", "start", "seconds", "left"),
    [(20, 0, 10, 40), (60, 40, 10, 20), (40, 40, 10, None), (100, 0, 10, None), (5, 0, 0, None)],
)
def test_time_left_is_by_the_pace_of_this_attempt(done, start, seconds, left):
    assert time_left(done, 100, start, seconds) == left
