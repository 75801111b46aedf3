"""How well a language model predicts a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from asrtts.search.language_model import LanguageModel

BATCH = 64  # sentences


@dataclass(frozen=True)
class Perplexity:
    token: float  # the end of a sentence counts as one
    word: float  # likewise


def perplexity(model: LanguageModel, sentences: Sequence[Sequence[int]], words: int) -> Perplexity:
    """words: how many the sentences have in all."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    total = 0.0
    for start in range(0, len(order), BATCH):
        total += _log_probs(model, [sentences[i] for i in order[start : start + BATCH]])
    tokens = sum(map(len, sentences))
    return Perplexity(*(math.exp(-total / (count + len(sentences))) for count in (tokens, words)))


def _log_probs(model: LanguageModel, sentences: Sequence[Sequence[int]]) -> float:
    """The sum over the sentences, stepped together; one that has ended goes on with any token, uncounted."""
    lens = torch.tensor([len(s) for s in sentences])
    tokens = torch.tensor([[*s, *[1] * (int(lens.max()) - len(s))] for s in sentences], dtype=torch.int64)
    scores, state = model.start(len(sentences), torch.device("cpu"))
    total = 0.0
    for u in range(tokens.shape[1] + 1):
        total += float(scores[lens == u, -1].double().sum())
        if u == tokens.shape[1]:
            return total
        total += float(scores.gather(1, tokens[:, u, None]).double()[lens > u].sum())
        scores, state = model.step(tokens[:, u], state)
    return total
