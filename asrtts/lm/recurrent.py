"""A language model with an LSTM (Sundermeyer et al. 2012), for one token after the other or a whole sentence."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from asrtts.config import Settings
from asrtts.losses.cross_entropy import sequence_cross_entropy
from asrtts.search.language_model import State


class Config(Settings):
    dim: int = Field(256, ge=1, le=65536)
    layers: int = Field(1, ge=1, le=1000)
    dropout: float = Field(0.3, ge=0.0, lt=1.0)  # of embeddings and outputs


class RecurrentLm(nn.Module):
    """A LanguageModel of search/language_model.py that the one loop trains.

    One matrix is embedding and output (Press and Wolf 2017). Id V is the start and the end of a sentence.
    """

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.layers, self.dim = vocab_size, config.layers, config.dim
        self.embedding = nn.Embedding(vocab_size + 1, config.dim)
        nn.init.normal_(self.embedding.weight, std=config.dim**-0.5)
        self.lstm = nn.LSTM(config.dim, config.dim, config.layers, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.bias = nn.Parameter(torch.zeros(vocab_size + 1))

    def forward(self, batch: dict[str, Any], turn: str = "model") -> dict[str, Tensor]:
        """The mean over sentences (N, U) of minus the log-probability of their tokens and their end."""
        tokens, lens = batch["tokens"], batch["token_lens"]
        edge = tokens.new_full((len(tokens), 1), self.vocab_size)
        out, _ = self.lstm(self.dropout(self.embedding(torch.cat([edge, tokens], 1))))
        targets = torch.cat([tokens, edge], 1).scatter(1, lens[:, None], self.vocab_size)
        each, accuracy = sequence_cross_entropy(self._logits(out), targets, lens + 1, smoothing=0.0)
        return {"loss": each.mean(), "accuracy": accuracy}

    @torch.no_grad()
    def start(self, count: int, device: torch.device) -> tuple[Tensor, State]:
        none = torch.zeros(1, self.layers, self.dim, device=device)
        scores, state = self.step(torch.tensor([self.vocab_size], device=device), (none, none))
        return scores.repeat(count, 1), tuple(x.repeat(count, 1, 1) for x in state)

    @torch.no_grad()
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """state: two of (N, layers, D), on the device of `tokens`, which need not be the model's."""
        here = self.bias.device
        h, c = (x.to(here).transpose(0, 1).contiguous() for x in state)
        out, state = self.lstm(self.embedding(tokens.to(here))[:, None], (h, c))
        scores = self._logits(out[:, 0]).float().log_softmax(-1)
        scores[:, 0] = 0.0
        return scores.to(tokens.device), tuple(x.transpose(0, 1).to(tokens.device) for x in state)

    def _logits(self, out: Tensor) -> Tensor:
        logits = self.dropout(out) @ self.embedding.weight.T + self.bias
        return logits.index_fill(-1, torch.zeros(1, dtype=torch.int64, device=out.device), float("-inf"))
