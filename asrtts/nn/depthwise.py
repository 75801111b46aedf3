"""Depthwise convolution over time on (B, T, D), the layout that everything around it has."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class DepthwiseConv(nn.Conv1d):
    """Each channel is filtered by itself. (B, T, D) -> (B, ceil(T / stride), D).

    Weights as nn.Conv1d(dim, dim, groups=dim); the caller zeroes what lies past an utterance's end.
    """

    def __init__(self, dim: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        assert kernel % 2 == 1, f"an even kernel ({kernel}) has no middle"
        super().__init__(dim, dim, kernel, stride, padding=kernel // 2, groups=dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        # as a 2-D convolution of height 1, (B, T, D) is channels-last as it lies: several times faster than conv1d
        image = x.transpose(1, 2).unsqueeze(2)
        stride, padding = (1, self.stride[0]), (0, self.padding[0])
        out = F.conv2d(image, self.weight.unsqueeze(2), self.bias, stride, padding, groups=self.groups)
        return out.squeeze(2).transpose(1, 2)
