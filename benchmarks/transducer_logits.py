"""The Transducer loss of given logits, forward and gradient: time and extra memory against whatever peer is there.

    python benchmarks/transducer_logits.py [--threads 1] [--repeat 5]

The bound is what the memory allows: two reads of the valid logits and one write of all.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
from _common import NOT_INSTALLED, Row, extra_peak_mib, interleaved, main, peer, ratio, version
from torch import Tensor

from asrtts.losses.rnnt import rnnt_loss

Shape = tuple[int, int, int, int]  # B, T, U, V
Way = Callable[..., Tensor]  # logits, tokens, logit_lens, token_lens -> (B,) or their sum

NEMO = "nemo.collections.asr.parts.numba.rnnt_loss"
ISSUE, SMALL, TINY = (16, 200, 50, 1024), (8, 150, 30, 500), (2, 40, 10, 100)


def ours(logits: Tensor, *rest: Tensor) -> Tensor:
    return rnnt_loss(logits, *rest, overwrite_logits=True)


def out_of_place(logits: Tensor, *rest: Tensor) -> Tensor:
    return rnnt_loss(logits, *rest)


def textbook(logits: Tensor, tokens: Tensor, logit_lens: Tensor, token_lens: Tensor) -> Tensor:
    """log_softmax and Graves' recursion over anti-diagonals, differentiated by torch."""
    batch, frames, width, _ = logits.shape
    log_probs = logits.log_softmax(-1)
    blank = log_probs[..., 0]
    label = log_probs[:, :, :-1].gather(-1, tokens[:, None, :, None].expand(-1, frames, -1, 1)).squeeze(-1)
    u = torch.arange(width)
    alpha, ends = logits.new_zeros(batch, width).index_fill(1, u[1:], -torch.inf), []
    for d in range(1, frames + width):
        t = d - u
        inside = (t >= 0) & (t < frames)
        stay = alpha + blank[:, (t - 1).clamp(0, frames - 1), u].masked_fill((t < 1) | (t > frames), -torch.inf)
        ends.append(stay)  # where column U_b meets t = T_b, stay is log P
        move = alpha[:, :-1] + label[:, t[1:].clamp(0, frames - 1), u[:-1]]
        alpha = torch.cat([stay[:, :1], torch.logaddexp(stay[:, 1:], move)], 1).masked_fill(~inside, -torch.inf)
    return -torch.stack(ends, 1)[torch.arange(batch), logit_lens + token_lens - 1, token_lens]


def warprnnt_numba(logits: Tensor, *rest: Tensor) -> Tensor:
    return peer("warprnnt_numba").RNNTLossNumba(blank=0, reduction="none")(logits, *(x.int() for x in rest))


def nemo(logits: Tensor, *rest: Tensor) -> Tensor:
    return peer(NEMO).RNNTLossNumba(blank=0, reduction="none")(logits, *rest)


def warp_transducer(logits: Tensor, *rest: Tensor) -> Tensor:
    """Takes the log-softmax of what it is given, on a CPU; its CUDA part does not need it."""
    return peer("warprnnt_pytorch").RNNTLoss(blank=0, reduction="none")(logits, *(x.int() for x in rest))


def torchaudio(logits: Tensor, *rest: Tensor) -> Tensor:
    return peer("torchaudio.functional").rnnt_loss(logits, *(x.int() for x in rest), blank=0, reduction="none")


def optimized_transducer(logits: Tensor, tokens: Tensor, logit_lens: Tensor, token_lens: Tensor) -> Tensor:
    """Wants the valid rows alone, one below the other; packing them is not counted against it (see `packed`)."""
    given = tokens.int(), logit_lens.int(), token_lens.int()
    return peer("optimized_transducer").transducer_loss(
        logits, *given, blank=0, reduction="sum", from_log_softmax=False
    )


# name: (way, module, distribution)
PEERS: dict[str, tuple[Way, str, str]] = {
    "textbook": (textbook, "torch", "torch"),
    "optimized_transducer": (optimized_transducer, "optimized_transducer", "optimized_transducer"),
    "warp-transducer": (warp_transducer, "warprnnt_pytorch", "warprnnt_pytorch"),
    "torchaudio": (torchaudio, "torchaudio.functional", "torchaudio"),
    "warprnnt-numba": (warprnnt_numba, "warprnnt_numba", "warprnnt-numba"),
    "NeMo": (nemo, NEMO, "nemo-toolkit"),
}
GOALS = {"optimized_transducer": 0.15, "warp-transducer": 0.10}  # at ISSUE
SLOW = {"warprnnt-numba", "NeMo"}  # walk the lattice in Python: minutes at real sizes
WAYS = {"ours": ours, "out of place": out_of_place, **{name: way for name, (way, *_) in PEERS.items()}}


