"""Greedy Transducer search, batched over utterances, each at its own frame.

Between two emissions the predictor does not change, so the joiner looks at a block of frames ahead at once and jumps to
the first that is not blank: about U + T / block steps for the slowest utterance instead of T + U.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asrtts.search.hypothesis import Hypothesis
from asrtts.search.inputs import check_lens
from asrtts.search.language_model import Ahead, Fusion, State

Predict = Callable[[Tensor, State], tuple[Tensor, State]]  # tokens (N,), state -> (N, J), state
Join = Callable[[Tensor, Tensor], Tensor]  # (..., J), (..., J) -> (..., V) logits
BLOCK = 8  # frames looked at ahead: a token comes every 2 to 6 frames of 40 ms


def transducer_greedy(
    enc: Tensor,
    enc_lens: Tensor,
    predict: Predict,
    join: Join,
    state: State,
    blank_id: int = 0,
    max_symbols_per_frame: int = 5,
    lm: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """The best token at every step, one hypothesis an utterance; its score is that of this one alignment.

    Args:
        enc: (B, T, J), what `join` takes.
        state: of the predictor before anything was said; its tensors are (B, ...).
        max_symbols_per_frame: then a blank is taken, whatever its probability, so that no utterance loops for ever.
        lm: what language models add to each token and to the end; the best token is that of the sum.

    Raises:
        ValueError: lengths beyond the frames; with the batch index and the value.
    """
    check_lens(enc_lens, *enc.shape[:2])
    batch, device = len(enc), enc.device
    offsets = torch.arange(BLOCK, device=device)
    lens = enc_lens.to(device)
    frame = torch.zeros(batch, dtype=torch.int64, device=device)
    spoken = torch.zeros_like(frame)  # tokens at this frame
    score = torch.zeros(batch, dtype=torch.float64, device=device)
    taken = torch.zeros_like(frame)  # edges of the lattice: a blank for every frame, and every token
    pred, state = predict(torch.full((batch,), blank_id, dtype=torch.int64, device=device), state)
    ahead = Ahead(lm, batch, device) if lm else None
    steps: list[tuple[Tensor, ...]] = []
    while len(rows := (frame < lens).nonzero().squeeze(1)):
        at = frame[rows, None] + offsets
        real = at < lens[rows, None]
        seen = enc[rows[:, None], at.clamp(max=enc.shape[1] - 1)]
        log_probs = join(seen, pred[rows].unsqueeze(1)).float().log_softmax(-1)  # (N, block, V)
        fused = log_probs + ahead.scores[rows, None, :-1] if ahead else log_probs
        best_score, best = fused.max(-1)
        speaks = real & (best != blank_id)
        speaks[:, 0] &= spoken[rows] < max_symbols_per_frame
        emits = speaks.any(1)
        first = torch.where(emits, speaks.int().argmax(1), BLOCK)
        passed = real & (offsets < first[:, None])  # blanks on the way
        score[rows] += log_probs[..., blank_id].double().masked_fill(~passed, 0.0).sum(1)
        taken[rows] += passed.sum(1) + emits
        spoken[rows] = torch.where(first == 0, spoken[rows], 0)
        frame[rows] += first
        if not emits.any():
            continue
        first, best, best_score, log_probs = (x[emits] for x in (first.unsqueeze(1), best, best_score, log_probs))
        rows = rows[emits]
        token, added = best.gather(1, first).squeeze(1), best_score.gather(1, first).squeeze(1)
        log_prob = log_probs[torch.arange(len(rows), device=device), first.squeeze(1), token]
        score[rows] += added.double()
        steps.append((rows, token, frame[rows], log_prob.exp()))
        pred[rows], after = predict(token, tuple(s[rows] for s in state))
        for old, new in zip(state, after, strict=True):
            old[rows] = new
        if ahead:
            ahead.step(rows, token)
        spoken[rows] += 1
    if ahead:
        score += ahead.scores[:, -1]
    found = [Hypothesis([], s, steps=n) for s, n in zip(score.tolist(), taken.tolist(), strict=True)]
    for rows, *values in steps:
        for row, token, at_frame, confidence in zip(rows.tolist(), *(v.tolist() for v in values), strict=True):
            found[row].tokens.append(token)
            found[row].frames.append(at_frame)
            found[row].confidences.append(confidence)
    return [[hypothesis] for hypothesis in found]
