"""CTC prefix probabilities for label-synchronous search (Watanabe et al. 2017, algorithm 2).

Written as sums: the probability that the tokens begin with g and then c is the sum over t of phi(t - 1) p_t(c). So a
candidate costs T products, and the forward recursion runs for the hypotheses that survive, not for the candidates.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class CtcPrefixScores(Protocol):
    """Forward variables of B utterances with K hypotheses each; starts with one empty hypothesis."""

    def candidates(self, options: Tensor) -> Tensor:
        """(B, K, C): log-probability that the tokens begin with the hypothesis and then the token `options` (B, K, C).

        Option V: log-probability of the hypothesis as the whole sentence. The blank has none: -inf.
        """

    def advance(self, parents: Tensor, tokens: Tensor) -> None:
        """Replace the K hypotheses by hypothesis `parents` plus `tokens`, both (B, K')."""

    def keep(self, utterances: Tensor) -> None:
        """Go on with these utterances only."""


def ctc_prefix_scores(log_probs: Tensor, lens: Tensor, blank_id: int = 0, few: bool = True) -> CtcPrefixScores:
    """Of log_probs (B, T, V), normalized over V, and lens (B,); `few`: most tokens will be no option."""
    kind = CompiledScores if few and log_probs.device.type == "cpu" else TensorScores
    return kind(log_probs, lens, blank_id)


class CompiledScores:
    """Loops over the options and the frames that count."""

    def __init__(self, log_probs: Tensor, lens: Tensor, blank_id: int) -> None:
        self.log_probs = log_probs.detach().float().contiguous().numpy()  # (N, T, V), of all utterances to the end
        self.utterances, self.lens, self.blank_id = np.arange(len(lens)), lens.numpy(), blank_id
        # Index t of the last axis: after t frames. What ends in blank or in the last token, and what ends in blank.
        blanks = log_probs[:, :, blank_id].double().cumsum(1)
        self.either = self.blank = F.pad(blanks, (1, 0))[:, None].numpy()  # (B, K, T + 1)
        self.last = np.full((len(lens), 1), -1)  # (B, K)

    def candidates(self, options: Tensor) -> Tensor:
        from asrtts.search import ctc_kernels

        found = torch.empty(options.shape)
        state = self.utterances, self.either, self.blank, self.last
        ctc_kernels.score_options(
            self.log_probs, self.lens, *state, options.contiguous().numpy(), self.blank_id, found.numpy()
        )
        return found

    def advance(self, parents: Tensor, tokens: Tensor) -> None:
        from asrtts.search import ctc_kernels

        parents, tokens = parents.contiguous().numpy(), tokens.contiguous().numpy()
        either, blank = np.empty((2, *tokens.shape, self.either.shape[2]))
        state = self.either, self.blank, self.last
        ctc_kernels.grow_prefixes(
            self.log_probs, self.lens, self.utterances, parents, tokens, *state, self.blank_id, either, blank
        )
        self.either, self.blank, self.last = either, blank, tokens

    def keep(self, utterances: Tensor) -> None:
        for name in ("utterances", "lens", "either", "blank", "last"):
            setattr(self, name, getattr(self, name)[utterances.numpy()])


class TensorScores:
    """One matrix product for all tokens at once, and the recursion as two cumulative sums over t."""

    def __init__(self, log_probs: Tensor, lens: Tensor, blank_id: int) -> None:
        utterances, frames, _ = log_probs.shape
        beyond = torch.arange(frames, device=log_probs.device) >= lens[:, None]
        # A probability of exactly zero would be infinity minus infinity in `advance`; e^-1e4 is as good as zero.
        self.log_probs = log_probs.float().masked_fill(beyond[:, :, None], -1e4).clamp(min=-1e4)
        self.probs = self.log_probs.exp()
        self.lens, self.blank_id = lens, blank_id
        # Cumulative sums in float64: their differences are taken, and they grow with T.
        self.blanks = _cumulative(self.log_probs[:, :, blank_id])[:, None]  # (B, 1, T + 1)
        # Index t of the last axis: after t frames. What ends in blank, and what ends in the last token.
        self.blank = self.blanks.clone()  # (B, K, T + 1)
        self.label = torch.full_like(self.blank, float("-inf"))
        self.last = torch.full((utterances, 1), -1, device=lens.device)  # (B, K)

    def candidates(self, options: Tensor) -> Tensor:
        either = torch.logaddexp(self.blank, self.label)
        whole = either.gather(2, self.lens[:, None, None].expand(-1, either.shape[1], 1))  # (B, K, 1)
        # Scaled so that the peak of each hypothesis is 1e18, or long utterances would underflow. What is 37 decades
        # below the peak becomes zero: the product is several times slower with numbers too small to be normal.
        scale = either.amax(2, keepdim=True).clamp(min=-1e30) - math.log(1e18)
        before = F.threshold((either[:, :, :-1] - scale).exp().float(), 1e-19, 0.0)
        last = self.last.clamp(min=0)
        again = (self.blank[:, :, :-1] - scale).exp() * self._of(self.probs, last)  # a repeat needs a blank between
        with torch.autocast(self.probs.device.type, enabled=False):
            scores = before @ self.probs
        scores.scatter_(2, last[:, :, None], again.sum(2, keepdim=True).float()).log_().add_(scale.float())
        scores[:, :, self.blank_id] = float("-inf")
        return torch.cat([scores, whole.float()], 2).gather(2, options)

    def advance(self, parents: Tensor, tokens: Tensor) -> None:
        wide = parents[:, :, None].expand(-1, -1, self.blank.shape[2])
        blank, label = self.blank.gather(1, wide), self.label.gather(1, wide)
        repeated = tokens == self.last.gather(1, parents)
        before = torch.where(repeated[:, :, None], blank, torch.logaddexp(blank, label))
        sums = _cumulative(self._of(self.log_probs, tokens))
        # label[t] = (label[t-1] + before[t-1]) * p_t: divided by the product of all p up to t it is a cumulative sum.
        self.label = _shifted(torch.logcumsumexp(before - sums, 2)) + sums
        self.blank = _shifted(torch.logcumsumexp(self.label - self.blanks, 2)) + self.blanks
        self.last = tokens

    def keep(self, utterances: Tensor) -> None:
        for name in ("log_probs", "probs", "lens", "blanks", "blank", "label", "last"):
            setattr(self, name, getattr(self, name)[utterances])

    @staticmethod
    def _of(values: Tensor, tokens: Tensor) -> Tensor:
        """values (B, T, V) at tokens (B, K) -> (B, K, T)."""
        return values.gather(2, tokens[:, None, :].expand(-1, values.shape[1], -1)).transpose(1, 2)


def _cumulative(log_probs: Tensor) -> Tensor:
    """(..., T) -> (..., T + 1) in float64: the sum of the first t values."""
    return F.pad(log_probs.double().cumsum(-1), (1, 0))


def _shifted(x: Tensor) -> Tensor:
    """x[t] = x[t - 1], nothing (-inf) at t = 0."""
    return F.pad(x[:, :, :-1], (1, 0), value=float("-inf"))
