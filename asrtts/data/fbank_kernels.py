"""Two passes of fbank that are one loop each, and several tensor operations otherwise; compiled by numba.

Import inside a function: numba takes half a second to load, and the first use ever compiles for another second.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SUMS_IN_ANY_ORDER = {"reassoc", "contract"}  # without it a sum is no vector instruction


@njit(cache=True, nogil=True, fastmath=SUMS_IN_ANY_ORDER)
def window_frames(line: np.ndarray, hop: int, window: np.ndarray, preemphasis: float, frames: np.ndarray) -> None:
    """Write the frames that start at every hop of a line (S,): less their mean, emphasized, times the window.

    Kaldi takes the mean from a frame, then the pre-emphasis, which leaves 1 - preemphasis of the mean. A frame's first
    sample has no predecessor, but the window makes it zero.

    Args:
        window: (N,) float32. frames: (T, >= N) float32, zero beyond N and in the first column; they stay so.
    """
    size, emphasis = len(window), np.float32(preemphasis)
    for t in range(len(frames)):
        samples, frame = line[t * hop : t * hop + size], frames[t]
        total = np.float32(0)
        for i in range(size):
            total += samples[i]
        left = total / np.float32(size) * (np.float32(1) - emphasis)
        for i in range(1, size):
            frame[i] = (samples[i] - emphasis * samples[i - 1] - left) * window[i]


@njit(cache=True, nogil=True, fastmath=SUMS_IN_ANY_ORDER)
def power(spectrum: np.ndarray, out: np.ndarray) -> None:
    """Squared magnitudes (T, K) of a spectrum (T, >= 2 K) of real and imaginary parts by turns.

    A third axis for the two would keep this from vector instructions: three times the time.
    """
    for t in range(len(out)):
        parts, squares = spectrum[t], out[t]
        for k in range(len(squares)):
            squares[k] = parts[2 * k] * parts[2 * k] + parts[2 * k + 1] * parts[2 * k + 1]
