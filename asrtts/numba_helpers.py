"""What loops that numba compiles have in common: a fast exp, bf16, and torch's number of threads. Imports numba.

The loops hold no lock and start no threads, so numba brings no second OpenMP beside torch's: two of them spin against
each other. numba widens what it multiplies and adds, so every step of a loop says its kind, or it is not vectorised.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit

F32, I32, U32 = np.float32, np.int32, np.uint32
LOG2_E = F32(1.4426950408889634)
# 2^f = 1 + f (C1 + f (C2 + ...)) for |f| <= 1/2: least greatest relative error, 9e-8, with exactly 1 at f = 0
C1, C2, C3, C4, C5 = F32(0.69314700), F32(0.24022242), F32(0.055507336), F32(0.0096715130), F32(0.0013264727)
LEAST = F32(-126.0)  # smaller powers of two are no normal float32
SLICES = 4  # for each thread, as some are slower
LEAST_SLICE = 1 << 15  # of elements; below, handing it to a thread costs more than doing it


def in_slices(kernel: Callable[..., None], count: int, *args: object, least: int = 1) -> None:
    """kernel(first, last, *args) over all of range(count), by as many threads as torch has."""
    threads = min(torch.get_num_threads(), count // least)
    if threads <= 1:
        return kernel(0, count, *args)
    cuts = np.linspace(0, count, min(SLICES * threads, count) + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(kernel, *cut, *args) for cut in zip(cuts[:-1], cuts[1:], strict=True)]
    for one in running:
        one.result()


@njit(fastmath={"contract"}, error_model="numpy", nogil=True)
def power_of_two(n, f):
    """2^(n + f), float32, of a whole number and a float32 between -1/2 and 1/2; the power must be a normal float32."""
    power = F32(F32(F32(F32(F32(F32(F32(F32(F32(F32(C5 * f) + C4) * f) + C3) * f) + C2) * f) + C1) * f) + F32(1.0))
    return I32(power.view(I32) + I32(n << I32(23))).view(F32)  # n is added to the exponent


@njit(fastmath={"contract"}, error_model="numpy", nogil=True)
def exp(x, least):
    """exp of a float32 that is not much above 0; 0 below 2^least. NaN stays NaN, -inf gives 0."""
    y = F32(x * LOG2_E)
    n = I32(F32(y - F32(0.5)))  # the nearest whole number, as y is not positive
    power = power_of_two(n, F32(y - F32(n)))
    return F32(0.0) if y < least else power


@njit(error_model="numpy", nogil=True)
def read(bits, shift):
    """The float32 of an element's bits: of bf16 with a shift of 16, of float32 with 0."""
    return U32(U32(bits) << shift).view(F32)


@njit(error_model="numpy", nogil=True)
def written(value, shift):
    """The bits of a float32 as `read` reads them; bf16 is rounded to the nearest, to even where two are."""
    bits = F32(value).view(U32)
    half = U32(U32(0x7FFF) + U32(U32(bits >> U32(16)) & U32(1)))
    rounds = U32(U32(0) - U32(shift >> U32(4)))  # all ones or all zeros: a branch or a product would cost more
    return U32(U32(bits + U32(half & rounds)) >> shift)
