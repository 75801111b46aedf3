"""The Transducer loss of given logits: exact, summed over all alignments (Graves 2012).

The log-softmax is never stored: each row is read once for its log-sum, the lattice gives it the posteriors of its two
edges, and the backward reads it a second time if alignments pass it: d/dz = (p_blank + p_label) softmax(z) -
onehots. What is kept of a row is three float64, so that nothing cancels where the model is sure. float32 on a CPU runs
in compiled rows; all else, and CUDA, in tiles of torch operations.
Training goes through `rnnt_joiner`, where the logits are not stored either; this one is for models that have them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asrtts.losses.rnnt_lattice import edge_posteriors

TILE = 1 << 20  # logits at a time: 4 MB of float32, what a core's cache holds
# What is smaller is written as 0: products of it are no normal float32, and a CPU multiplies such many times slower.
LEAST_GRADIENT = 2.0**-100
# A row that alignments pass with less than this has a gradient of zero: of random logits that is every other row, and
# 6e-10 of the whole gradient. Times the loss where that is below 1, as the gradient of a sure model is as small.
FAINT = 1e-9


def rnnt_loss(
    logits: Tensor,
    tokens: Tensor,
    logit_lens: Tensor,
    token_lens: Tensor,
    blank_id: int = 0,
    reduction: str = "none",
    overwrite_logits: bool = False,
) -> Tensor:
    """-log P(tokens | logits) of every utterance, (B,) in natural units, or its mean over utterances.

    Args:
        logits: (B, T, U+1, V), unnormalized; -inf is allowed (a forbidden token). Computed in float32 at least.
        tokens: (B, U), no blanks; U may be 0. Padding is never read.
        logit_lens, token_lens: (B,), in frames and tokens.
        reduction: "none" or "mean".
        overwrite_logits: the backward writes the gradient over the logits: no second (B, T, U+1, V), but nobody else
            may need them.

    Returns: infinity, with a gradient of zero, for an utterance that the logits forbid.

    Raises:
        ValueError: no frames, lengths beyond the tensors, blank_id or tokens beyond V, or logits that are no
            distribution (NaN, +inf, a row of -inf); with the batch index and the value.
    """
    if logits.dim() != 4 or not logits.is_floating_point():
        raise ValueError(f"logits: wanted floats (B, T, U+1, V), found {logits.dtype} {tuple(logits.shape)}")
    if reduction not in ("none", "mean"):
        raise ValueError(f"reduction: wanted 'none' or 'mean', found '{reduction}'")
    check(logits.shape, tokens, logit_lens, token_lens, blank_id)
    tokens, logit_lens, token_lens = (x.to(logits.device, torch.int64) for x in (tokens, logit_lens, token_lens))
    loss = _GivenLogits.apply(logits, tokens, logit_lens, token_lens, blank_id, overwrite_logits)
    return loss.mean() if reduction == "mean" else loss


def check(shape: torch.Size, tokens: Tensor, logit_lens: Tensor, token_lens: Tensor, blank_id: int) -> None:
    """Raise ValueError where lengths, tokens or blank_id do not fit logits of this shape (B, T, U+1, V)."""
    batch, frames, width, vocab = shape
    if min(shape) == 0:
        raise ValueError(f"logits: a dimension of zero in (B, T, U+1, V) = {tuple(shape)}")
    if not 0 <= blank_id < vocab:
        raise ValueError(f"blank_id {blank_id} is outside the vocabulary of {vocab}")
    if tokens.shape != (batch, width - 1):
        raise ValueError(f"tokens: wanted (B, U) = {(batch, width - 1)}, found {tuple(tokens.shape)}")
    if tokens.is_floating_point():
        raise ValueError(f"tokens: wanted whole numbers, found {tokens.dtype}")
    for name, lens, low, high in (("logit_lens", logit_lens, 1, frames), ("token_lens", token_lens, 0, width - 1)):
        if lens.shape != (batch,) or lens.is_floating_point():
            raise ValueError(f"{name}: wanted {batch} whole numbers, found {lens.dtype} {tuple(lens.shape)}")
        for b, found in enumerate(lens.tolist()):
            if not low <= found <= high:
                raise ValueError(f"{name}[{b}] is {found}, wanted {low} to {high}")
    real = torch.arange(width - 1, device=tokens.device) < token_lens.to(tokens.device)[:, None]
    wrong = (real & ((tokens < 0) | (tokens >= vocab) | (tokens == blank_id))).nonzero()
    if len(wrong):
        b, u = wrong[0].tolist()
        raise ValueError(
            f"tokens[{b}, {u}] is {int(tokens[b, u])}, wanted 0 to {vocab - 1} without the blank {blank_id}"
        )


class _GivenLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, tokens, logit_lens, token_lens, blank_id, overwrite):
        place = leaving_tokens(tokens, token_lens), logit_lens.contiguous(), token_lens.contiguous()
        log_sum, log_blank, log_label = _zeros(3, *logits.shape[:3], device=logits.device)
        way = _compiled_log_probs if _compiles(logits) else _log_probs
        way(logits.detach(), *place, blank_id, log_sum, log_blank, log_label)
        _refuse_no_distribution(log_sum)
        loglik, on_blank, on_label = edge_posteriors(log_blank, log_label, *place[1:])
        least = 0.0 if logits.dtype == torch.float64 else FAINT
        ctx.save_for_backward(logits, *place, log_sum, on_blank, on_label, (-loglik).clamp(0.0, 1.0) * least)
        ctx.blank_id, ctx.overwrite = blank_id, overwrite
        return -loglik.to(torch.promote_types(logits.dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx, scale):
        logits, *place, log_sum, on_blank, on_label, faint = ctx.saved_tensors
        grad = logits if ctx.overwrite else torch.empty_like(logits)
        way = _compiled_gradient if _compiles(logits) else _gradient
        way(logits, *place, ctx.blank_id, log_sum, on_blank, on_label, faint, scale.double().contiguous(), grad)
        return grad, None, None, None, None, None


def _zeros(*shape: int, device: torch.device) -> Tensor:
    """float64. On a CPU numpy's: torch would wake its threads for it, which then spin where those of the rows work."""
    if device.type == "cpu":
        return torch.from_numpy(np.zeros(shape))
    return torch.zeros(shape, dtype=torch.float64, device=device)


