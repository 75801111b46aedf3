"""The rows of a tile of `rnnt_joiner`, on a CPU: one pass over each while it is in the cache. Importing this file
imports numba."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from asrtts.losses.rnnt_numba import log_sum_exp, of_edge, scale_softmax
from asrtts.numba_helpers import F32, U32, read, written


def log_probs(z: Tensor, bias: Tensor, cells: Tensor, targets: Tensor, blank_id: int, *kept: Tensor) -> None:
    """Write the log-sums and the log-probabilities of both edges for logits z + bias; NaN for what is no distribution.

    Args:
        z: (N, V) bf16 or float32.
        bias: (V,) float32.
        cells, targets: (N,) int64, the rows' numbers of (B * T * (U+1)) and the tokens of their label edges.
        kept: log_sum, log_blank and log_label, (B, T, U+1) float64.
    """
    _run("log_probs", z, bias, cells, targets, blank_id, *kept)


def gradient(z: Tensor, bias: Tensor, cells: Tensor, targets: Tensor, blank_id: int, *kept: Tensor) -> None:
    """Write the loss's gradient with respect to z over z.

    Args:
        kept: log_sum, on_blank and on_label, (B, T, U+1) float64; and d_bias (V,) float64, to which that of the bias
            is added.
    """
    _run("gradient", z, bias, cells, targets, blank_id, *kept)


def _run(loop: str, z: Tensor, bias: Tensor, cells: Tensor, targets: Tensor, blank_id: int, *kept: Tensor) -> None:
    kind, loops = KINDS[z.dtype]
    flat = (x.view(-1).numpy() for x in kept)
    loops[loop](z.view(kind).numpy(), bias.numpy(), cells.numpy(), targets.numpy(), blank_id, *flat)


def _loops(shift: np.uint32) -> dict[str, Callable[..., None]]:
    """The loops over logits whose bits `read` reads with this shift: a constant, or half the speed is lost."""

    @njit(fastmath={"contract"}, nogil=True, error_model="numpy")
    def load(bits, bias, row):
        for v in range(row.shape[0]):
            row[v] = F32(read(bits[v], shift) + bias[v])

    @njit(nogil=True, error_model="numpy")
    def store(row, bits):
        for v in range(row.shape[0]):
            bits[v] = written(row[v], shift)

    @njit(nogil=True, error_model="numpy")
    def add(row, total):
        for v in range(row.shape[0]):
            total[v] += row[v]

    @njit(nogil=True, cache=True)
    def log_probs(z, bias, cells, targets, blank_id, log_sum, log_blank, log_label):
        row = np.empty(z.shape[1], dtype=np.float32)
        for n in range(z.shape[0]):
            load(z[n], bias, row)
            total = log_sum_exp(row)
            log_sum[cells[n]] = total = total if math.isfinite(total) else math.nan
            log_blank[cells[n]] = row[blank_id] - total
            log_label[cells[n]] = row[targets[n]] - total

    @njit(nogil=True, cache=True)
    def gradient(z, bias, cells, targets, blank_id, log_sum, on_blank, on_label, d_bias):
        row = np.empty(z.shape[1], dtype=np.float32)
        for n in range(z.shape[0]):
            load(z[n], bias, row)
            total, blank, label = log_sum[cells[n]], on_blank[cells[n]], on_label[cells[n]]
            at_blank = of_edge(row[blank_id] - total, blank, label)
            at_label = of_edge(row[targets[n]] - total, label, blank)
            scale_softmax(row, total, blank + label)
            row[targets[n]] = at_label
            row[blank_id] = at_blank  # last: where no label follows, the target is 0, which may be the blank
            store(row, z[n])
            add(row, d_bias)

    return {"log_probs": log_probs, "gradient": gradient}


KINDS = {torch.bfloat16: (torch.uint16, _loops(U32(16))), torch.float32: (torch.uint32, _loops(U32(0)))}
