"""Cross-entropy of padded token sequences, with label smoothing (Szegedy et al. 2016, section 7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sequence_cross_entropy(logits: Tensor, targets: Tensor, lens: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Sum over the tokens of each sequence, in float32.

    Args:
        logits: (N, U, V).
        targets: (N, U), padded with any valid id.
        lens: (N,), tokens that count.
        smoothing: share of the target that is spread evenly over all V ids.

    Returns:
        losses (N,); the share of tokens, over the whole batch, whose likeliest id is the target (scalar, detached).
    """
    valid = torch.arange(targets.shape[1], device=lens.device) < lens[:, None]
    with torch.autocast(logits.device.type, enabled=False):
        each = F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=smoothing
        ).view_as(targets)
    right = (logits.detach().argmax(-1) == targets) & valid
    return each.masked_fill(~valid, 0.0).sum(-1), right.sum() / valid.sum()
