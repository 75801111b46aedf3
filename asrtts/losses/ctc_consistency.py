"""Two augmented views of one utterance must agree, frame by frame (CR-CTC; Yao et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor


def consistency(log_probs: Tensor, lens: Tensor) -> Tensor:
    """Divergence of each view from the other one, which is held still: sum over t of KL(sg(other_t) || own_t).

    Summed over frames, as CTC is: the paper's weight (0.2) then means the same for any length. The mean over the
    2B rows is the paper's L_CR, the half sum of both directions.

    Args:
        log_probs: (2B, T, V) float32; rows 0 to B-1 are the first view, rows B to 2B-1 the second one.
        lens: (2B,), the same in both halves: time warping must have been shared by the views.

    Returns:
        (2B,), one sum for each row.
    """
    rows, frames, _ = log_probs.shape
    assert rows % 2 == 0, "two views of each utterance are wanted"
    other = log_probs.detach().roll(rows // 2, 0)
    divergence = (other.exp() * (other - log_probs)).sum(-1)  # (2B, T)
    valid = torch.arange(frames, device=lens.device) < lens[:, None]
    return divergence.masked_fill(~valid, 0.0).sum(-1)
