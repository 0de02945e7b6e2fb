"""Top-k gossip of frequencies and wavelet coefficients, these from their definitions."""

from __future__ import annotations

from functools import partial

import numpy as np
from replay_partial_model import GRAPHS, MODES, always, made, partial_model
from sharing_matrix import LENGTH, Row, Rows, World

from decentralizepy.sharing.fft import FFT
from decentralizepy.sharing.jwins import JWINS
from decentralizepy.sharing.wavelet import Wavelet

#: low-pass filters of analysis (Daubechies, 1992, table 6.1): sym2 is db2
FILTERS = {
    "haar": np.array([1, 1]) / np.sqrt(2),
    "sym2": np.array([1 - 3**0.5, 3 - 3**0.5, 3 + 3**0.5, 1 + 3**0.5]) / (4 * 2**0.5),
}


def mirrored(low: Rows) -> Rows:
    """The high-pass filter of a low-pass one."""
    return low[::-1] * (-1.0) ** np.arange(1, len(low) + 1)


def halves(signal: Rows, low: Rows) -> tuple[Rows, Rows]:
    """Approximation and detail of a signal that is mirrored at its ends."""
    edge = len(low) - 1
    padded = np.pad(signal, edge, mode="symmetric")
    return tuple(np.convolve(padded, f, "valid")[1::2] for f in (low, mirrored(low)))


def whole(approximation: Rows, detail: Rows, low: Rows) -> Rows:
    """The signal of both halves: filters turned round, zeros between coefficients."""
    total = 0
    for band, f in ((approximation, low), (detail, mirrored(low))):
        spread = np.zeros(2 * len(band))
        spread[::2] = band
        total = total + np.convolve(spread, f[::-1])
    return total[len(low) - 2 : len(total) - len(low) + 1]


def to_wavelets(rows: Rows, name: str, level: int) -> Rows:
    """Coefficients of each row, from the coarsest on."""
    return np.stack([np.concatenate(bands(row, name, level)) for row in rows])


def bands(signal: Rows, name: str, level: int) -> list[Rows]:
    """The bands of one signal."""
    found = [signal]
    for _ in range(level):
        found[:1] = halves(found[0], FILTERS[name])
    return found


def from_wavelets(rows: Rows, name: str, level: int) -> Rows:
    """Back again: a signal that has one number too many is cut."""
    lengths = [len(band) for band in bands(np.zeros(LENGTH), name, level)]
    made = []
    for row in rows:
        parts = np.split(row, np.cumsum(lengths)[:-1])
        signal = parts[0]
        for detail in parts[1:]:
            signal = whole(signal[: len(detail)], detail, FILTERS[name])
        made.append(signal[:LENGTH])
    return np.stack(made)


def basis(name: str, level: int) -> dict[str, object]:
    """Both ways of a wavelet."""
    return {
        "to": partial(to_wavelets, name=name, level=level),
        "back": partial(from_wavelets, name=name, level=level),
    }


FOURIER = {"to": np.fft.rfft, "back": partial(np.fft.irfft, n=LENGTH)}
SHARES = (0.2, 0.5, 1.0)


def drawn(world: World, c: int, t: int, k: int) -> list[int]:
    """A share for each node, from its stream; half or more is all."""
    found = []
    for uid in range(world.n):
        alpha = SHARES[world.context(uid, t, k).generator.integers(len(SHARES))]
        found.append(c if alpha >= 0.9 else round(alpha * c))
    return found


ROWS = [
    Row(
        f"{kind.__name__}{name}",
        partial(kind, alpha=0.3, **made(mode), **options),
        partial(partial_model, amounts=always(0.3), **mode, **its),
        graphs=GRAPHS if "all" in name else ("irregular",),
        keeps_mean=False,
    )
    for name, mode in MODES.items()
    for kind, options, its in (
        (FFT, {}, FOURIER),
        (Wavelet, {"wavelet": "sym2", "level": 2}, basis("sym2", 2)),
    )
]
ROWS += [
    Row(
        "FFT of the largest",
        partial(FFT, alpha=0.3, change_based_selection=False),
        partial(partial_model, amounts=always(0.3), by_change=False, **FOURIER),
        graphs=("irregular",),
        keeps_mean=False,
    ),
    Row(
        "Wavelet of few numbers",
        partial(Wavelet, alpha=0.3, wavelet="haar", level=9, change_based_selection=False),
        partial(partial_model, amounts=always(0.3), by_change=False, **basis("haar", 4)),
        graphs=("irregular",),
        keeps_mean=False,
    ),
    Row(
        "JWINS",
        partial(JWINS, alpha_list=SHARES, metadata_cap=0.9, wavelet="haar", level=4,
                **made(MODES[" accumulating all"])),
        partial(partial_model, amounts=drawn, **MODES[" accumulating all"], **basis("haar", 4)),
        graphs=GRAPHS,
        keeps_mean=False,
    ),
]  # fmt: skip
