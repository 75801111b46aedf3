"""What every search is given: lengths within the tensors, and log-probabilities that are numbers.

A length beyond the frames would be cut without a word, and NaN is greater than nothing and less than nothing: a beam of
such gives hypotheses like any other.
"""

from __future__ import annotations

from torch import Tensor


def check_lens(lens: Tensor, batch: int, frames: int | None = None) -> None:
    """Raises ValueError unless lens (B,) are whole numbers, 0 to `frames`, where those are known."""
    if lens.shape != (batch,) or lens.is_floating_point():
        raise ValueError(f"lens: wanted {batch} whole numbers, found {lens.dtype} {tuple(lens.shape)}")
    for b, found in enumerate(lens.tolist()):
        if found < 0 or (frames is not None and found > frames):
            raise ValueError(f"lens[{b}] is {found}, wanted 0 {'or more' if frames is None else f'to {frames}'}")


def refuse_nan(log_probs: Tensor, lens: Tensor) -> None:
    """Raises ValueError for NaN in the valid frames of log_probs (B, T, V). Slow: only where there seems to be one."""
    for b, count in enumerate(lens.tolist()):
        wrong = log_probs[b, :count].isnan().nonzero()
        if len(wrong):
            t, v = wrong[0].tolist()
            raise ValueError(f"log_probs[{b}, {t}, {v}] is {float(log_probs[b, t, v])}, wanted log-probabilities")
