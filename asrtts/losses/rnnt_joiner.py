"""Joiner and Transducer loss as one: exact, and the logits (B, T, U+1, V) never exist.

logits(t, u) = weight @ tanh(enc(t) + pred(u)) + bias is computed tile by tile over the real cells; what is kept of a
cell is its log-sum and its two edge posteriors. The backward computes the cells again, but only those that some
alignment passes with a probability above `threshold`: in a trained model most cells are never passed, and their share of the
gradient is below what float32 can hold (gradients differ by 3e-7 relative at the default 1e-7).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asrtts.losses.rnnt import check
from asrtts.losses.rnnt_lattice import edge_posteriors

TILE = 1 << 20  # elements of a tile's hidden rows and logits together: 4 MB of float32, what a core's cache holds


def rnnt_from_joiner(
    enc: Tensor,
    pred: Tensor,
    weight: Tensor,
    bias: Tensor,
    tokens: Tensor,
    enc_lens: Tensor,
    token_lens: Tensor,
    blank_id: int = 0,
    threshold: float = 1e-7,
) -> Tensor:
    """-log P(tokens) of every utterance, (B,), for the joiner `weight @ tanh(enc + pred) + bias`.

    Under autocast the matrix products run in its dtype; sums, exponentials and the lattice never do.

    Args:
        enc: (B, T, J), the projected encoder output.
        pred: (B, U+1, J), the projected predictor output; row u has seen u tokens.
        weight, bias: (V, J) and (V,).
        tokens, enc_lens, token_lens: (B, U), (B,) and (B,).
        threshold: smallest posterior of a cell that takes part in the backward; 0 for all.

    Raises:
        ValueError: as `rnnt_loss`; but numbers that are no distribution give a loss of NaN, which the trainer reports.
    """
    device = enc.device
    check(torch.Size((*enc.shape[:2], pred.shape[1], weight.shape[0])), tokens, enc_lens, token_lens, blank_id)
    product = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weight.dtype
    kind = torch.promote_types(weight.dtype, torch.float32)
    tokens, enc_lens, token_lens = (x.to(device, torch.int64) for x in (tokens, enc_lens, token_lens))
    with torch.autocast(device.type, enabled=False):
        floats = (x.to(kind) for x in (enc, pred, weight, bias))
        return _FromJoiner.apply(*floats, tokens, enc_lens, token_lens, blank_id, threshold, product)


class _FromJoiner(torch.autograd.Function):
    @staticmethod
    def forward(ctx, enc, pred, weight, bias, tokens, enc_lens, token_lens, blank_id, threshold, product):
        weight, bias = weight.to(product), bias.to(product)
        targets = torch.nn.functional.pad(tokens, (0, 1))
        shape = (*enc.shape[:2], pred.shape[1])
        t = torch.arange(shape[1], device=enc.device)[:, None]
        u = torch.arange(shape[2], device=enc.device)
        cells = ((t < enc_lens[:, None, None]) & (u <= token_lens[:, None, None])).flatten().nonzero().squeeze(1)
        log_blank = enc.new_zeros(shape)
        log_label, log_sum = torch.zeros_like(log_blank), torch.zeros_like(log_blank)
        for tile, at_frame, at_token in _tiles(cells, shape, weight):
            z = _logits(_hidden(enc, pred, at_frame, at_token), weight, bias)
            row_sum = z.logsumexp(-1)
            wanted = targets.flatten()[at_token].unsqueeze(1).clamp(min=0)
            log_sum.view(-1)[tile] = row_sum
            log_blank.view(-1)[tile] = z[:, blank_id] - row_sum
            log_label.view(-1)[tile] = z.gather(1, wanted).squeeze(1) - row_sum
        loglik, on_blank, on_label = edge_posteriors(log_blank, log_label, enc_lens, token_lens)
        ctx.save_for_backward(enc, pred, weight, bias, targets, log_sum, on_blank, on_label)
        ctx.blank_id, ctx.threshold = blank_id, threshold
        return -loglik.to(enc.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, scale):
        enc, pred, weight, bias, targets, log_sum, on_blank, on_label = ctx.saved_tensors
        d_enc, d_pred = torch.zeros_like(enc), torch.zeros_like(pred)
        d_weight, d_bias = torch.zeros_like(weight, dtype=enc.dtype), torch.zeros_like(bias, dtype=enc.dtype)
        alive = ((on_blank + on_label) > ctx.threshold) & (scale != 0.0)[:, None, None]
        for tile, at_frame, at_token in _tiles(alive.flatten().nonzero().squeeze(1), log_sum.shape, weight):
            blank, label = (x.flatten()[tile] * scale[at_frame // enc.shape[1]] for x in (on_blank, on_label))
            hidden = _hidden(enc, pred, at_frame, at_token)
            z = _logits(hidden, weight, bias)
            z = z.sub_(log_sum.flatten()[tile].unsqueeze(1)).exp_().mul_((blank + label).unsqueeze(1))
            z[:, ctx.blank_id] -= blank
            z.scatter_add_(1, targets.flatten()[at_token].unsqueeze(1).clamp(min=0), -label.unsqueeze(1))
            d_bias += z.sum(0)
            z = z.to(weight.dtype)
            d_weight += z.T @ hidden.to(weight.dtype)
            d_hidden = (z @ weight).to(enc.dtype).mul_(hidden.square_().neg_().add_(1.0))
            d_enc.view(-1, enc.shape[2]).index_add_(0, at_frame, d_hidden)
            d_pred.view(-1, enc.shape[2]).index_add_(0, at_token, d_hidden)
        return d_enc, d_pred, d_weight, d_bias, *(None,) * 6


def _tiles(cells: Tensor, shape: tuple[int, int, int], weight: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Flat cell numbers of (B, T, U+1), a tile at a time, with their rows in (B*T) and in (B*(U+1))."""
    for tile in cells.split(max(64, TILE // sum(weight.shape))):
        at_frame = tile // shape[2]
        yield tile, at_frame, at_frame // shape[1] * shape[2] + tile % shape[2]


def _hidden(enc: Tensor, pred: Tensor, at_frame: Tensor, at_token: Tensor) -> Tensor:
    rows = enc.reshape(-1, enc.shape[2]).index_select(0, at_frame)
    return rows.add_(pred.reshape(-1, pred.shape[2]).index_select(0, at_token)).tanh_()


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, hidden.to(weight.dtype), weight.T).to(hidden.dtype)
