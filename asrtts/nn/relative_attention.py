"""Self-attention that knows how far apart two frames are.

Dai et al. 2019, Transformer-XL, section 3.3, with positions on both sides as in Gulati et al. 2020, section 2.1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from asrtts.nn.dropout import Dropout

Positions = Literal["relative", "key"]


def position_table(frames: int, dim: int, positions: Positions, device: torch.device | None = None) -> Tensor:
    """Sinusoids, float32, interleaved sin/cos (Vaswani et al. 2017, section 3.5).

    "relative": (2 frames - 1, dim), row r stands for the distance query - key = frames - 1 - r.
    "key": (frames, dim), row r stands for the key's own place r.
    """
    if positions == "relative":
        place = torch.arange(frames - 1, -frames, -1, dtype=torch.float32, device=device)
    else:
        place = torch.arange(frames, dtype=torch.float32, device=device)
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32, device=device) * (-math.log(10000.0) / dim))
    angle = place[:, None] * rate
    return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)


def by_distance(scores: Tensor) -> Tensor:
    """(..., T, 2T-1) scores by distance -> (..., T, T) by key: out[i, j] = scores[i, T-1-i+j]. A view.

    Row i begins T-1-i places in, so along the flattened rows each begins 2T-2 places after the one before. T = 3:

    . . a b c      a b c
    . a b c .  ->  a b c
    a b c . .      a b c
    """
    t = scores.shape[-2]
    if t == 1:
        return scores
    flat = scores.flatten(-2)[..., t - 1 : t - 1 + t * (2 * t - 2)]
    return flat.unflatten(-1, (t, 2 * t - 2))[..., :t]


class RelativeAttention(nn.Module):
    """score(i, j) = ((q_i + u) k_j + (q_i + v) r_{i-j}) / sqrt(d), Dai et al. 2019, eq. in section 3.3.

    `positions="key"` scores the key's own place r_j instead of the distance, which is what WeNet's encoder does.
    """

    def __init__(self, dim: int, heads: int, dropout: float, positions: Positions = "relative") -> None:
        super().__init__()
        assert dim % heads == 0, (dim, heads)
        self.heads, self.width, self.positions = heads, dim // heads, positions
        self.qkv = nn.Linear(dim, 3 * dim)
        self.position = nn.Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.empty(heads, self.width))  # u
        self.position_bias = nn.Parameter(torch.empty(heads, self.width))  # v
        self.out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)
        for matrix in (*self.qkv.weight.chunk(3), self.position.weight, self.content_bias, self.position_bias):
            nn.init.xavier_uniform_(matrix)  # q, k and v each by its own size, though they are one product

    def forward(self, x: Tensor, table: Tensor, padding: Tensor) -> Tensor:
        """x (B, T, D), table as from position_table, padding (B, 1, 1, T) bool, True = no frame -> (B, T, D)."""
        b, t, _ = x.shape
        # (3, B, H, T, d) in one copy: the products below then read memory in order
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).contiguous().unbind()
        r = self.position(table).view(-1, self.heads, self.width).permute(1, 2, 0)  # (H, d, 2T-1)
        content = torch.matmul(q + self.content_bias[:, None].to(q.dtype), k.transpose(2, 3))
        place = torch.matmul(q + self.position_bias[:, None].to(q.dtype), r)
        if self.positions == "relative":
            place = by_distance(place)
        scores = (content + place) * (1 / math.sqrt(self.width))
        weights = scores.masked_fill(padding, -torch.inf).softmax(-1)
        mixed = torch.matmul(self.dropout(weights.to(v.dtype)), v)
        return self.out(mixed.transpose(1, 2).reshape(b, t, -1))
