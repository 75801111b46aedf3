"""Attention decoder: each token from all tokens before it and all of the encoder's output (Chan et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from asrtts.asr.head import BaseHead
from asrtts.asr.picture import Picture
from asrtts.config import Settings
from asrtts.losses.cross_entropy import sequence_cross_entropy
from asrtts.nn.transformer_decoder import TransformerDecoder
from asrtts.registry import UserError
from asrtts.search.attention_beam import attention_beam
from asrtts.search.hypothesis import Hypothesis
from asrtts.search.joint_beam import joint_beam
from asrtts.search.language_model import Fusion


class Config(Settings):
    weight: float = 1.0
    dim: int | None = Field(None, gt=0, le=65536)  # width of the decoder; none: the encoder's
    layers: int = Field(6, gt=0, le=1000)
    attention_heads: int = Field(4, gt=0, le=65536)
    feedforward: int = Field(2048, gt=0, le=1 << 20)
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)
    token_noise: float = Field(0.0, ge=0.0, lt=1.0)  # share of input tokens replaced by random ones in training
    memory_positions: bool = True  # tell the decoder where each encoder frame is; ESPnet's and WeNet's do not
    tied: bool = False  # one matrix for the embedding and the output: fewer parameters on small data


class Head(BaseHead):
    """Transformer decoder. One id more than the tokens have, V, stands for the start and the end of a sentence."""

    searches = ("beam",)
    takes_length_bonus = True

    def __init__(self, config: Config, enc_dim: int, vocab_size: int) -> None:
        super().__init__()
        dim = config.dim or enc_dim
        if dim % config.attention_heads:
            raise UserError(
                f"heads.attention: a width of {dim} does not divide into {config.attention_heads} attention_heads;"
                " change dim or attention_heads"
            )
        self.config = config
        self.eos = vocab_size
        self.enc_dim = enc_dim
        self.decoder = TransformerDecoder(
            vocab_size=vocab_size + 1,
            dim=dim,
            memory_dim=enc_dim,
            layers=config.layers,
            attention_heads=config.attention_heads,
            feedforward=config.feedforward,
            dropout=config.dropout,
            tied=config.tied,
            memory_positions=config.memory_positions,
        )

    def auxiliary(self) -> list[str]:
        """What the loss holds beside the cross-entropy, with its weight."""
        return [f"label smoothing {self.config.label_smoothing:g}"] if self.config.label_smoothing else []

    def loss(
        self, enc: Tensor, enc_lens: Tensor, tokens: Tensor, token_lens: Tensor, layers: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Label-smoothed cross-entropy, a sum over the tokens of each utterance and then the mean over utterances.

        Not divided by length, so that it stands beside the CTC loss on one scale.

        Args:
            enc: (N, T, D).
            enc_lens: (N,), in frames after subsampling.
            tokens: (N, U), padded with any valid id.
            token_lens: (N,).
            layers: not read.

        Returns:
            loss: scalar with gradient; accuracy: share of right next tokens, the end of the sentence among them.
        """
        given = self._disturbed(tokens) if self.training and self.config.token_noise else tokens
        start = tokens.new_full((len(tokens), 1), self.eos)
        logits = self.decoder(torch.cat([start, given], 1), enc, enc_lens)
        #  tokens 7 5 .  ->  given    eos  7   5   .
        #         4 . .      targets    7  5  eos  .   with the eos right behind the last real token
        targets = torch.cat([tokens, start], 1).scatter(1, token_lens[:, None], self.eos)
        each, accuracy = sequence_cross_entropy(logits, targets, token_lens + 1, self.config.label_smoothing)
        return {"loss": each.mean(), "accuracy": accuracy}

    @torch.no_grad()
    def search(
        self,
        enc: Tensor,
        enc_lens: Tensor,
        beam: int = 10,
        nbest: int = 1,
        length_bonus: float = 0.0,
        ctc: Tensor | Callable[[Tensor], Tensor] | None = None,
        ctc_weight: float = 0.0,
        lm: Fusion | None = None,
        method: Literal["beam"] = "beam",
    ) -> list[list[Hypothesis]]:
        """The n best token sequences of each utterance.

        With `ctc_weight` above 0 the search is joint; `ctc` is then the log-probabilities (B, T, V) of a CTC head on
        the same encoder, or what gives them from `enc`.
        """
        decoder = self.decoder.start(enc, enc_lens)
        if ctc is None or ctc_weight == 0:
            return attention_beam(decoder, enc_lens, self.eos, beam, nbest, length_bonus, lm=lm)
        log_probs = ctc(enc) if callable(ctc) else ctc
        return joint_beam(decoder, log_probs, enc_lens, self.eos, beam, nbest, length_bonus, ctc_weight, lm=lm)

    def internal_lm(self, tokens: Tensor, token_lens: Tensor) -> Tensor | None:
        """What the decoder makes of its own past alone: log-probabilities (N, U) of the tokens where nothing is heard.

        The memory is one frame of zeros (Meng et al. 2021, "Internal language model estimation for domain-adaptive
        end-to-end speech recognition"); blank and end are taken out, as in every head, so that heads can be compared.
        """
        start = tokens.new_full((len(tokens), 1), self.eos)
        nothing = torch.zeros(len(tokens), 1, self.enc_dim, device=tokens.device)
        logits = self.decoder(torch.cat([start, tokens[:, :-1]], 1), nothing, torch.ones_like(token_lens))
        return (
            logits[:, :, 1 : self.eos].float().log_softmax(-1).gather(2, tokens.clamp(min=1)[:, :, None] - 1)[:, :, 0]
        )

    def attention(self, enc: Tensor, enc_lens: Tensor, tokens: Tensor) -> Tensor | None:
        """Where the decoder looks as it is given the tokens (N, U): weights (N, all heads of all layers, U, T)."""
        start, looked = tokens.new_full((len(tokens), 1), self.eos), []
        self.decoder(torch.cat([start, tokens[:, :-1]], 1), enc, enc_lens, looked)
        return torch.cat(looked, 1).float()

    def picture(self, enc: Tensor, tokens: Tensor) -> Picture:
        """Where the decoder looks in enc (1, T, D) for each of the tokens (1, U): the mean over layers and heads."""
        weights = self.attention(enc, torch.tensor([enc.shape[1]], device=enc.device), tokens)
        caption = "attention weights, mean over layers and heads"
        return Picture(caption, "map", tokens[0].tolist(), weights[0].mean(0))

    def parts(self) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
        """The one piece to export: tokens (N, U) that begin with V, enc, enc_lens -> logits (N, U, V + 1)."""
        device = self.decoder.output.weight.device
        tokens = torch.full((1, 4), self.eos, device=device)
        return {"attention": (self.decoder, (tokens, torch.zeros(1, 16, self.enc_dim, device=device), tokens[:, 0]))}

    def _disturbed(self, tokens: Tensor) -> Tensor:
        """Random tokens in place of some: the decoder must not lean on its own past alone."""
        hit = torch.rand(tokens.shape, device=tokens.device) < self.config.token_noise
        return torch.where(hit, torch.randint_like(tokens, 1, self.eos), tokens)
