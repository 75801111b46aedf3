"""Transformer decoder over an encoder's output (Vaswani et al. 2017), pre-norm, with caches for step by step search.

One matrix gives queries, keys and values, so ESPnet's and WeNet's three are this one's, stacked.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asrtts.nn.dropout import Dropout
from asrtts.nn.masks import valid_mask


class TransformerDecoder(nn.Module):
    """Next-token logits from the tokens so far and the encoder's output."""

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        memory_dim: int,
        layers: int,
        attention_heads: int,
        feedforward: int,
        dropout: float,
        tied: bool,
    ) -> None:
        super().__init__()
        assert dim % attention_heads == 0, f"width {dim} does not divide into {attention_heads} attention heads"
        self.dim = dim
        self.embedding = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)  # times sqrt(dim) below: as large as the positions
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(dim, memory_dim, attention_heads, feedforward, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, vocab_size)
        if tied:
            self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor, memory: Tensor, memory_lens: Tensor) -> Tensor:
        """Logits of the token after each prefix.

        Args:
            tokens: (N, U), the first one is the start of sentence. Padding stands at the end, where no real token
                looks: the mask that hides the future hides it as well.
            memory: (N, T, E); memory_lens (N,).

        Returns:
            (N, U, V); [n, u] follows tokens[n, : u + 1].
        """
        x = self.dropout(self._embed(tokens, torch.arange(tokens.shape[1], device=tokens.device)))
        hidden = padding(memory_lens, memory.shape[1])
        for layer in self.layers:
            x = layer(x, memory, hidden)
        return self.output(self.norm(x))

    def start(self, memory: Tensor, memory_lens: Tensor) -> DecoderState:
        """Caches for a search: the encoder's keys and values are projected here, once for each utterance."""
        return DecoderState(self, memory, memory_lens)

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.embedding(tokens) * math.sqrt(self.dim) + sinusoids(positions, self.dim)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the memory, feedforward; a norm before each and a residual around it."""

    def __init__(self, dim: int, memory_dim: int, attention_heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads = attention_heads
        self.self_norm, self.cross_norm, self.feedforward_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.self_qkv, self.self_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.cross_q, self.cross_out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.cross_kv = nn.Linear(memory_dim, 2 * dim)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, feedforward), nn.ReLU(), Dropout(dropout), nn.Linear(feedforward, dim)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, hidden: Tensor) -> Tensor:
        """x (N, U, D), memory (N, T, E), hidden (N, 1, 1, T) additive: -inf on padding."""
        q, k, v = self.split(self.self_qkv(self.self_norm(x)), 3)
        x = x + self.dropout(self.self_out(joined(F.scaled_dot_product_attention(q, k, v, is_causal=True))))
        (q,) = self.split(self.cross_q(self.cross_norm(x)), 1)
        k, v = self.split(self.cross_kv(memory), 2)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=hidden.to(q.dtype))
        x = x + self.dropout(self.cross_out(joined(attended)))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))

    def split(self, x: Tensor, parts: int) -> list[Tensor]:
        """(N, U, parts * D) -> `parts` times (N, H, U, D / H)."""
        return [p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in x.chunk(parts, -1)]


class DecoderState:
    """What a search keeps between steps for B utterances of K hypotheses, all of one length.

    The K hypotheses of an utterance are K queries to one copy of its memory; nothing of the memory is repeated.
    """

    def __init__(self, decoder: TransformerDecoder, memory: Tensor, memory_lens: Tensor) -> None:
        self.decoder = decoder
        self.hidden = padding(memory_lens, memory.shape[1])
        self.memory = [layer.split(layer.cross_kv(memory), 2) for layer in decoder.layers]  # (B, H, T, d) each
        self.past: list[tuple[Tensor, Tensor]] = []  # for each layer keys and values (B * K, H, length, d)
        self.length = 0

    def step(self, tokens: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Append one token to each hypothesis.

        Args:
            tokens: (B, K).
            parents: (B, K), which of the K hypotheses of the step before is continued; not read at the first step.

        Returns:
            log-probabilities (B, K, V) of the next token, float32; and the memory frame (B, K) that the attention to
            the memory, averaged over layers and heads, looks at most while it predicts that token.
        """
        utterances, beam = tokens.shape
        decoder, looked = self.decoder, 0.0
        if self.past:
            before = self.past[0][0].shape[0] // utterances
            rows = (parents + before * torch.arange(utterances, device=tokens.device)[:, None]).flatten()
        x = decoder._embed(tokens.flatten()[:, None], torch.tensor([self.length], device=tokens.device))
        past = []
        for n, layer in enumerate(decoder.layers):
            q, k, v = layer.split(layer.self_qkv(layer.self_norm(x)), 3)
            if self.past:
                k, v = (torch.cat([old[rows], new], 2) for old, new in zip(self.past[n], (k, v), strict=True))
            past.append((k, v))
            x = x + layer.self_out(joined(F.scaled_dot_product_attention(q, k, v)))
            (q,) = layer.split(layer.cross_q(layer.cross_norm(x)).view(utterances, beam, -1), 1)  # (B, H, K, d)
            keys, values = self.memory[n]
            weights = (q @ keys.transpose(2, 3) / math.sqrt(q.shape[-1]) + self.hidden).softmax(-1)
            looked = looked + weights.float().sum(1)  # (B, K, T)
            x = x + layer.cross_out(joined(weights.to(values.dtype) @ values)).view_as(x)
            x = x + layer.feedforward(layer.feedforward_norm(x))
        self.past, self.length = past, self.length + 1
        logits = decoder.output(decoder.norm(x)).view(utterances, beam, -1)
        return logits.float().log_softmax(-1), looked.argmax(-1)

    def keep(self, utterances: Tensor) -> None:
        """Go on with these utterances only; `utterances` are indices into the present batch, ascending."""
        beam = self.past[0][0].shape[0] // self.hidden.shape[0]
        rows = (utterances[:, None] * beam + torch.arange(beam, device=utterances.device)).flatten()
        self.past = [(k[rows], v[rows]) for k, v in self.past]
        self.memory = [[k[utterances], v[utterances]] for k, v in self.memory]
        self.hidden = self.hidden[utterances]


def joined(x: Tensor) -> Tensor:
    """(N, H, U, d) -> (N, U, H * d)."""
    return x.transpose(1, 2).flatten(2)


def padding(lens: Tensor, frames: int) -> Tensor:
    """(B, 1, 1, T) to add to attention scores: 0 on real frames, -inf beyond.

    An utterance without any frame sees its first frame of padding: a softmax over nothing would be not a number,
    and would reach every weight.
    """
    valid = valid_mask(lens.clamp(min=1), frames)
    return torch.zeros(valid.shape, device=lens.device).masked_fill_(~valid, float("-inf"))[:, None, None, :]


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """(U,) -> (U, dim): sine and cosine in turn, wavelengths 2 pi to 10000 * 2 pi."""
    rates = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-math.log(10000.0) / dim))
    angles = positions[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :dim]
