"""The Transducer's predictor: what was said so far, as one vector. It is all of a language model the Transducer has.

Both kinds read a blank as "nothing yet", give one output more than there are tokens, and can be stepped from a state of
tensors whose first dimension is the hypothesis, so that a search can reorder it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = tuple[Tensor, ...]


class StatelessPredictor(nn.Module):
    """Embedding and a depthwise causal convolution over the last `context` tokens (Ghodsi et al. 2020).

    Shared prefixes of two tokens make hypotheses alike, which costs little accuracy and lets searches go fast.
    """

    def __init__(self, vocab_size: int, dim: int, context: int, dropout: float, blank_id: int = 0) -> None:
        super().__init__()
        self.context, self.blank_id = context, blank_id
        self.embedding = nn.Embedding(vocab_size, dim)
        self.conv = nn.Conv1d(dim, dim, context, groups=dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, U) -> (B, U+1, dim)."""
        return self._read(F.pad(tokens, (self.context, 0), value=self.blank_id))

    def start(self, count: int, device: torch.device) -> State:
        return (torch.full((count, self.context), self.blank_id, dtype=torch.int64, device=device),)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One token (N,) more -> (N, dim) and the next state."""
        history = torch.cat([state[0][:, 1:], tokens[:, None]], dim=1)
        return self._read(history).squeeze(1), (history,)

    def _read(self, history: Tensor) -> Tensor:
        embedded, taps = self.dropout(self.embedding(history)), self.conv.weight[:, 0]  # (B, U, D), (D, context)
        places = history.shape[1] - self.context + 1
        # Written out: with two taps it is as fast, and oneDNN's bf16 kernel (see nn/depthwise.py) is kept away.
        return F.relu(sum(embedded[:, k : k + places] * taps[:, k] for k in range(self.context)))


class LstmPredictor(nn.Module):
    """Embedding and an LSTM over all tokens (Graves 2012)."""

    def __init__(self, vocab_size: int, dim: int, dropout: float, blank_id: int = 0) -> None:
        super().__init__()
        self.dim, self.blank_id = dim, blank_id
        self.embedding = nn.Embedding(vocab_size, dim)
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, U) -> (B, U+1, dim)."""
        return self.lstm(self.dropout(self.embedding(F.pad(tokens, (1, 0), value=self.blank_id))))[0]

    def start(self, count: int, device: torch.device) -> State:
        return torch.zeros(count, self.dim, device=device), torch.zeros(count, self.dim, device=device)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One token (N,) more -> (N, dim) and the next state."""
        h, c = (s.unsqueeze(0).contiguous() for s in state)
        out, (h, c) = self.lstm(self.dropout(self.embedding(tokens)).unsqueeze(1), (h, c))
        return out.squeeze(1), (h.squeeze(0), c.squeeze(0))
