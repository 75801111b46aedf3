"""The frames that CTC needs for a text."""

from __future__ import annotations

import torch
from torch import Tensor


def needed_frames(tokens: Tensor, token_lens: Tensor) -> Tensor:
    """Frames that CTC needs for (N, U) tokens: one each, and a blank between two equal neighbours."""
    inside = torch.arange(1, max(1, tokens.shape[1]), device=tokens.device) < token_lens[:, None]
    return token_lens + ((tokens[:, 1:] == tokens[:, :-1]) & inside).sum(-1)
