"""Joiner and Transducer loss, forward and backward: time and extra memory of ours against whatever peer is there.

    python benchmarks/transducer_loss.py [--threads 1] [--repeat 3] [--shape 8,150,30,500]

logits = weight @ tanh(enc + pred) + bias, of a joiner of width 512; gradients to all four. A peer needs the logits in
memory; `materialized` is that with our own loss of given logits. Posteriors are of a model that is sure of one
alignment ("trained") or of none; ours computes in the backward what is alive. The pruned loss is another loss, so it
stands in rows of its own. All peers are run at the first shape; the larger ones, which take them minutes, are for the
best one that is there.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
from _common import NOT_INSTALLED, Row, arguments, extra_peak_mib, interleaved, machine, markdown, ratio, version
from alive_rows import posteriors
from torch import Tensor
from transducer_logits import PEERS, SLOW, Shape, packed, random_lens, usable
from transducer_logits import WAYS as LOSSES

from asrtts.losses.rnnt_joiner import rnnt_from_joiner
from asrtts.losses.rnnt_pruning import kept_cells, simple_rnnt

Case = tuple[Tensor, ...]  # enc, pred, weight, bias, tokens, enc_lens, token_lens
SHAPES: list[Shape] = [(8, 150, 30, 500), (16, 200, 50, 1024), (4, 250, 60, 4233)]
TINY: Shape = (2, 12, 3, 20)
WIDTH = 512
ALIVE = 1e-7  # the threshold of rnnt_from_joiner
SURE = 0.2  # a loss of 1 to 4, and 28 % of the cells alive at the first shape, 14 % at the last


def example(shape: Shape, trained: bool) -> Case:
    """Trained: at even distances a frame calls for a token, which is only said where the predictor expects it."""
    batch, frames, count, vocab = shape
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    weight, tokens = normal(vocab, WIDTH) / WIDTH**0.5, torch.randint(1, vocab, (batch, count), generator=generator)
    enc_lens, token_lens = random_lens(batch, frames, generator), random_lens(batch, count, generator)
    enc, pred = 0.5 * normal(batch, frames, WIDTH), 0.5 * normal(batch, count + 1, WIDTH)
    if trained:
        weight = 2.0 * weight
        drawn = SURE * WIDTH**0.5 * weight  # what makes a token likely
        enc += 1.4 * drawn[0]  # the blank, as long as not both call for a token
        pred[:, :-1] += drawn[tokens]
        for b, (t, u) in enumerate(zip(enc_lens.tolist(), token_lens.tolist(), strict=True)):
            enc[b, torch.arange(u) * t // max(u, 1)] += drawn[tokens[b, :u]]
    return enc, pred, weight, torch.zeros(vocab), tokens, enc_lens, token_lens


def fused(*case: Tensor) -> Tensor:
    return rnnt_from_joiner(*case)


def fused_bf16(*case: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return rnnt_from_joiner(*case)


def pruned(enc: Tensor, pred: Tensor, weight: Tensor, bias: Tensor, *target: Tensor) -> Tensor:
    """Simple joiner and windows of 5. The simple joiner borrows the true one's weights, which costs what its own do."""
    simple, posterior = simple_rnnt(enc @ weight.T, pred @ weight.T, *target)
    return simple + rnnt_from_joiner(enc, pred, weight, bias, *target, kept=kept_cells(posterior, *target[1:], 5))


def of_logits(name: str) -> Callable[..., Tensor]:
    def loss(enc: Tensor, pred: Tensor, weight: Tensor, bias: Tensor, *target: Tensor) -> Tensor:
        hidden = torch.tanh(enc.unsqueeze(2) + pred.unsqueeze(1))
        rows = packed(hidden, *target[1:]) if name == "optimized_transducer" else hidden
        return LOSSES[name](torch.nn.functional.linear(rows, weight, bias), *target)

    return loss


OURS = {"fused": fused, "fused bf16": fused_bf16, "pruned": pruned}


def ready(name: str, case: Case) -> Callable[[], object]:
    floats, target = [x.requires_grad_() for x in case[:4]], case[4:]
    way = OURS.get(name) or of_logits("ours" if name == "materialized" else name)
    return lambda: torch.autograd.grad(way(*floats, *target).sum(), floats)


def prepared(name: str, shape: Shape, trained: bool) -> Callable[[], object]:
    ready(name, example(TINY, trained))()
    return ready(name, example(shape, trained))


def rows(repeat: int = 3) -> Iterator[Row]:
    for shape in SHAPES:
        for trained in (True, False):
            yield from rows_of(shape, trained, min(repeat, 3))


def rows_of(shape: Shape, trained: bool, repeat: int) -> Iterator[Row]:
    # A trained model's gradients are full of numbers too small to be normal, which a CPU multiplies many times slower:
    # one peer took 8 times as long. Ours writes none; with this, theirs are 0 too, which is a switch that users have.
    torch.set_flush_denormal(True)
    rivals = [name for name in PEERS if name not in SLOW | {"textbook"}]  # the best one first
    present = [name for name in rivals if usable(name)]
    if shape != SHAPES[0]:
        present = present[:1]
        rivals = present or rivals[:1]
    case, names = example(shape, trained), [*OURS, "materialized", *present]
    times = interleaved({name: ready(name, case) for name in names}, repeat)
    alive = float((posteriors(case, {}, False) > ALIVE).double().mean())
    del case
    peaks = {name: extra_peak_mib(prepared, name, shape, trained) for name in names}
    kind = f"B,T,U,V {','.join(map(str, shape))}; {'trained' if trained else 'untrained'}, {100 * alive:.0f} % alive"

    def row(ours: str, theirs: str, label: str, products: str, goal: float | None = None) -> Row:
        mine, other = (statistics.median(times[name]) if name in times else None for name in (ours, theirs))
        return Row(
            what="joiner and pruned Transducer loss" if ours == "pruned" else "joiner and Transducer loss",
            case=f"{kind}; {products}",
            ours=mine,
            peer=label,
            theirs=other,
            ratio=ratio(times, ours, theirs) if other is not None else None,
            goal=goal,
            ours_mib=peaks[ours],
            theirs_mib=peaks.get(theirs),
            note="" if other is not None else NOT_INSTALLED,
        )

    yield row("fused", "materialized", "the joiner in torch, our loss on logits", "float32")
    for name in rivals:
        label = version(PEERS[name][2]) if name in present else name
        yield row("fused", name, label, "float32", goal(shape, trained, False, name))
        yield row("fused bf16", name, label, "ours in bf16", goal(shape, trained, True, name))
    yield row("pruned", "fused", "ours, exact", "range 5, float32")
    yield row("fused bf16", "fused", "ours in float32", "bf16")


def goal(shape: Shape, trained: bool, in_bf16: bool, name: str) -> float | None:
    """Of the best exact peer on a CPU."""
    if name != "optimized_transducer":
        return None
    if not trained:
        return None if in_bf16 else 0.85
    return {4233: 0.22 if in_bf16 else 0.45, 1024: None if in_bf16 else 0.40}.get(shape[3])


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.set_defaults(repeat=3)
    parser.add_argument("--shape", help="B,T,U,V (default: three of them)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.shape:
        SHAPES[:] = [tuple(int(n) for n in args.shape.split(","))]
    print(machine(), markdown(rows(args.repeat)), sep="\n\n")
