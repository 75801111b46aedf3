"""Which cells of the Transducer's lattice are worth a joiner: pruned RNN-T (Kuang et al. 2022).

A joiner that only adds, am(t, v) + lm(u, v), has its whole lattice for one matrix product. Its posteriors say where the
alignments run: of each frame a window of `width` columns is kept, and the true joiner is computed in these cells alone
(`rnnt_from_joiner(kept=...)`). For width 2, four frames and two tokens, * is kept:

    u = 2  . . * *
    u = 1  * * * *
    u = 0  * * . .
     t =   0 1 2 3

The paper moves each frame's best window until its constraints hold; here the best windows that hold them are searched
for, which is no more work. Its smoothing of the simple joiner is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from asrtts.losses.rnnt import check, leaving_tokens
from asrtts.losses.rnnt_lattice import NO_PATH, edge_posteriors


def simple_rnnt(
    am: Tensor, lm: Tensor, tokens: Tensor, enc_lens: Tensor, token_lens: Tensor, blank_id: int = 0
) -> tuple[Tensor, Tensor]:
    """-log P(tokens) (B,) of the logits am(t, v) + lm(u, v), and the posterior of each cell, (B, T, U+1) float64.

    Args:
        am: (B, T, V), of what is heard. lm: (B, U+1, V), of what was said; row u has seen u tokens.
        tokens, enc_lens, token_lens: (B, U), (B,) and (B,).

    Raises:
        ValueError: as `rnnt_loss`; numbers that are no distribution give a loss of NaN.
    """
    device = am.device
    check(torch.Size((*am.shape[:2], *lm.shape[1:])), tokens, enc_lens, token_lens, blank_id)
    tokens, enc_lens, token_lens = (x.to(device, torch.int64) for x in (tokens, enc_lens, token_lens))
    targets = leaving_tokens(tokens, token_lens)
    with torch.autocast(device.type, enabled=False):
        am, lm = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (am, lm))
        am = am.masked_fill(_beyond(am, enc_lens), 0.0)
        lm = lm.masked_fill(_beyond(lm, token_lens + 1), 0.0)
        am_peak, lm_peak = am.detach().amax(-1, keepdim=True), lm.detach().amax(-1, keepdim=True)
        # The log-sum over v of am + lm, for all cells as one product; peaks apart, so that nothing overflows.
        total = (am - am_peak).exp() @ (lm - lm_peak).exp().mT
        total = total.clamp_min(torch.finfo(total.dtype).tiny).log() + am_peak + lm_peak.mT
        log_blank = am[..., blank_id].unsqueeze(2) + lm[..., blank_id].unsqueeze(1) - total
        at_label = lm.gather(2, targets.unsqueeze(2)).mT  # (B, 1, U+1)
        log_label = am.gather(2, targets.unsqueeze(1).expand(-1, am.shape[1], -1)) + at_label - total
        return _AllAlignments.apply(log_blank, log_label, enc_lens, token_lens)


class _AllAlignments(torch.autograd.Function):
    """Edge log-probabilities to -log P and the posteriors of cells: d(-log P) / d edge = -posterior of the edge."""

    @staticmethod
    def forward(ctx, log_blank, log_label, enc_lens, token_lens):
        edges = (x.double().clone(memory_format=torch.contiguous_format) for x in (log_blank, log_label))
        loglik, on_blank, on_label = edge_posteriors(*edges, enc_lens, token_lens)
        ctx.save_for_backward(on_blank, on_label)
        ctx.kind = log_blank.dtype
        posterior = on_blank + on_label
        ctx.mark_non_differentiable(posterior)
        return -loglik.to(log_blank.dtype), posterior

    @staticmethod
    @once_differentiable
    def backward(ctx, scale, _):
        d_blank, d_label = (-scale[:, None, None] * x for x in ctx.saved_tensors)
        return d_blank.to(ctx.kind), d_label.to(ctx.kind), None, None


def kept_cells(posterior: Tensor, enc_lens: Tensor, token_lens: Tensor, width: int) -> Tensor:
    """Mask (B, T, U+1) of the cells inside the windows; all cells of an utterance whose tokens no windows could reach.

    Args:
        posterior: (B, T, U+1), zero beyond the lengths.
        width: columns of a window, at least 2.
    """
    enc_lens, token_lens = enc_lens.to(posterior.device), token_lens.to(posterior.device)
    starts = window_starts(posterior, enc_lens, token_lens, width)
    u = torch.arange(posterior.shape[2], device=posterior.device)
    inside = (u >= starts.unsqueeze(2)) & (u < starts.unsqueeze(2) + width)
    return inside | ~_reachable(enc_lens, token_lens, width)[:, None, None]


def window_starts(posterior: Tensor, enc_lens: Tensor, token_lens: Tensor, width: int) -> Tensor:
    """First column of each frame's window, (B, T): of all that hold the paper's constraints, those that keep the most
    posterior. A window begins where that of the frame before did or up to width - 1 higher; the first begins at 0,
    the last ends at U.
    """
    batch, frames, columns = posterior.shape
    last = (token_lens + 1 - width).clamp_min(0)  # where the last window begins
    count = max(1, columns - width + 1)
    summed = F.pad(posterior.double().cumsum(2), (1, 0))
    s = torch.arange(count, device=posterior.device)
    inside = summed[:, :, (s + width).clamp_max(columns)] - summed[:, :, s]  # (B, T, count): kept by each window
    inside = inside.masked_fill((s > last[:, None])[:, None], NO_PATH)
    best, came_from = inside[:, 0].masked_fill(s > 0, NO_PATH), []
    for t in range(1, frames):
        before, source = F.max_pool1d(
            F.pad(best, (width - 1, 0), value=NO_PATH).unsqueeze(1), width, 1, return_indices=True
        )
        came_from.append(source.squeeze(1) - (width - 1))
        best = before.squeeze(1) + inside[:, t]
    starts = [last]
    for t in range(frames - 2, -1, -1):
        source = came_from[t].gather(1, starts[-1].unsqueeze(1)).squeeze(1).clamp_min(0)
        starts.append(torch.where(t < enc_lens - 1, source, last))
    return torch.stack(starts[::-1], 1)


def _reachable(enc_lens: Tensor, token_lens: Tensor, width: int) -> Tensor:
    """Whether windows that rise by width - 1 a frame, the last one included, can end at U."""
    return enc_lens * (width - 1) >= token_lens


def _beyond(rows: Tensor, lens: Tensor) -> Tensor:
    return (torch.arange(rows.shape[1], device=rows.device) >= lens[:, None]).unsqueeze(2)
