"""One Conformer block: half a feed-forward, attention, convolution, half a feed-forward (Gulati et al. 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asrtts.nn.batch_norm import ValidBatchNorm
from asrtts.nn.depthwise import DepthwiseConv
from asrtts.nn.dropout import Dropout, SiluDropout
from asrtts.nn.relative_attention import Positions, RelativeAttention

ConvNorm = Literal["layer_norm", "batch_norm"]


class FeedForward(nn.Module):
    """Widen, SiLU, narrow (Gulati et al. 2020, section 2.3); the norm before it is the block's."""

    def __init__(self, dim: int, width: int, dropout: float) -> None:
        super().__init__()
        self.widen = nn.Linear(dim, width)
        self.narrow = nn.Linear(width, dim)
        self.activation = SiluDropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.activation(self.widen(x)))


class ConvModule(nn.Module):
    """Gate, depthwise convolution, norm, SiLU (Gulati et al. 2020, section 2.2).

    Layer norm is the default where the paper has batch norm: no statistics over utterances, so a batch of one, a large
    batch and data parallel training give the same result.
    """

    def __init__(self, dim: int, kernel: int, norm: ConvNorm, eps: float) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, 2 * dim)
        self.depthwise = DepthwiseConv(dim, kernel)
        self.norm = ValidBatchNorm(dim) if norm == "batch_norm" else nn.LayerNorm(dim, eps)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, T, D), valid (B, T). Padding is zeroed before the convolution, as the edge of an utterance is."""
        x = F.glu(self.gate(x), dim=-1) * valid[..., None]
        x = self.depthwise(x)
        x = self.norm(x, valid) if isinstance(self.norm, ValidBatchNorm) else self.norm(x)
        return self.out(F.silu(x))


class ConformerBlock(nn.Module):
    """Every part is x + dropout(part(norm(x))), the feed-forwards with weight 0.5; a last norm closes the block."""

    def __init__(
        self,
        dim: int,
        heads: int,
        feedforward: int,
        kernel: int,
        dropout: float,
        attention_dropout: float,
        conv_norm: ConvNorm,
        positions: Positions,
        eps: float,
    ) -> None:
        super().__init__()
        self.norm_feedforward1 = nn.LayerNorm(dim, eps)
        self.feedforward1 = FeedForward(dim, feedforward, dropout)
        self.norm_attention = nn.LayerNorm(dim, eps)
        self.attention = RelativeAttention(dim, heads, attention_dropout, positions)
        self.norm_conv = nn.LayerNorm(dim, eps)
        self.conv = ConvModule(dim, kernel, conv_norm, eps)
        self.norm_feedforward2 = nn.LayerNorm(dim, eps)
        self.feedforward2 = FeedForward(dim, feedforward, dropout)
        self.norm_out = nn.LayerNorm(dim, eps)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, table: Tensor, valid: Tensor, padding: Tensor) -> Tensor:
        """x (B, T, D); table of positions; valid (B, T); padding (B, 1, 1, T), its opposite -> (B, T, D)."""
        x = torch.add(x, self.dropout(self.feedforward1(self.norm_feedforward1(x))), alpha=0.5)
        x = x + self.dropout(self.attention(self.norm_attention(x), table, padding))
        x = x + self.dropout(self.conv(self.norm_conv(x), valid))
        x = torch.add(x, self.dropout(self.feedforward2(self.norm_feedforward2(x))), alpha=0.5)
        return self.norm_out(x)
