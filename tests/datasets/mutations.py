"""Valid files, damaged: bytes flipped, cut, inserted, repeated; values swapped for extreme ones."""

from __future__ import annotations

import contextlib
import re
import resource
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from hypothesis import strategies as st

#: what stands in for a value; the last ones are deep, long, or no text at all
EXTREMES = (
    b"", b"0", b"-1", b"0.5", b"00", b"1000000000", b"1000000000000", b"99999999999999999999",
    b"1e999", b"-1e308", b"NaN", b"nan", b"inf", b"-Infinity", b"null", b"true", b"None", b"[]",
    b"{}", b"[[]]", b'""', b'"x"', b'"\\ud800"', b"a=b", b"..", b"~nobody_of_that_name/x",
    b"[0]", b"[1000000000000, 1]", b'{"a": 1, "a": 1}', b"\0", b"\xff\xfe", b"\xef\xbb\xbf",
    "\u0663\u00b2".encode(), b"9" * 5000, b"a" * 5000, b"[" * 10_000, b'{"a":' * 10_000,
    b"[" * 10_000 + b"]" * 10_000, b"-" * 10_000, b"(" * 300,
)  # fmt: skip
_VALUE = re.compile(rb'"[^"\n]*"|[\w.+-]+|[\[{][^\[\]{}]*[\]}]')
#: address space that one example may take beyond what the process has, and seconds
ROOM, PATIENCE = 256 << 20, 30


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after one to three mutations."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        data = _mutation(draw, data)
    return data


def swaps(data: bytes) -> Iterator[bytes]:
    """All that one swap makes of ``data``."""
    for match in _VALUE.finditer(data):
        start, stop = match.span()
        yield from (data[:start] + value + data[stop:] for value in EXTREMES)


def _mutation(draw: st.DrawFn, data: bytes) -> bytes:
    kind = draw(st.sampled_from(("swap", "swap", "swap", "flip", "cut", "insert", "repeat")))
    if kind == "swap":
        places = [match.span() for match in _VALUE.finditer(data[:20_000])]
        start, stop = draw(st.sampled_from(places)) if places else (0, 0)
        return data[:start] + draw(st.sampled_from(EXTREMES)) + data[stop:]
    at = draw(st.integers(0, len(data)))
    if kind == "flip":
        return (
            data[:at]
            + bytes(b ^ draw(st.integers(1, 255)) for b in data[at : at + 1])
            + (data[at + 1 :])
        )
    if kind == "insert":
        return data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]
    until = draw(st.integers(at, min(len(data), at + 200)))
    return data[:at] + data[until:] if kind == "cut" else data[:until] + data[at:]


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Let the block take `ROOM` bytes more and `PATIENCE` seconds; more is an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    def hangs(*_: object) -> None:
        raise AssertionError(f"nothing came of it in {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
