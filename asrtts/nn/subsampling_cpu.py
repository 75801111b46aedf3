"""The two strided convolutions of the subsampling as matrix products, one utterance at a time.

On a CPU the maps between the convolutions are the largest tensors of a training step (100 MB of a Conformer of 256,
24 utterances of 2.7 s), and their backward passes are slow in the library's convolutions. One utterance at a time they
stay in the cache; the first map is computed twice rather than kept.
"""

from __future__ import annotations

import torch
from torch import Tensor


class TwoConvolutions(torch.autograd.Function):
    """relu(conv2(relu(conv1(feats)))), unpadded, without a gradient for feats.

    Args: feats (B, T, F); weight1 (C, 1, k, k), bias1 (C,); weight2 (C, C, k, k), bias2 (C,), all of one dtype;
    the two strides. Gives (B, T', F', C).
    """

    @staticmethod
    def forward(ctx, feats, weight1, bias1, weight2, bias2, stride1: int, stride2: int) -> Tensor:
        ctx.sizes = (weight1.shape[-1], stride1, weight2.shape[-1], stride2)
        first, second = _as_matrices(weight1, bias1, weight2)
        out = []
        for feat in feats:
            _, x = _first_map(feat, first, ctx.sizes)
            columns, shape = _columns(x, *ctx.sizes[2:])
            out.append(torch.addmm(bias2, columns, second).relu_().view(*shape, -1))
        out = torch.stack(out)
        ctx.save_for_backward(feats, weight1, bias1, weight2, out)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        feats, weight1, bias1, weight2, out = ctx.saved_tensors
        first, _ = _as_matrices(weight1, bias1, weight2)
        kernel, stride = ctx.sizes[2:]
        channels = weight1.shape[0]
        grad_first = torch.zeros(first.shape, dtype=torch.float32)
        grad_second = torch.zeros(channels, kernel * kernel * channels, dtype=torch.float32)
        grad_bias2 = torch.zeros(channels, dtype=torch.float32)
        phases = [_Phase(weight2, stride, row, column) for row in range(stride) for column in range(stride)]
        for feat, y, grad_y in zip(feats, out, grad, strict=True):
            windows, x = _first_map(feat, first, ctx.sizes)
            grad_y = torch.ops.aten.threshold_backward(grad_y.contiguous(), y, 0)
            flat = grad_y.view(-1, channels)
            grad_second += flat.T @ _columns(x, kernel, stride)[0]
            grad_bias2 += flat.sum(0, dtype=torch.float32)
            for phase in phases:
                grad_first += phase.windows_of(windows, y.shape).T @ phase.grad_of(x, grad_y)
        grad_weight1 = grad_first[:-1].T.reshape(weight1.shape)
        grad_weight2 = grad_second.view(channels, kernel, kernel, channels).permute(0, 3, 1, 2)
        grads = (grad_weight1, grad_first[-1], grad_weight2, grad_bias2)
        return None, *(g.to(weight1.dtype) for g in grads), None, None


class _Phase:
    """The places (row + stride i, column + stride j) of a map share their taps: one product is their gradient.

    Stride 2, kernel 3: even places fed outputs i-1 and i (taps 2 and 0), odd places output i alone (tap 1).
    """

    def __init__(self, weight: Tensor, stride: int, row: int, column: int) -> None:
        self.stride, self.row, self.column = stride, row, column
        taps = weight[:, :, row::stride, column::stride]  # (C_out, C_in, taps, taps)
        self.rows, self.columns = taps.shape[2:]
        # an earlier output meets a later tap, hence the flip; (taps * taps * C_out, C_in)
        self.weight = taps.flip(2, 3).permute(2, 3, 0, 1).reshape(-1, weight.shape[1])

    def _places(self, map_: Tensor, shape: torch.Size) -> Tensor:
        rows, columns = shape[0] - 1 + self.rows, shape[1] - 1 + self.columns
        return map_[self.row :: self.stride, self.column :: self.stride][:rows, :columns]

    def windows_of(self, windows: Tensor, shape: torch.Size) -> Tensor:
        return self._places(windows, shape).reshape(-1, windows.shape[-1])

    def grad_of(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """The gradient before the first ReLU at this phase's places, (places, C)."""
        rows, columns, channels = grad_y.shape
        padded = grad_y.new_zeros(rows + 2 * self.rows - 2, columns + 2 * self.columns - 2, channels)
        padded[self.rows - 1 :, self.columns - 1 :][:rows, :columns] = grad_y
        seen, _ = _columns(padded, (self.rows, self.columns), 1)
        places = self._places(x, grad_y.shape).reshape(-1, channels)
        return torch.ops.aten.threshold_backward(seen @ self.weight, places, 0)


def _as_matrices(weight1: Tensor, bias1: Tensor, weight2: Tensor) -> tuple[Tensor, Tensor]:
    """(k k + 1, C), the bias its last row, and (k k C, C)."""
    channels = weight1.shape[0]
    first = torch.cat((weight1.view(channels, -1), bias1[:, None]), dim=1).T.contiguous()
    return first, weight2.permute(2, 3, 1, 0).reshape(-1, channels)


def _first_map(feat: Tensor, first: Tensor, sizes: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """feat (T, F) -> its windows with a one for the bias (T1, F1, k k + 1), and relu(conv1) (T1, F1, C)."""
    columns, shape = _columns(feat[..., None], *sizes[:2])
    columns = torch.cat((columns, columns.new_ones(len(columns), 1)), dim=1)
    return columns.view(*shape, -1), (columns @ first).relu_().view(*shape, -1)


def _columns(x: Tensor, kernel: int | tuple[int, int], stride: int) -> tuple[Tensor, tuple[int, int]]:
    """x (T, F, C) contiguous -> its windows as rows (T' F', k k C), and (T', F')."""
    kernel_t, kernel_f = (kernel, kernel) if isinstance(kernel, int) else kernel
    frames, bins, channels = x.shape
    x = x.contiguous()
    shape = ((frames - kernel_t) // stride + 1, (bins - kernel_f) // stride + 1)
    steps = (stride * bins * channels, stride * channels, bins * channels, 1)  # a window's row is one run of memory
    return x.as_strided((*shape, kernel_t, kernel_f * channels), steps).reshape(shape[0] * shape[1], -1), shape
