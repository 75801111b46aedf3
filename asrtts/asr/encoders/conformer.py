"""Conformer encoder: convolution sees what is near, attention what is far (Gulati et al. 2020).

Departs from the paper in the norm of the convolution module (see `ConvModule`) and in a last layer norm after all
blocks, as ESPnet and WeNet have it; their weights can be read (`asrtts.asr.foreign_weights`).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from asrtts.config import Settings
from asrtts.nn.conformer_block import ConformerBlock, ConvNorm
from asrtts.nn.dropout import Dropout
from asrtts.nn.masks import valid_mask
from asrtts.nn.relative_attention import Positions, position_table
from asrtts.nn.subsampling import ConvSubsampling, refuse_too_short, subsampled


class Config(Settings):
    """The defaults are the paper's Conformer S (10 M parameters) with layers of 12 and a kernel of 31."""

    name: str = "conformer"
    dim: int = Field(144, ge=2, le=65536)
    layers: int = Field(12, ge=1, le=1000)
    attention_heads: int = Field(4, ge=1, le=65536)
    feedforward: int = Field(576, ge=1, le=1 << 20)  # width inside the feed-forward modules
    kernel: int = Field(31, ge=1, le=10_000)  # frames of the depthwise convolution, after subsampling
    subsampling: Literal[4, 6] = 4  # feature frames per encoder frame
    subsampling_channels: int = Field(0, ge=0, le=65536)  # of its 2-D convolutions; 0: as many as dim
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    position_dropout: float = Field(0.1, ge=0, lt=1)
    layer_drop: float = Field(0.0, ge=0, lt=1)  # chance that an utterance skips a block in training
    conv_norm: ConvNorm = "layer_norm"
    positions: Positions = "relative"  # "key" only to read WeNet's weights
    norm_eps: float = Field(1e-5, gt=0)  # ESPnet's weights were trained with 1e-12

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.dim % self.attention_heads or self.dim % 2:
            raise ValueError(f"dim {self.dim} must be even and a multiple of attention_heads {self.attention_heads}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that it has a middle; found {self.kernel}")
        return self


def out_lens(config: Config, feat_lens):
    """Encoder frames for feature frames, int or int tensor; zero or less: too short."""
    return subsampled(feat_lens, config.subsampling)


class Encoder(nn.Module):
    """(B, T, F) features -> (B, T', D)."""

    def __init__(self, config: Config, feat_dim: int) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.subsampling = config.subsampling
        self.scale = math.sqrt(config.dim)
        self.subsample = ConvSubsampling(
            feat_dim, config.dim, config.subsampling, config.subsampling_channels or config.dim
        )
        self.dropout = Dropout(config.position_dropout)
        self.blocks = nn.ModuleList(
            ConformerBlock(
                config.dim,
                config.attention_heads,
                config.feedforward,
                config.kernel,
                config.dropout,
                config.attention_dropout,
                config.conv_norm,
                config.positions,
                config.norm_eps,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.dim, config.norm_eps)

    def out_lens(self, feat_lens):
        return out_lens(self.config, feat_lens)

    def forward(self, feats: Tensor, feat_lens: Tensor, layers: list | None = None) -> tuple[Tensor, Tensor]:
        """feats (B, T, F), feat_lens (B,) -> enc (B, T', D), enc_lens (B,); frames past enc_lens mean nothing.

        Args:
            layers: gets the output (B, T', D) of every block.

        Raises:
            ValueError: an utterance is too short to give one encoder frame; its row is named.
        """
        enc_lens = refuse_too_short(feat_lens, self.out_lens(feat_lens))
        x = self.subsample(feats) * self.scale
        table = position_table(x.shape[1], self.dim, self.config.positions, x.device)
        x, table = self.dropout(x), self.dropout(table)
        valid = valid_mask(enc_lens, x.shape[1])
        padding = ~valid[:, None, None]
        for block in self.blocks:
            x = self._maybe_skip(x, block(x, table, valid, padding))
            if layers is not None:
                layers.append(x)
        return self.norm(x), enc_lens

    def _maybe_skip(self, x: Tensor, after: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016), by utterance, so that no process of many lacks a gradient."""
        if not self.training or self.config.layer_drop == 0:
            return after
        skip = torch.rand(x.shape[0], 1, 1, device=x.device) < self.config.layer_drop
        return torch.where(skip, x, after)
