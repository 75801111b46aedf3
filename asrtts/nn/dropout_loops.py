"""Dropout, alone and behind SiLU, in one compiled pass over the elements. Importing this file imports numba.

Element i is kept if a hash of (seed, i) is not below the threshold: the backward draws the same again, so no mask is
kept, and nothing depends on how many threads share the work.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from asrtts.numba_helpers import F32, I32, LEAST_SLICE, LOG2_E, U32, in_slices, power_of_two, read, written

LOOP = {"fastmath": {"contract", "nsz", "arcp", "reassoc"}, "error_model": "numpy", "nogil": True}


def scale(x: Tensor, seed: int, p: float) -> Tensor:
    """x / (1 - p) where it is kept, else 0."""
    return _run("scale", seed, p, x)


def silu(x: Tensor, seed: int, p: float) -> Tensor:
    """`scale` of x sigmoid(x)."""
    return _run("silu", seed, p, x)


def silu_gradient(x: Tensor, grad: Tensor, seed: int, p: float) -> Tensor:
    """The gradient of `silu` for x, given that of its output."""
    return _run("silu_gradient", seed, p, x, grad.to(x.dtype))


def _run(loop: str, seed: int, p: float, *given: Tensor) -> Tensor:
    out = torch.empty(given[0].shape, dtype=given[0].dtype)
    kind, loops = KINDS[out.dtype]
    flat = [t.contiguous().view(kind).numpy().reshape(-1) for t in (*given, out)]
    keys = U32(seed & 0xFFFFFFFF), U32(seed >> 32), U32(round(p * 2**32))
    in_slices(loops[loop], out.numel(), *flat, *keys, F32(1 / (1 - p)), least=LEAST_SLICE)
    return out


@njit(error_model="numpy", nogil=True)
def _hash(i, start, twist):
    """32 bits of an element's number: a multiplicative hash with a second key amid it, as two keys that only start the
    count at other places would give the same masks, shifted."""
    x = U32(U32(i) + start)
    x = U32(U32(x ^ U32(x >> U32(16))) * U32(0x7FEB352D))
    x = U32(x ^ twist)
    x = U32(U32(x ^ U32(x >> U32(15))) * U32(0x846CA68B))
    return U32(x ^ U32(x >> U32(16)))


@njit(**LOOP)
def _sigmoid(x):
    y = F32(max(F32(min(F32(x * F32(-LOG2_E)), F32(126.0))), F32(-126.0)))
    n = I32(F32(y + (F32(0.5) if y > F32(0.0) else F32(-0.5))))  # the nearest whole number
    return F32(F32(1.0) / F32(F32(1.0) + power_of_two(n, F32(y - F32(n)))))


def _loops(shift: np.uint32) -> dict[str, Callable[..., None]]:
    """The loops over elements whose bits `read` reads with this shift: a constant, or half the speed is lost."""

    @njit(cache=True, **LOOP)
    def scale(first, last, x, out, start, twist, threshold, factor):
        x, out, start = x[first:last], out[first:last], U32(start + U32(first))
        for i in range(last - first):
            kept = _hash(i, start, twist) >= threshold
            out[i] = written(F32(read(x[i], shift) * factor) if kept else F32(0.0), shift)

    @njit(cache=True, **LOOP)
    def silu(first, last, x, out, start, twist, threshold, factor):
        x, out, start = x[first:last], out[first:last], U32(start + U32(first))
        for i in range(last - first):
            value, kept = read(x[i], shift), _hash(i, start, twist) >= threshold
            out[i] = written(F32(F32(value * _sigmoid(value)) * factor) if kept else F32(0.0), shift)

    @njit(cache=True, **LOOP)
    def silu_gradient(first, last, x, grad, out, start, twist, threshold, factor):
        x, grad, out, start = x[first:last], grad[first:last], out[first:last], U32(start + U32(first))
        for i in range(last - first):
            value, kept = read(x[i], shift), _hash(i, start, twist) >= threshold
            gate = _sigmoid(value)
            slope = F32(gate * F32(F32(1.0) + F32(value * F32(F32(1.0) - gate))))
            out[i] = written(F32(F32(slope * factor) * read(grad[i], shift)) if kept else F32(0.0), shift)

    return {"scale": scale, "silu": silu, "silu_gradient": silu_gradient}


KINDS = {torch.bfloat16: (torch.uint16, _loops(U32(16))), torch.float32: (torch.uint32, _loops(U32(0)))}
