"""Label-synchronous beam search over an attention decoder, alone or with CTC prefix probabilities.

All utterances of a batch step together; one leaves when nothing that still grows can reach its n best.
"""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from asrtts.registry import UserError
from asrtts.search.ctc_prefix_score import CtcPrefixScores
from asrtts.search.hypothesis import Hypothesis
from asrtts.search.inputs import check_lens
from asrtts.search.language_model import GRACE, FusedPrefixes, Fusion


class Decoder(Protocol):
    """What the search asks of a decoder that holds the state of B utterances with K hypotheses each."""

    def step(self, tokens: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Append tokens (B, K') to hypotheses `parents` (B, K'); log-probabilities (B, K', V + 1) of the next token,
        the last one of them the end of the sentence, and the frame (B, K') that it is read from."""

    def keep(self, utterances: Tensor) -> None:
        """Go on with these utterances only."""


@torch.no_grad()
def attention_beam(
    decoder: Decoder,
    lens: Tensor,
    eos: int,
    beam: int = 10,
    nbest: int = 1,
    length_bonus: float = 0.0,
    ctc: CtcPrefixScores | None = None,
    ctc_weight: float = 0.0,
    blank_id: int = 0,
    lm: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """The n best token sequences of each utterance, best first.

    Score: (1 - ctc_weight) * log p_attention(tokens, eos) + ctc_weight * log p_ctc(tokens)
    + length_bonus * (number of tokens + 1 for eos) + what `lm` adds to each token and to eos.
    With CTC beside the decoder, a hypothesis goes on with one of the 1.5 * beam tokens that the other scores like best.
    A hypothesis ends with eos only, and only if the ended one is among the `beam` best of its step. Frames are those
    that the decoder looked at; confidences are the decoder's probabilities.

    Args:
        lens: (B,), the most tokens a hypothesis may have: the encoder frames.
        eos: id of the start and end of a sentence; the tokens are 0 to eos - 1.
        ctc_weight: 0 to 1; above 0 it needs `ctc`.

    Raises:
        ValueError: lengths below 0; with the batch index and the value.
    """
    check_lens(lens, len(lens))
    if nbest > beam:
        raise UserError(f"nbest {nbest} is more than beam {beam} can hold; raise beam")
    assert ctc is not None or ctc_weight == 0
    alive = list(range(len(lens)))  # the utterance of each row
    ended: list[list[Hypothesis]] = [[] for _ in alive]
    tokens = torch.full((len(alive), 1), eos, device=lens.device)
    parents = torch.zeros_like(tokens)
    best = torch.zeros(len(alive), 1, device=lens.device)  # (B, K), what the search ranks by
    spoken = torch.zeros_like(best)  # (B, K), the decoder's log-probability of the tokens so far
    path = Path.empty(len(alive), lens.device)
    fused = FusedPrefixes(lm, len(alive), lens.device) if lm else None
    taken = [0] * len(alive)
    for length in count():
        step, looked = decoder.step(tokens, parents)
        for utterance in alive:
            taken[utterance] += 1
        ahead = fused.candidates() if fused else None
        ranked = step if ahead is None else (1 - ctc_weight) * step + ahead
        options = _options(ranked, blank_id, _width(beam, ctc_weight, eos))
        step = step.gather(2, options)  # (B, K, C + 1), as all scores from here on; the last one is of the end
        total = spoken[:, :, None] + step
        joint = total if ctc_weight == 0 else (1 - ctc_weight) * total + ctc_weight * ctc.candidates(options)
        if ahead is not None:
            joint = joint + ahead.gather(2, options)
        dead = best.isneginf()[:, :, None]  # places without a hypothesis: fewer than K were possible
        joint = (joint + length_bonus * (length + 1)).masked_fill(dead, float("-inf"))
        grown, whole = joint[:, :, :-1], joint[:, :, -1]
        grown.masked_fill_((lens <= length)[:, None, None], float("-inf"))
        best, index = grown.flatten(1).topk(min(beam, grown[0].numel()))
        both = torch.cat([best, whole], 1)
        worst = both.topk(min(beam, both.shape[1])).values[:, -1:]
        for r, k in ((whole >= worst) & whole.isfinite()).nonzero().tolist():
            insort(ended[alive[r]], path.read(r, k, whole[r, k].item()), key=lambda h: -h.score)
            del ended[alive[r]][nbest:]
        if length == 0:
            empty = whole[:, 0].tolist()

        hope = best[:, 0] + max(length_bonus, 0.0) * (lens - length).clamp(0, GRACE)
        if fused:
            hope = hope + fused.ahead.rise(~dead.squeeze(2))
        rows = [r for r, most in enumerate(hope.tolist()) if _goes_on(most, ended[alive[r]], nbest)]
        if not rows:
            # Where no ended hypothesis was ever among the best, the empty one stands in with its own score.
            found = [hypotheses or [Hypothesis([], score)] for hypotheses, score in zip(ended, empty, strict=True)]
            for hypotheses, steps in zip(found, taken, strict=True):
                for hypothesis in hypotheses:
                    hypothesis.steps = steps
            return found
        parents = index // grown.shape[2]
        tokens, spoken, sure = (x[:, :, :-1].flatten(1).gather(1, index) for x in (options, total, step.exp()))
        looked = looked.gather(1, parents)
        if len(rows) < len(alive):
            alive, left = [alive[r] for r in rows], torch.tensor(rows, device=lens.device)
            for part in (decoder, path, *([ctc] if ctc_weight else []), *([fused] if fused else [])):
                part.keep(left)
            tokens, parents, lens, best = tokens[left], parents[left], lens[left], best[left]
            spoken, looked, sure = spoken[left], looked[left], sure[left]
        path.grow(parents, tokens, looked, sure)
        if ctc_weight:
            ctc.advance(parents, tokens)
        if fused:
            fused.advance(parents, tokens)


@dataclass
class Path:
    """The hypotheses themselves: for each of their tokens (B, K, U) the id, the frame and the confidence."""

    tokens: Tensor
    frames: Tensor
    confidences: Tensor

    @classmethod
    def empty(cls, utterances: int, device: torch.device) -> Path:
        none = torch.zeros(utterances, 1, 0, dtype=torch.long, device=device)
        return cls(none, none, none.float())

    def grow(self, parents: Tensor, tokens: Tensor, frames: Tensor, confidences: Tensor) -> None:
        wide = parents[:, :, None].expand(-1, -1, self.tokens.shape[2])
        self.tokens = torch.cat([self.tokens.gather(1, wide), tokens[:, :, None]], 2)
        self.frames = torch.cat([self.frames.gather(1, wide), frames[:, :, None]], 2)
        self.confidences = torch.cat([self.confidences.gather(1, wide), confidences[:, :, None]], 2)

    def keep(self, utterances: Tensor) -> None:
        self.tokens, self.frames = self.tokens[utterances], self.frames[utterances]
        self.confidences = self.confidences[utterances]

    def read(self, row: int, k: int, score: float) -> Hypothesis:
        tokens, frames, confidences = (x[row, k].tolist() for x in (self.tokens, self.frames, self.confidences))
        return Hypothesis(tokens, score, frames, confidences)


def _goes_on(most: float, ended: list[Hypothesis], nbest: int) -> bool:
    """Whether anything that still grows can reach the n best; `most` is the highest score it can get."""
    return most > float("-inf") and (len(ended) < nbest or most > ended[-1].score)


def _width(beam: int, ctc_weight: float, vocab_size: int) -> int:
    """With how many tokens each hypothesis may go on."""
    if ctc_weight == 0:
        return beam  # the best of all hypotheses are among the best of each
    # What CTC thinks of a token is only known once it is asked. ESPnet asks of 1.5 * beam too; all, if it is alone.
    return vocab_size if ctc_weight == 1 else math.ceil(1.5 * beam)


def _options(scores: Tensor, blank_id: int, count: int) -> Tensor:
    """(B, K, C + 1): the `count` best tokens of scores (B, K, V + 1), but for the blank, and then the end, V."""
    vocab, device = scores.shape[2] - 1, scores.device
    if count >= vocab - 1:
        every = torch.arange(vocab + 1, device=device)
        return every[every != blank_id].expand(*scores.shape[:2], -1)
    tokens = scores[:, :, :-1].index_fill(2, torch.tensor(blank_id, device=device), float("-inf"))
    return F.pad(tokens.topk(count).indices, (0, 1), value=vocab)
