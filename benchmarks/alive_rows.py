"""How many cells of the lattice a training Transducer passes: what `rnnt_joiner` computes again in its backward.

    python benchmarks/alive_rows.py exp/transducer-1 data/train [--snapshots 3] [--batches 6]

A line for the weights before training and for snapshots of the run, evenly spread. Batches are those of training:
augmented, with dropout and in the run's precision. Alive is the share of real cells whose posterior is above the
threshold; the gradient's error is that of leaving out the others (the greatest of the batches, relative, in float32,
over the inputs of the joiner and its weights); time is that of joiner and loss, forward and backward, leaving them out
/ not. A run keeps its last
snapshots only: to see the early ones, train with training.keep_last=1000.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from _common import arguments, interleaved, machine, ratio
from torch import Tensor

from asrtts.asr.heads import transducer
from asrtts.asr.model import AsrModel
from asrtts.experiment.run_folder import Run
from asrtts.experiment.task_door import Place
from asrtts.losses.rnnt_joiner import rnnt_from_joiner
from asrtts.registry import UserError
from asrtts.tasks import recognition
from asrtts.text.tokenizer import Tokenizer
from asrtts.training.trainer import wants_bf16

THRESHOLDS = (1e-7, 1e-5, 1e-3)  # the first is the default of rnnt_from_joiner
CPU = torch.device("cpu")


def training_batches(run: Run, manifest: str) -> Iterator[dict]:
    """Those that the run was trained on, or would have been on another manifest."""
    data = run.settings.data.model_copy(update={"train": manifest, "tokens": str(run.folder / recognition.TOKENS)})
    task = recognition.open(run.settings.model_copy(update={"data": data}), CPU)
    task.restore(run)
    dataset = task.dataset(task.statistics)
    return (dataset[request] for request in task.requests(Place()))


def untrained(run: Run) -> AsrModel:
    return recognition.build_model(run.settings, Tokenizer.load(run.folder / recognition.TOKENS).vocab_size)


def evenly(exp: Path, count: int) -> list[str]:
    """Names of some of a run's snapshots, the first and the last among them."""
    there = sorted(path.stem for path in (exp / "snapshots").glob("*.safetensors"))
    count = min(count, len(there))
    return [there[round(i * (len(there) - 1) / max(1, count - 1))] for i in range(count)]


def joined(model: AsrModel, batch: dict, autocast: bool) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """What the head gives to `rnnt_from_joiner` for a batch, as leaves that want gradients, and the mask of a pruned
    one."""
    given: list[tuple[tuple[Tensor, ...], dict[str, Tensor]]] = []

    def record(*args: Tensor, **options: Tensor) -> Tensor:
        given.append((args, options))
        return rnnt_from_joiner(*args, **options)

    with (
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        mock.patch.object(transducer, "rnnt_from_joiner", record),
    ):
        model(batch)
    args, options = given[0]
    floats = (x.detach().float().requires_grad_() for x in args[:4])
    return (*floats, *args[4:]), options


def gradient(case: tuple[Tensor, ...], options: dict[str, Tensor], autocast: bool, threshold: float) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = rnnt_from_joiner(*case, threshold=threshold, **options)
    return torch.cat([x.flatten() for x in torch.autograd.grad(losses.sum(), case[:4])])


def posteriors(case: tuple[Tensor, ...], options: dict[str, Tensor], autocast: bool) -> Tensor:
    """Of every real cell, as one row. They are what the loss has kept for its backward, last of all."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        *_, on_blank, on_label = rnnt_from_joiner(*case, **options).grad_fn.saved_tensors
    t, u = (torch.arange(n) for n in on_blank.shape[1:])
    real = (t[:, None] < case[5][:, None, None]) & (u <= case[6][:, None, None])
    return (on_blank + on_label)[real]


def line(name: str, model: AsrModel, batches: list[dict], autocast: bool, repeat: int) -> str:
    """A row of the table: means over batches."""
    model.train()
    torch.manual_seed(0)  # the same dropout for all weights
    cells, shares, errors, gains, loss = 0, [], [], [], []
    for batch in batches:
        case, options = joined(model, batch, autocast)
        found = posteriors(case, options, autocast)
        cells += len(found)
        shares.append([float((found > threshold).double().mean()) for threshold in THRESHOLDS])
        sparse, dense = (gradient(case, options, False, threshold) for threshold in (THRESHOLDS[0], 0.0))
        errors.append(float((sparse - dense).norm() / dense.norm()))
        ways: dict[str, Callable[[], Tensor]] = {
            "sparse": lambda c=case, o=options: gradient(c, o, autocast, THRESHOLDS[0]),
            "dense": lambda c=case, o=options: gradient(c, o, autocast, 0.0),
        }
        gains.append(ratio(interleaved(ways, repeat), "sparse", "dense"))
        with torch.no_grad():
            loss.append(float(rnnt_from_joiner(*case, **options).mean()))
    alive = [f"{100 * statistics.mean(column):.1f} %" for column in zip(*shares, strict=True)]
    numbers = [
        f"{statistics.mean(loss):.2f}",
        str(cells),
        *alive,
        f"{max(errors):.1e}",
        f"{statistics.median(gains):.2f}",
    ]
    return f"| {' | '.join([name, *numbers])} |"


def arguments_of_run(doc: str | None) -> argparse.ArgumentParser:
    """Of a script that looks at a run's snapshots on the batches of its training."""
    parser = arguments(doc)
    parser.add_argument("exp", type=Path, help="folder of the run, e.g. exp/transducer-1")
    parser.add_argument("manifest", help="e.g. data/train")
    parser.add_argument("--snapshots", type=int, default=3, help="how many of those that are there (default: 3)")
    parser.add_argument("--batches", type=int, default=6, help="default: 6")
    return parser


def transducer_run(exp: Path) -> Run:
    """The run. Raises UserError if it has no Transducer."""
    run = Run.open(exp)
    if "transducer" not in run.settings.heads:
        raise UserError(f"{exp}: has no transducer head, but {', '.join(run.settings.heads)}")
    return run


def main() -> None:
    parser = arguments_of_run(__doc__)
    parser.set_defaults(repeat=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = transducer_run(args.exp)
    chosen = evenly(args.exp, args.snapshots)
    model = untrained(run)
    stream = training_batches(run, args.manifest)
    batches = [next(stream) for _ in range(args.batches)]
    autocast = wants_bf16(run.settings.training.precision, CPU)
    print(f"{args.exp.name}, {machine()}, {'bf16' if autocast else 'float32'} products, {args.batches} batches\n")
    print("| update | loss | cells |" + "".join(f" alive > {t:g} |" for t in THRESHOLDS) + " gradient's error | time |")
    print("|---|" + "---:|" * (len(THRESHOLDS) + 4))
    print(line("0", model, batches, autocast, args.repeat), flush=True)
    for name in chosen:
        print(line(str(int(name)), run.load(f"snapshots/{name}").model, batches, autocast, args.repeat), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
