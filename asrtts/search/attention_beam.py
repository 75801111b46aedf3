"""Label-synchronous beam search over an attention decoder, alone or with CTC prefix probabilities.

All utterances of a batch step together; one leaves when nothing that still grows can reach its n best.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from asrtts.registry import UserError
from asrtts.search.hypothesis import Hypothesis
from asrtts.search.language_model import GRACE, FusedPrefixes, Fusion


class Decoder(Protocol):
    """What the search asks of a decoder that holds the state of B utterances with K hypotheses each."""

    def step(self, tokens: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Append tokens (B, K') to hypotheses `parents` (B, K'); log-probabilities (B, K', V + 1) of the next token,
        the last one of them the end of the sentence, and the frame (B, K') that it is read from."""

    def keep(self, utterances: Tensor) -> None:
        """Go on with these utterances only."""


class Prefixes(Protocol):
    """A second scorer whose scores are of the whole prefix: CTC, or language models."""

    def candidates(self) -> Tensor:
        """(B, K, V + 1): of each hypothesis plus each token; last column: as a whole sentence."""

    def advance(self, parents: Tensor, tokens: Tensor) -> None: ...

    def keep(self, utterances: Tensor) -> None: ...


@torch.no_grad()
def attention_beam(
    decoder: Decoder,
    lens: Tensor,
    eos: int,
    beam: int = 10,
    nbest: int = 1,
    length_bonus: float = 0.0,
    ctc: Prefixes | None = None,
    ctc_weight: float = 0.0,
    blank_id: int = 0,
    lm: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """The n best token sequences of each utterance, best first.

    Score: (1 - ctc_weight) * log p_attention(tokens, eos) + ctc_weight * log p_ctc(tokens)
    + length_bonus * (number of tokens + 1 for eos) + what `lm` adds to each token and to eos.
    A hypothesis ends with eos only, and only if the ended one is among the `beam` best of its step. Frames are those
    that the decoder looked at; confidences are the decoder's probabilities.

    Args:
        lens: (B,), the most tokens a hypothesis may have: the encoder frames.
        eos: id of the start and end of a sentence; the tokens are 0 to eos - 1.
        ctc_weight: 0 to 1; above 0 it needs `ctc`.
    """
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
        total = spoken[:, :, None] + step  # (B, K, V + 1)
        joint = total if ctc_weight == 0 else (1 - ctc_weight) * total + ctc_weight * ctc.candidates()
        if fused:
            joint = joint + fused.candidates()
        dead = best.isneginf()[:, :, None]  # places without a hypothesis: fewer than K were possible
        joint = (joint + length_bonus * (length + 1)).masked_fill(dead, float("-inf"))
        whole, grown = joint[:, :, eos], joint[:, :, :eos]
        grown.masked_fill_((lens <= length)[:, None, None], float("-inf"))
        grown[:, :, blank_id] = float("-inf")
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
        tokens, parents = index % eos, index // eos
        spoken, looked, sure = _at(total, parents, tokens), looked.gather(1, parents), _at(step, parents, tokens).exp()
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


def _at(scores: Tensor, parents: Tensor, tokens: Tensor) -> Tensor:
    """scores (B, K, V) of each chosen parent and token (B, K')."""
    return scores.flatten(1).gather(1, parents * scores.shape[2] + tokens)