def random_lens(batch: int, longest: int, generator: torch.Generator) -> Tensor:
    """70 to 100 % of the longest, which is there."""
    some = torch.randint(int(0.7 * longest), longest + 1, (batch,), generator=generator)
    return some.index_fill_(0, torch.tensor([0]), longest)


def example(shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, frames, count, vocab = shape
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, frames, count + 1, vocab, generator=generator)
    tokens = torch.randint(1, vocab, (batch, count), generator=generator)
    return logits, tokens, random_lens(batch, frames, generator), random_lens(batch, count, generator)


def packed(logits: Tensor, logit_lens: Tensor, token_lens: Tensor) -> Tensor:
    """(sum of T_b * (U_b + 1), V)."""
    sizes = zip(logits, logit_lens.tolist(), token_lens.tolist(), strict=True)
    return torch.cat([x[:t, : u + 1].flatten(0, 1) for x, t, u in sizes])


def case(name: str, shape: Shape) -> Callable[[], object]:
    """Loss and gradient of one way. Overwritten logits are not made anew: the time does not depend on the values."""
    logits, *rest = example(shape)
    given = packed(logits, *rest[1:]) if name == "optimized_transducer" else logits

    def run() -> None:
        source = given.detach().requires_grad_()
        torch.autograd.grad(WAYS[name](source, *rest).sum(), source)  # `backward` would copy it into source.grad

    return run


def prepared(name: str, shape: Shape) -> Callable[[], object]:
    case(name, TINY)()
    return case(name, shape)


def bound(shape: Shape) -> Callable[[], object]:
    """Two reads of what is valid and one write of all, by torch's own kernels."""
    logits, _, logit_lens, token_lens = example(shape)
    share = float((logit_lens * (token_lens + 1)).sum()) / (logits.numel() / shape[3])
    flat = logits.flatten()
    valid = flat[: int(share * len(flat))]

    def run() -> None:
        valid.sum()
        valid.sum()
        flat.fill_(0.5)

    return run


def usable(name: str) -> bool:
    """Whether a peer can be run. A torchaudio whose compiled part does not load imports all the same."""
    module = peer(PEERS[name][1])
    return module is not None and (name != "torchaudio" or hasattr(torch.ops.torchaudio, "rnnt_loss_forward"))


def at_the_bound(times: dict[str, list[float]], name: str) -> str:
    """What the ratio could be at most: nobody is faster than the memory."""
    return f"at the traffic bound it would be {ratio(times, 'bound', name):.2f}" if name in GOALS else ""


def rows(repeat: int = 5) -> Iterator[Row]:
    for shape in (ISSUE, SMALL, TINY):
        yield from rows_of(shape, repeat)


def rows_of(shape: Shape, repeat: int) -> Iterator[Row]:
    """At the tiny shape, the slow ones alone: what the others take there is the time of their calls."""
    rivals = [name for name in PEERS if (name in SLOW) == (shape == TINY)]
    present = [name for name in rivals if usable(name)]
    own = ["ours"] if shape == TINY else ["ours", "out of place"]
    ways = {name: case(name, shape) for name in [*own, *present]}
    times = interleaved({**ways, "bound": bound(shape)}, repeat)
    del ways
    mine, others = statistics.median(times["ours"]), [*(["bound", "out of place"] if shape != TINY else []), *rivals]
    peaks = {name: extra_peak_mib(prepared, name, shape) for name in [*own, *present]}
    for name in others:
        measured = name in times
        label = {"bound": "traffic bound (2 reads, 1 write)", "out of place": "ours, out of place"}.get(name)
        yield Row(
            what="Transducer loss on logits",
            case=f"B,T,U,V {','.join(map(str, shape))}; float32",
            ours=mine,
            peer=label
            or (f"{version(PEERS[name][2])} {name if name == 'textbook' else ''}".strip() if measured else name),
            theirs=statistics.median(times[name]) if measured else None,
            ratio=ratio(times, "ours", name) if measured else None,
            goal=GOALS.get(name) if shape == ISSUE else None,
            ours_mib=peaks["ours"],
            theirs_mib=peaks.get(name),
            note=at_the_bound(times, name) if measured else NOT_INSTALLED,
        )


if __name__ == "__main__":
    main(__doc__, rows)
