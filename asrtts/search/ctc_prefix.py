"""CTC prefix beam search: the likeliest token sequences, each the sum of its paths (Hannun et al. 2014)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from asrtts.registry import UserError
from asrtts.search.hypothesis import Hypothesis
from asrtts.search.inputs import check_lens, refuse_nan
from asrtts.search.language_model import Ahead, Fusion


def ctc_prefix_beam(
    log_probs: Tensor,
    lens: Tensor,
    beam: int = 10,
    nbest: int = 1,
    per_frame: int = 10,
    blank_id: int = 0,
    lm: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """The n best token sequences of each utterance, best first.

    The score is the log-probability of the sequence, summed over the paths that stayed in the beam: exact where the
    beam and `per_frame` hold everything, a lower bound otherwise. Frames and confidences come from the likeliest path
    of each sequence, as in the greedy search. Runs on the CPU; the candidates of a frame are picked where log_probs is.

    Args:
        log_probs: (B, T, V), normalized over V.
        lens: (B,), valid frames.
        per_frame: how many tokens, the likeliest ones, may extend a prefix at a frame.
        lm: what language models add to each token and to the end; the beam is ranked with it.

    Raises:
        ValueError: lengths beyond the frames, or NaN; with the batch index and the value.
    """
    from asrtts.search import ctc_kernels

    if nbest > beam:
        raise UserError(f"nbest {nbest} is more than beam {beam} can hold; raise beam")
    check_lens(lens, *log_probs.shape[:2])
    log_probs = log_probs.detach().float()
    likeliest, has_nan = _likeliest(log_probs, min(per_frame + 1, log_probs.shape[-1]))  # one may be the blank
    if has_nan:
        refuse_nan(log_probs, lens)
    log_probs = log_probs.cpu().contiguous()
    if lm is None:
        rows = (log_probs[b, :n].numpy() for b, n in enumerate(lens.tolist()))
        beams = [
            ctc_kernels.prefix_beam(row, best[: len(row)], beam, blank_id)
            for row, best in zip(rows, likeliest, strict=True)
        ]
    else:
        beams = _fused(log_probs, lens.cpu(), likeliest, beam, blank_id, lm)
    found = []
    for b, (n, (scores, nodes, parent, token)) in enumerate(zip(lens.tolist(), beams, strict=True)):
        best = []
        for score, node in zip(scores[:nbest].tolist(), nodes[:nbest].tolist(), strict=True):
            tokens = []
            while node > 0:
                tokens.append(int(token[node]))
                node = int(parent[node])
            frames, confidences = ctc_times(log_probs[b, :n].numpy(), tokens[::-1], blank_id)
            best.append(Hypothesis(tokens[::-1], score, frames, confidences, steps=n))
        found.append(best)
    return found


def _likeliest(log_probs: Tensor, count: int) -> tuple[np.ndarray, bool]:
    """(B, T, count): ids of the tokens with the greatest log_probs (B, T, V), greatest first; whether one is NaN."""
    from asrtts.search import ctc_kernels

    if log_probs.device.type != "cpu":
        values, found = log_probs.topk(count)  # NaN counts as the greatest
        return found.cpu().numpy(), bool(values.isnan().any())
    rows = log_probs.flatten(0, 1).contiguous().numpy()
    found, has_nan = ctc_kernels.likeliest_tokens(rows, count)
    return found.reshape(*log_probs.shape[:2], count), has_nan


def _fused(
    log_probs: Tensor, lens: Tensor, likeliest: np.ndarray, beam: int, blank_id: int, lm: Fusion
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """What the kernel `prefix_beam` gives, for each utterance. Language models are asked for new prefixes alone, for
    those of all utterances at once."""
    from asrtts.search import ctc_kernels

    batch, frames, _ = log_probs.shape
    beams = tree, _, held, paths = ctc_kernels.start_beams(batch, frames, beam)
    ahead = Ahead(lm, batch * beam, torch.device("cpu"))
    first = torch.arange(batch)[:, None] * beam
    for t in range(frames):
        scores = ahead.scores.view(batch, beam, -1).numpy()
        ctc_kernels.prefix_frame(t, lens.numpy(), log_probs.numpy(), likeliest, scores, blank_id, beams)
        source, token = torch.from_numpy(held[:, 1:]).unbind(1)
        ahead.reorder((first + source).flatten())
        new = (token.flatten() >= 0).nonzero().squeeze(1)
        if len(new):
            ahead.step(new, token.flatten()[new])
    ends = ahead.scores[:, -1].view(batch, beam).double().numpy()
    for b in range(batch):
        live, nodes = tree.size[b]
        node = held[b, 0, :live]
        scores = paths[b, 2, :live] + tree.added[b, node] + ends[b, :live]
        order = np.argsort(-scores, kind="stable")
        yield scores[order], node[order], tree.parent[b, :nodes], tree.token[b, :nodes]


def ctc_times(log_probs: np.ndarray, tokens: list[int], blank_id: int = 0) -> tuple[list[int], list[float]]:
    """Frame and posterior of each token on the likeliest CTC path of (T, V) that spells `tokens`."""
    from asrtts.search import ctc_kernels

    frames = ctc_kernels.align(log_probs, np.asarray(tokens, dtype=np.int64), blank_id)
    assert not tokens or frames[0] >= 0, f"{len(tokens)} tokens have no path through {len(log_probs)} frames"
    return frames.tolist(), np.exp(log_probs[frames, tokens]).tolist() if tokens else []
