"""What the fused loss and its sparse backward are worth to a whole Transducer training: seconds and memory an update.

    python benchmarks/transducer_training.py exp/transducer-1 data/train [--snapshots 3] [--batches 4] [--repeat 3]

Batches are those of training: augmented, with dropout, in the run's precision. An update is all of it, the encoder and
the optimizer too, begun from the weights before training and from snapshots of the run (keep early ones with
training.keep_last=1000). `every cell` is the fused loss without leaving cells out; `logits` makes (B, T, U+1, V) and
gives it to our loss; peers are given the same in float32, the only kind that they take.
"""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from _common import extra_peak_mib, interleaved, machine, ratio
from alive_rows import CPU, arguments_of_run, evenly, training_batches, transducer_run, untrained
from torch import Tensor
from transducer_logits import usable
from transducer_loss import of_logits

from asrtts.asr.heads import transducer
from asrtts.losses.rnnt_joiner import rnnt_from_joiner
from asrtts.registry import UserError
from asrtts.training import optimizer
from asrtts.training.trainer import wants_bf16

PEERS = ("optimized_transducer", "warp-transducer")


def in_float32(name: str) -> Callable[..., Tensor]:
    def loss(enc: Tensor, pred: Tensor, weight: Tensor, bias: Tensor, *target: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            real = enc[:, : int(target[1].max())].float()  # warp-transducer wants no more frames than there are
            return of_logits(name)(real, pred.float(), weight, bias, *target)

    return loss


def ways() -> dict[str, Callable[..., Tensor]]:
    there = {name: in_float32(name) for name in PEERS if usable(name)}
    every = functools.partial(rnnt_from_joiner, threshold=0.0)
    return {"fused": rnnt_from_joiner, "every cell": every, "logits": in_float32("ours"), **there}


def updates(folder: Path, manifest: str, snapshot: str, count: int, way: str) -> Callable[[], None]:
    """As many updates as there are batches, by one way."""
    run = transducer_run(folder)
    model = run.load(f"snapshots/{snapshot}").model if snapshot else untrained(run)
    stream = training_batches(run, manifest)
    batches = [next(stream) for _ in range(count)]
    autocast = wants_bf16(run.settings.training.precision, CPU)
    adamw, loss = optimizer.build(run.settings.training.optimizer, model.parameters()), ways()[way]
    for group in adamw.param_groups:
        group["lr"] = 0.0  # the weights stay those of the snapshot
    model.train()

    def go() -> None:
        torch.manual_seed(0)  # the same dropout for all ways
        with mock.patch.object(transducer, "rnnt_from_joiner", loss):
            for batch in batches:
                adamw.zero_grad(set_to_none=True)
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    found = model(batch)["loss"]
                found.backward()
                adamw.step()

    return go


def warmed(*args: object) -> Callable[[], None]:
    """Ready for `extra_peak_mib`: what is loaded or compiled once is there, and the optimizer has its state."""
    go = updates(*args)
    go()
    return go


def main() -> None:
    parser = arguments_of_run(__doc__)
    parser.set_defaults(repeat=3, batches=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    transducer_run(args.exp)
    print(f"{args.exp.name}, {machine()}, {args.batches} batches, {args.repeat} rounds\n")
    print("| updates | loss by | seconds an update | fused / it | extra MiB |\n|---|---|---:|---:|---:|")
    for snapshot in ["", *evenly(args.exp, args.snapshots)]:
        given = args.exp, args.manifest, snapshot, args.batches
        times = interleaved({way: updates(*given, way) for way in ways()}, args.repeat)
        for way, rounds in times.items():
            seconds, peak = statistics.median(rounds) / args.batches, extra_peak_mib(warmed, *given, way)
            print(
                f"| {int(snapshot or 0)} | {way} | {seconds:.3f} | {ratio(times, 'fused', way):.2f} | {peak:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
