"""Language models in a search: shallow fusion (Gulcehre et al. 2015) and density ratios, as one weighted score.

A search adds to a token what `Fusion` says of it, and to a whole hypothesis what it says of the end of the sentence,
once. It knows nothing else of language models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

# A search stops when nothing that grows can win. Without a bonus scores only fall as a hypothesis grows, so it knows
# when; with one, or a density ratio, it would have to go on to the longest length. It grants this many tokens instead.
GRACE = 10

State = tuple[Tensor, ...]  # the first dimension of each tensor is the hypothesis, so that a search can reorder it


class LanguageModel(Protocol):
    """Log-probabilities (N, V + 1) of what comes next for N hypotheses; column V is the end of the sentence, and that
    of the blank, 0, is zero."""

    vocab_size: int

    def start(self, count: int, device: torch.device) -> tuple[Tensor, State]:
        """Before the first token."""

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """After one token (N,) more."""


class Fusion:
    """The weighted sum of language models, plus `bonus` for every token (not for the end).

    A negative weight subtracts: with a low-order n-gram of the training text that is the low-order density ratio
    (Zheng et al. 2022), which takes away what the recognizer has learnt of the language by itself.
    """

    def __init__(self, vocab_size: int, models: Sequence[tuple[LanguageModel, float]], bonus: float = 0.0) -> None:
        self.vocab_size, self.models = vocab_size, list(models)
        self.bonus = torch.full((vocab_size + 1,), bonus)
        self.bonus[[0, vocab_size]] = 0.0

    def start(self, count: int, device: torch.device) -> tuple[Tensor, State]:
        """What to add (N, V + 1) to each token that comes first, and to the end; and the state."""
        return self._sum([model.start(count, device) for model, _ in self.models], count, device)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """The same after one token (N,) more."""
        parts = []
        for (model, _), size in zip(self.models, self.sizes, strict=True):
            parts.append(model.step(tokens, state[:size]))
            state = state[size:]
        return self._sum(parts, len(tokens), tokens.device)

    def _sum(self, parts: list[tuple[Tensor, State]], count: int, device: torch.device) -> tuple[Tensor, State]:
        self.sizes = [len(state) for _, state in parts]
        total = self.bonus.to(device).expand(count, -1)
        for (scores, _), (_, weight) in zip(parts, self.models, strict=True):
            total = total + weight * scores
        return total.clone(), tuple(tensor for _, state in parts for tensor in state)


class Ahead:
    """What fusion adds next (N, V + 1) to each of the N hypotheses that a search holds, in its order."""

    def __init__(self, lm: Fusion, count: int, device: torch.device) -> None:
        self.lm = lm
        self.scores, self.state = lm.start(count, device)

    def reorder(self, rows: Tensor) -> None:
        """Hypothesis i is what hypothesis rows[i] was."""
        self.scores, *state = (x[rows] for x in (self.scores, *self.state))
        self.state = tuple(state)

    def step(self, rows: Tensor, tokens: Tensor) -> None:
        """One token more at `rows`; the others stay as they are."""
        self.scores[rows], after = self.lm.step(tokens, tuple(x[rows] for x in self.state))
        for old, new in zip(self.state, after, strict=True):
            old[rows] = new

    def rise(self, alive: Tensor) -> Tensor:
        """By how much the hypotheses of B utterances may gain (B,), where those that are alive (B, K) can at all."""
        most = self.scores.amax(1).view_as(alive).masked_fill(~alive, 0.0)
        return GRACE * most.amax(1).clamp(min=0.0)


class FusedPrefixes:
    """Fusion for hypotheses of one length: its scores are of the whole prefix."""

    def __init__(self, lm: Fusion, utterances: int, device: torch.device) -> None:
        self.ahead = Ahead(lm, utterances, device)
        self.total = torch.zeros(utterances, 1, device=device)  # (B, K)

    def candidates(self) -> Tensor:
        """(B, K, V + 1): of each hypothesis plus each token; last column: as a whole sentence."""
        return self.total[:, :, None] + self.ahead.scores.view(*self.total.shape, -1)

    def advance(self, parents: Tensor, tokens: Tensor) -> None:
        utterances, width = self.total.shape
        scores = self.candidates()
        self.total = scores.flatten(1).gather(1, parents * scores.shape[2] + tokens)
        first = torch.arange(utterances, device=parents.device)[:, None] * width
        self.ahead.reorder((first + parents).flatten())
        self.ahead.step(torch.arange(tokens.numel(), device=tokens.device), tokens.flatten())

    def keep(self, utterances: Tensor) -> None:
        width = self.total.shape[1]
        places = torch.arange(width, device=utterances.device)
        self.ahead.reorder((utterances[:, None] * width + places).flatten())
        self.total = self.total[utterances]
