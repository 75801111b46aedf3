"""Joiner and Transducer loss as one: exact, and the logits (B, T, U+1, V) never exist.

logits(t, u) = weight @ tanh(enc(t) + pred(u)) + bias is computed tile by tile over the real cells; what is kept of a
cell is its log-sum and its two edge posteriors. The backward computes the cells again, but only those that alignments
pass with a probability above `threshold`: in a trained model most cells are never passed, and their share of the
gradient is below what float32 can hold (at the default 1e-7 gradients differ by 1e-7 to 1e-6 relative: the AN4 recipe's
README has them over a training).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asrtts.losses.rnnt import check, leaving_tokens, to_gradient
from asrtts.losses.rnnt_lattice import NO_PATH, edge_posteriors

TILE = 1 << 20  # elements of a tile's hidden rows and logits together: 4 MB of float32, what a core's cache holds
FEWEST_CELLS = 64  # of a tile, however large the vocabulary: below, a matrix product is all overhead


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
    kept: Tensor | None = None,
) -> Tensor:
    """-log P(tokens) of every utterance, (B,), for the joiner `weight @ tanh(enc + pred) + bias`.

    Under autocast the matrix products run in its dtype; sums, exponentials and the lattice never do.

    Args:
        enc: (B, T, J), the projected encoder output.
        pred: (B, U+1, J), the projected predictor output; row u has seen u tokens.
        weight, bias: (V, J) and (V,).
        tokens, enc_lens, token_lens: (B, U), (B,) and (B,).
        threshold: smallest posterior of a cell that takes part in the backward; 0 for all.
        kept: mask (B, T, U+1) of the cells that alignments may pass (see `rnnt_pruning`); None for all.

    Raises:
        ValueError: as `rnnt_loss`; but numbers that are no distribution give a loss of NaN, which the trainer reports.
    """
    device = enc.device
    check(torch.Size((*enc.shape[:2], pred.shape[1], weight.shape[0])), tokens, enc_lens, token_lens, blank_id)
    product = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weight.dtype
    kind = torch.promote_types(weight.dtype, torch.float32)
    tokens, enc_lens, token_lens = (x.to(device, torch.int64) for x in (tokens, enc_lens, token_lens))
    with torch.autocast(device.type, enabled=False):
        floats = (x.to(kind).contiguous() for x in (enc, pred, weight, bias))
        return _FromJoiner.apply(*floats, tokens, enc_lens, token_lens, blank_id, threshold, product, kept)


class _FromJoiner(torch.autograd.Function):
    @staticmethod
    def forward(ctx, enc, pred, weight, bias, tokens, enc_lens, token_lens, blank_id, threshold, product, kept):
        weight = weight.to(product)
        targets = leaving_tokens(tokens, token_lens)
        shape = (*enc.shape[:2], pred.shape[1])
        t = torch.arange(shape[1], device=enc.device)[:, None]
        u = torch.arange(shape[2], device=enc.device)
        real = (t < enc_lens[:, None, None]) & (u <= token_lens[:, None, None])
        real = real if kept is None else real & kept
        # float64, so that nothing cancels where the model is sure
        log_blank = enc.new_full(shape, NO_PATH, dtype=torch.float64)
        log_label, log_sum = log_blank.clone(), torch.zeros_like(log_blank)
        for cells, at_frame, at_token in _tiles(real, weight):
            z = _hidden(enc, pred, at_frame, at_token).to(product) @ weight.T
            way = _compiled_log_probs if _compiles(z) else _log_probs
            way(z, bias, cells, targets.take(at_token), blank_id, log_sum, log_blank, log_label)
        loglik, on_blank, on_label = edge_posteriors(log_blank, log_label, enc_lens, token_lens)
        ctx.save_for_backward(enc, pred, weight, bias, targets, log_sum, on_blank, on_label)
        ctx.blank_id, ctx.threshold = blank_id, threshold
        return -loglik.to(enc.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, scale):
        enc, pred, weight, bias, targets, log_sum, on_blank, on_label = ctx.saved_tensors
        d_enc, d_pred = torch.zeros_like(enc), torch.zeros_like(pred)
        d_weight, d_bias = torch.zeros_like(weight, dtype=enc.dtype), torch.zeros_like(bias, dtype=torch.float64)
        alive = (on_blank + on_label > ctx.threshold) & (scale != 0.0)[:, None, None]
        on_blank, on_label = on_blank * scale[:, None, None], on_label * scale[:, None, None]
        for cells, at_frame, at_token in _tiles(alive, weight):
            hidden = _hidden(enc, pred, at_frame, at_token)
            rounded = hidden.to(weight.dtype)
            z = rounded @ weight.T
            way = _compiled_gradient if _compiles(z) else _gradient
            dz = way(z, bias, cells, targets.take(at_token), ctx.blank_id, log_sum, on_blank, on_label, d_bias)
            d_weight += dz.T @ rounded
            d_hidden = torch.ops.aten.tanh_backward((dz @ weight).to(enc.dtype), hidden)
            d_enc.view(-1, enc.shape[2]).index_add_(0, at_frame, d_hidden)
            d_pred.view(-1, enc.shape[2]).index_add_(0, at_token, d_hidden)
        return d_enc, d_pred, d_weight, d_bias.to(enc.dtype), *(None,) * 7


def _compiles(z: Tensor) -> bool:
    """One thread only: a tile is too small to be shared out by anything but torch."""
    fits = z.device.type == "cpu" and z.dtype in (torch.bfloat16, torch.float32) and torch.get_num_threads() == 1
    return fits and importlib.util.find_spec("numba") is not None


def _compiled_log_probs(*args: Tensor | int) -> None:
    from asrtts.losses import joiner_loops  # see rnnt_lattice: numba takes a second to import

    joiner_loops.log_probs(*args)


def _compiled_gradient(z: Tensor, *args: Tensor | int) -> Tensor:
    from asrtts.losses import joiner_loops

    joiner_loops.gradient(z, *args)
    return z


def _log_probs(z, bias, cells, targets, blank_id, log_sum, log_blank, log_label) -> None:
    """`joiner_loops.log_probs` in torch operations, for any device and kind of float."""
    z = z.to(bias.dtype).add_(bias)
    blank, label = z[:, blank_id].to(torch.float64, copy=True), z.gather(1, targets.unsqueeze(1)).squeeze(1).double()
    peak = z.amax(1, keepdim=True)
    total = z.sub_(peak).exp_().sum(1, dtype=torch.float64).log_().add_(peak.squeeze(1))
    for kept, values in ((log_sum, total), (log_blank, blank - total), (log_label, label - total)):
        kept.put_(cells, values)


def _gradient(z, bias, cells, targets, blank_id, log_sum, on_blank, on_label, d_bias) -> Tensor:
    """`joiner_loops.gradient` in torch operations; what it returns has the dtype of z."""
    dz = z.to(bias.dtype).add_(bias)
    to_gradient(dz, targets.unsqueeze(1), blank_id, *(x.take(cells) for x in (log_sum, on_blank, on_label)))
    d_bias += dz.sum(0)
    return dz.to(z.dtype)


def _tiles(chosen: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Flat numbers of the chosen cells of (B, T, U+1), a tile at a time, with their rows in (B*T) and in (B*(U+1))."""
    frames, width = chosen.shape[1:]
    for cells in chosen.flatten().nonzero().squeeze(1).split(max(FEWEST_CELLS, TILE // sum(weight.shape))):
        at_frame = cells // width
        yield cells, at_frame, cells + (at_frame // frames - at_frame) * width


def _hidden(enc: Tensor, pred: Tensor, at_frame: Tensor, at_token: Tensor) -> Tensor:
    rows = enc.view(-1, enc.shape[2]).index_select(0, at_frame)
    return rows.add_(pred.view(-1, pred.shape[2]).index_select(0, at_token)).tanh_()
