"""Convolutional subsampling: two strided 2-D convolutions over time and frequency, then a projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asrtts.nn.subsampling_cpu import TwoConvolutions
from asrtts.registry import UserError

# factor -> (kernel, stride) of the two layers; the sizes that ESPnet and WeNet call conv2d and conv2d6
LAYERS = {4: ((3, 2), (3, 2)), 6: ((3, 2), (5, 3))}


def subsampled(size, factor: int):
    """Frames (or feature bins) left of `size`; for ints and int tensors. Unpadded: only whole windows count."""
    for kernel, stride in LAYERS[factor]:
        size = (size - kernel) // stride + 1
    return size


def refuse_too_short(feat_lens: Tensor, enc_lens: Tensor) -> Tensor:
    """enc_lens as they are. Raises ValueError, naming the row, if an utterance has no frame left."""
    if not torch.compiler.is_compiling() and int(enc_lens.min()) < 1:
        row = int(enc_lens.argmin())
        raise ValueError(
            f"row {row} of the batch: {int(feat_lens[row])} feature frames are too few for the subsampling"
        )
    return enc_lens


class ConvSubsampling(nn.Module):
    """(B, T, F) -> (B, subsampled(T), dim).

    There is no padding in time, so a frame inside its utterance's own length never sees another's padding.
    The projection reads (frequency, channel) in this order: with channels last that is a view, not a copy.
    """

    def __init__(self, feat_dim: int, dim: int, factor: int, channels: int) -> None:
        super().__init__()
        (kernel1, self.stride1), (kernel2, self.stride2) = LAYERS[factor]
        self.factor = factor
        bins = subsampled(feat_dim, factor)
        if bins < 1:
            raise UserError(f"features.num_bins: {feat_dim} are too few for an encoder with subsampling {factor}")
        self.conv1 = nn.Conv2d(1, channels, kernel1, self.stride1)
        self.conv2 = nn.Conv2d(channels, channels, kernel2, self.stride2)
        self.out = nn.Linear(bins * channels, dim)

    def forward(self, feats: Tensor) -> Tensor:
        if feats.device.type == "cpu" and torch.is_grad_enabled() and not feats.requires_grad:
            return self.out(self._train_on_cpu(feats).flatten(2))
        x = feats.unsqueeze(1).contiguous(memory_format=torch.channels_last)
        x = self.conv1(x).relu_()
        x = self.conv2(x.contiguous(memory_format=torch.channels_last)).relu_()  # (B, C, T', F')
        return self.out(x.permute(0, 2, 3, 1).flatten(2))

    def _train_on_cpu(self, feats: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.conv1.weight.dtype
        tensors = (feats, self.conv1.weight, self.conv1.bias, self.conv2.weight, self.conv2.bias)
        return TwoConvolutions.apply(*(tensor.to(dtype) for tensor in tensors), self.stride1, self.stride2)
