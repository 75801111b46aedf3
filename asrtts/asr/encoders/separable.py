"""Time-channel-separable convolutional encoder for boards: small, no attention, every product fit for int8.

QuartzNet (Kriman et al. 2020) in its blocks, ContextNet (Han et al. 2020) in its squeeze-and-excitation; the kernel is
the same in every block. Normalization is batch norm over real frames, which folds into the product before it.
"""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from asrtts.config import Settings
from asrtts.nn.batch_norm import ValidBatchNorm
from asrtts.nn.depthwise import DepthwiseConv
from asrtts.nn.dropout import Dropout
from asrtts.nn.masks import valid_mask
from asrtts.nn.subsampling import refuse_too_short

SUBSAMPLING = 4  # two strides of 2, as in the other encoders


class Config(Settings):
    """The defaults make 1.8 M parameters; a frame hears 3.7 s to either side, and by its mean the whole utterance."""

    name: str = "separable"
    dim: int = Field(256, ge=8, le=65536)
    blocks: int = Field(6, ge=1, le=1000)
    repeats: int = Field(3, ge=1, le=1000)  # separable convolutions in a block
    kernel: int = Field(11, ge=1, le=10_000)  # frames, after subsampling
    squeeze_excite: bool = True  # weighs channels by their mean over the utterance, so it cannot stream
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _odd(self) -> Config:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that it has a middle; found {self.kernel}")
        return self


def out_lens(config: Config, feat_lens):
    """Encoder frames for feature frames, int or int tensor; zero: too short."""
    return (feat_lens + SUBSAMPLING - 1) // SUBSAMPLING


class Encoder(nn.Module):
    """(B, T, F) features -> (B, T', D)."""

    def __init__(self, config: Config, feat_dim: int) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.subsampling = SUBSAMPLING
        self.first = SeparableConv(feat_dim, config.dim, config.kernel, stride=2)
        self.second = SeparableConv(config.dim, config.dim, config.kernel, stride=2)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))

    def out_lens(self, feat_lens):
        return out_lens(self.config, feat_lens)

    def forward(self, feats: Tensor, feat_lens: Tensor, layers: list | None = None) -> tuple[Tensor, Tensor]:
        """feats (B, T, F), feat_lens (B,) -> enc (B, T', D), enc_lens (B,); frames past enc_lens mean nothing.

        Args:
            layers: gets the output (B, T', D) of every block.

        Raises:
            ValueError: an utterance has no frame; its row is named.
        """
        enc_lens = refuse_too_short(feat_lens, self.out_lens(feat_lens))
        half_lens = (feat_lens + 1) // 2
        half = valid_mask(half_lens, (feats.shape[1] + 1) // 2)
        x = F.relu(self.first(feats, valid_mask(feat_lens, feats.shape[1]), half))
        valid = valid_mask(enc_lens, (x.shape[1] + 1) // 2)
        x = F.relu(self.second(x, half, valid))
        for block in self.blocks:
            x = block(x, valid)
            if layers is not None:
                layers.append(x)
        return x, enc_lens


class SeparableConv(nn.Module):
    """Depthwise over time, pointwise over channels, batch norm; after training norm and pointwise are one product."""

    def __init__(self, dim_in: int, dim: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(dim_in, kernel, stride, bias=False)
        self.pointwise = NormedLinear(dim_in, dim)

    def forward(self, x: Tensor, valid: Tensor, valid_out: Tensor) -> Tensor:
        """x (B, T, D_in), valid (B, T), valid_out (B, ceil(T / stride)) -> (B, ceil(T / stride), D)."""
        return self.pointwise(self.depthwise(x * valid[..., None]), valid_out)


class NormedLinear(nn.Module):
    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim_in, dim, bias=False)
        self.norm = ValidBatchNorm(dim)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        if self.training:
            return self.norm(self.linear(x), valid)
        scale, shift = self.norm.scale_and_shift()
        return F.linear(x, self.linear.weight * scale[:, None], shift)


class Block(nn.Module):
    """Separable convolutions, squeeze-and-excitation, and a projected residual before the last ReLU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.convs = nn.ModuleList(SeparableConv(config.dim, config.dim, config.kernel) for _ in range(config.repeats))
        self.excite = SqueezeExcite(config.dim) if config.squeeze_excite else None
        self.residual = NormedLinear(config.dim, config.dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, T, D), valid (B, T) -> (B, T, D)."""
        y = x
        for index, conv in enumerate(self.convs):
            if index:
                y = self.dropout(F.relu(y))
            y = conv(y, valid, valid)
        if self.excite is not None:
            y = self.excite(y, valid)
        return self.dropout(F.relu(y + self.residual(x, valid)))


class SqueezeExcite(nn.Module):
    """Weighs each channel in 0 to 1 by what all channels do on average (Han et al. 2020, section 2.2.3)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(dim, dim // 8)
        self.excite = nn.Linear(dim // 8, dim)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, T, D), valid (B, T). The mean is over real frames, so padding weighs nothing."""
        valid = valid[..., None]
        mean = (x * valid).sum(1, dtype=torch.float32) / valid.sum(1)
        weight = torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))
        return x * weight[:, None].to(x.dtype)