def _compiles(logits: Tensor) -> bool:
    fits = logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.is_contiguous()
    return fits and importlib.util.find_spec("numba") is not None


def _compiled_log_probs(logits: Tensor, *args: Tensor | int) -> None:
    from asrtts.losses.rnnt_numba import log_probs
    from asrtts.numba_helpers import in_slices  # see rnnt_lattice: numba takes a second to import

    in_slices(log_probs, logits.shape[0] * logits.shape[1], *_arrays(logits, *args))


def _compiled_gradient(logits: Tensor, *args: Tensor | int) -> None:
    from asrtts.losses.rnnt_numba import gradient
    from asrtts.numba_helpers import in_slices

    *others, grad = args
    in_place = grad is logits
    in_slices(gradient, logits.shape[0] * logits.shape[1], *_arrays(logits, *others, grad[:0] if in_place else grad))
    torch.autograd.graph.increment_version(grad)  # whoever else kept the logits is told that they are gone


def _arrays(*args: Tensor | int) -> list[np.ndarray | int]:
    return [x.numpy() if isinstance(x, Tensor) else x for x in args]


def _log_probs(logits, targets, logit_lens, token_lens, blank_id, log_sum, log_blank, log_label) -> None:
    """`rnnt_numba.log_probs` in torch operations, for any device, kind of float and layout."""
    kind = torch.promote_types(logits.dtype, torch.float32)
    for cells in _tiles(logits, logit_lens, token_lens):
        z = logits[cells].to(kind)
        blank, label = z[..., blank_id].double(), z.gather(-1, _column(targets, cells, z)).squeeze(-1).double()
        peak = z.amax(-1, keepdim=True)
        total = (z - peak).exp_().sum(-1, dtype=torch.float64).log_().add_(peak.squeeze(-1))
        log_sum[cells] = total = total.where(peak.squeeze(-1).isfinite(), peak.squeeze(-1))
        log_blank[cells], log_label[cells] = blank - total, label - total


