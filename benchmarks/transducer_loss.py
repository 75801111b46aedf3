"""Joiner and Transducer loss, forward and backward: time and peak memory of ours against the importable peers.

    python benchmarks/transducer_loss.py --shape 8,150,30,500 --width 512 --threads 1

Every way runs in a process of its own, so that its peak memory is its own. Time is CPU time of the process, so that
other work on the machine disturbs it less. Ratios are against `materialized`: the joiner in plain torch, then the loss.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from asrtts.losses.rnnt import rnnt_loss
from asrtts.losses.rnnt_joiner import rnnt_from_joiner

Way = Callable[..., Tensor]  # enc, pred, weight, bias, tokens, enc_lens, token_lens -> (B,)


def logits_of(enc: Tensor, pred: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    hidden = torch.tanh(enc.unsqueeze(2) + pred.unsqueeze(1))
    return torch.nn.functional.linear(hidden, weight, bias).float()


def materialized(enc: Tensor, pred: Tensor, weight: Tensor, bias: Tensor, *lengths: Tensor) -> Tensor:
    return rnnt_loss(logits_of(enc, pred, weight, bias), *lengths)


def in_place(enc: Tensor, pred: Tensor, weight: Tensor, bias: Tensor, *lengths: Tensor) -> Tensor:
    return rnnt_loss(logits_of(enc, pred, weight, bias), *lengths, overwrite_logits=True)


def bfloat16(*given: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return rnnt_from_joiner(*given)


def warprnnt_numba(enc: Tensor, pred: Tensor, weight: Tensor, bias: Tensor, *lengths: Tensor) -> Tensor:
    from warprnnt_numba import RNNTLossNumba

    return RNNTLossNumba(blank=0, reduction="none")(logits_of(enc, pred, weight, bias), *(x.int() for x in lengths))


def torchaudio(enc: Tensor, pred: Tensor, weight: Tensor, bias: Tensor, *lengths: Tensor) -> Tensor:
    from asrtts.losses.rnnt_backends import rnnt_backend

    return rnnt_backend("torchaudio")(logits_of(enc, pred, weight, bias), *lengths, 0)


OURS: dict[str, Way] = {"fused": rnnt_from_joiner, "fused bf16": bfloat16, "in place": in_place}
# warprnnt_numba walks the lattice in Python on CPU: minutes at real sizes, so it is only run when it is asked for.
PEERS: dict[str, Way] = {"torchaudio": torchaudio, "warprnnt_numba": warprnnt_numba}
WAYS = {"materialized": materialized, **OURS, **PEERS}


def example(shape: tuple[int, int, int, int], width: int) -> tuple[list[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Lengths of 70 to 100 % of the longest, weights of an untrained model (the sparse backward gains more later)."""
    batch, frames, count, vocab = shape
    generator = torch.Generator().manual_seed(0)

    def lens(longest: int) -> Tensor:
        return torch.randint(int(0.7 * longest), longest + 1, (batch,), generator=generator).index_fill_(
            0, torch.tensor([0]), longest
        )

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).div_(2).requires_grad_()

    floats = [normal(batch, frames, width), normal(batch, count + 1, width), normal(vocab, width), normal(vocab)]
    tokens = torch.randint(1, vocab, (batch, count), generator=generator)
    return floats, (tokens, lens(frames), lens(count))


def measure(name: str, shape: tuple[int, int, int, int], width: int, threads: int, repeat: int) -> tuple[float, float]:
    """Median CPU seconds of forward and backward, and extra peak MiB."""
    torch.set_num_threads(threads)

    def run(floats: list[Tensor], lengths: tuple[Tensor, ...]) -> float:
        start = time.process_time()
        torch.autograd.grad(WAYS[name](*floats, *lengths).sum(), floats)
        return time.process_time() - start

    run(*example((1, 3, 2, 5), 4))  # imports and compilation
    case = example(shape, width)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = statistics.median(run(*case) for _ in range(repeat))
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="8,150,30,500", help="B,T,U,V")
    parser.add_argument("--width", type=int, default=512, help="J, of the joiner")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peers", nargs="*", default=["torchaudio"], choices=list(PEERS))
    args = parser.parse_args()
    batch, frames, count, vocab = (int(n) for n in args.shape.split(","))
    missing = [name for name in args.peers if importlib.util.find_spec(name) is None]
    print(f"B,T,U,V {args.shape}  J {args.width}  threads {args.threads}  torch {torch.__version__}")
    print(f"logits {batch * frames * (count + 1) * vocab * 4 / 2**20:.0f} MiB; not importable: {missing or 'none'}")
    base = None
    for name in ["materialized", *OURS, *(p for p in args.peers if p not in missing)]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            shape = (batch, frames, count, vocab)
            seconds, peak = pool.apply(measure, (name, shape, args.width, args.threads, args.repeat))
        base = base or seconds
        print(f"{name:16} {1e3 * seconds:8.0f} ms  {seconds / base:6.2f}  {peak:7.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
