"""The Transducer head: a predictor of tokens, a joiner, and the exact loss over all alignments (Graves 2012).

The joiner is weight @ tanh(encoder projection + predictor projection) + bias, as in ESPnet and icefall.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from asrtts.config import Settings
from asrtts.losses.rnnt_joiner import rnnt_from_joiner
from asrtts.nn.predictor import LstmPredictor, StatelessPredictor
from asrtts.search.hypothesis import Hypothesis
from asrtts.search.transducer_greedy import transducer_greedy


class PredictorConfig(Settings):
    kind: Literal["stateless", "lstm"] = "stateless"
    context: int = Field(2, ge=1)  # tokens a stateless predictor sees; more gained nothing in Ghodsi et al. 2020


class Config(Settings):
    name: str = "transducer"
    weight: float = Field(1.0, ge=0.0)
    predictor: PredictorConfig = PredictorConfig()
    predictor_dim: int = Field(256, ge=1)
    joiner_dim: int = Field(256, ge=1)
    dropout: float = Field(0.1, ge=0.0, lt=1.0)  # on both sides of the joiner
    embedding_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    loss_backend: str = "native"
    max_symbols_per_frame: int = Field(5, ge=1)  # searches read the next frame after so many tokens


class Head(nn.Module):
    views = 1
    wants_layers = False

    def __init__(self, config: Config, enc_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        dim, dropout = config.predictor_dim, config.embedding_dropout
        if config.predictor.kind == "stateless":
            self.predictor = StatelessPredictor(vocab_size, dim, config.predictor.context, dropout)
        else:
            self.predictor = LstmPredictor(vocab_size, dim, dropout)
        self.from_encoder = nn.Linear(enc_dim, config.joiner_dim)
        self.from_predictor = nn.Linear(dim, config.joiner_dim, bias=False)
        self.joiner = nn.Linear(config.joiner_dim, vocab_size)
        self.dropout = nn.Dropout(config.dropout)

    def loss(
        self, enc: Tensor, enc_lens: Tensor, tokens: Tensor, token_lens: Tensor, layers: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Mean over utterances; one without a frame counts as zero, as no alignment of it exists."""
        possible = enc_lens > 0
        if not possible.all():
            enc, enc_lens, tokens, token_lens = (x[possible] for x in (enc, enc_lens, tokens, token_lens))
        if not len(enc):
            return {"loss": sum(p.sum() for p in self.parameters()) * 0.0 + enc.float().sum() * 0.0}
        tokens = tokens[:, : int(token_lens.max())]
        losses = rnnt_from_joiner(
            self.from_encoder(self.dropout(enc)),
            self.from_predictor(self.dropout(self.predictor(tokens))),
            self.joiner.weight,
            self.joiner.bias,
            tokens,
            enc_lens,
            token_lens,
        )
        return {"loss": losses.sum() / len(possible)}

    def search(
        self, enc: Tensor, enc_lens: Tensor, method: str = "greedy", beam: int = 10, nbest: int = 1
    ) -> list[list[Hypothesis]]:
        """n-best lists of a batch, best first. `enc` (B, T, D)."""
        return transducer_greedy(
            self.from_encoder(enc),
            enc_lens,
            self._predict,
            self._join,
            self.predictor.start(len(enc), enc.device),
            max_symbols_per_frame=self.config.max_symbols_per_frame,
        )

    def _predict(self, tokens: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        out, state = self.predictor.step(tokens, state)
        return self.from_predictor(out), state

    def _join(self, enc: Tensor, pred: Tensor) -> Tensor:
        return self.joiner(torch.tanh(enc + pred))