def _gradient(
    logits, targets, logit_lens, token_lens, blank_id, log_sum, on_blank, on_label, faint, scale, grad
) -> None:
    """`rnnt_numba.gradient` in torch operations."""
    kind = torch.promote_types(logits.dtype, torch.float32)
    for cells in _tiles(logits, logit_lens, token_lens):
        unread = on_blank[cells] + on_label[cells] < faint[cells[0]]
        blank, label = (x[cells].masked_fill(unread, 0.0) * scale[cells[0]] for x in (on_blank, on_label))
        z = logits[cells].to(kind, copy=True)
        to_gradient(z, _column(targets, cells, z), blank_id, log_sum[cells], blank, label)
        grad[cells] = torch.nn.functional.hardshrink(z, LEAST_GRADIENT).to(grad.dtype)
    for b, (frames, width) in enumerate(zip(logit_lens.tolist(), token_lens.tolist(), strict=True)):
        grad[b, frames:] = 0.0
        grad[b, :, width + 1 :] = 0.0


def to_gradient(z: Tensor, column: Tensor, blank_id: int, log_sum: Tensor, on_blank: Tensor, on_label: Tensor) -> None:
    """Turn logits (..., V) into the loss's gradient with respect to them, in place.

    Args:
        column: (..., 1), the token of the row's label edge.
        log_sum, on_blank, on_label: (...) float64.
    """
    total, blank, label = log_sum.unsqueeze(-1), on_blank.unsqueeze(-1), on_label.unsqueeze(-1)
    log_p, log_q = z[..., blank_id, None].double() - total, z.gather(-1, column).double() - total
    near = total.to(z.dtype)  # z - near is exact where it matters
    z.sub_(near).exp_().mul_(((blank + label) * (near - total).exp()).to(z.dtype))
    # p (blank + label) - blank, written so that nothing cancels where p is almost 1
    z.scatter_(-1, column, (log_q.exp() * blank + log_q.expm1() * label).to(z.dtype))
    z[..., blank_id, None] = (log_p.exp() * label + log_p.expm1() * blank).to(z.dtype)


def _tiles(logits: Tensor, logit_lens: Tensor, token_lens: Tensor) -> Iterator[tuple[int, slice, slice]]:
    """Index tuples (b, t0:t1, 0:U_b+1) that cover the real cells and nothing else."""
    for b, (frames, width) in enumerate(zip(logit_lens.tolist(), token_lens.tolist(), strict=True)):
        step = max(1, TILE // ((width + 1) * logits.shape[-1]))
        for start in range(0, frames, step):
            yield b, slice(start, min(start + step, frames)), slice(0, width + 1)


def leaving_tokens(tokens: Tensor, token_lens: Tensor) -> Tensor:
    """(B, U+1): the token that leaves column u; 0, whose value is never used, from the last real column on."""
    padded = torch.nn.functional.pad(tokens, (0, 1))
    return padded.masked_fill(torch.arange(padded.shape[1], device=tokens.device) >= token_lens[:, None], 0)


def _column(targets: Tensor, cells: tuple[int, slice, slice], z: Tensor) -> Tensor:
    return targets[cells[0], cells[2]][None, :, None].expand(*z.shape[:2], 1)


def _refuse_no_distribution(log_sum: Tensor) -> None:
    finite = np.isfinite(log_sum.numpy()) if log_sum.device.type == "cpu" else log_sum.isfinite()  # see _zeros
    if finite.all():
        return
    b, t, u = (~log_sum.isfinite()).nonzero()[0].tolist()
    found = float(log_sum[b, t, u])
    raise ValueError(f"logits[{b}, {t}, {u}] are no distribution: their log-sum is {found} (NaN or infinite logits)")
