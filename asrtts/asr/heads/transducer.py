"""The Transducer head: a predictor of tokens, a joiner, and the exact loss over all alignments (Graves 2012).

The joiner is weight @ tanh(encoder projection + predictor projection) + bias, as in ESPnet and icefall. With `prune` it
is trained in the few cells of the lattice that a simple joiner finds likely (Kuang et al. 2022).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from asrtts.asr.head import BaseHead
from asrtts.asr.picture import Picture
from asrtts.config import CountOrNone, Settings
from asrtts.losses.rnnt_backends import rnnt_backend
from asrtts.losses.rnnt_joiner import rnnt_from_joiner
from asrtts.losses.rnnt_lattice import best_path, edge_posteriors
from asrtts.losses.rnnt_pruning import kept_cells, simple_rnnt
from asrtts.nn.predictor import LstmPredictor, StatelessPredictor
from asrtts.search.hypothesis import Hypothesis
from asrtts.search.language_model import Fusion
from asrtts.search.transducer_beam import transducer_beam
from asrtts.search.transducer_greedy import transducer_greedy


class PredictorConfig(Settings):
    kind: Literal["stateless", "lstm"] = "stateless"
    # tokens a stateless predictor sees; more gained nothing in Ghodsi et al. 2020
    context: int = Field(2, ge=1, le=1000)


class PruneConfig(Settings):
    """icefall's names and values: --prune-range, --simple-loss-scale, --warm-step."""

    # tokens of each frame that the joiner sees; beyond the longest text, the loss is exact
    range: int = Field(5, ge=2, le=100_000)
    simple_weight: float = Field(0.5, gt=0.0)  # of the simple joiner's loss; without it nothing finds the likely cells
    # Batches in which the simple joiner's weight falls from 1 and the true one's rises from 0.1 to 1: at first the
    # likely cells are not found yet.
    warmup_batches: CountOrNone = 2000


class Config(Settings):
    weight: float = Field(1.0, ge=0.0)
    predictor: PredictorConfig = PredictorConfig()
    predictor_dim: int = Field(256, ge=1, le=65536)
    joiner_dim: int = Field(256, ge=1, le=65536)
    dropout: float = Field(0.1, ge=0.0, lt=1.0)  # on both sides of the joiner
    embedding_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    loss_backend: Literal["native", "warp_rnnt", "torchaudio"] = "native"  # the others hold all logits at once
    prune: PruneConfig | None = None  # `prune: {}` trains faster where U is long and V large, not exactly
    max_symbols_per_frame: int = Field(5, ge=1, le=1000)  # searches read the next frame after so many tokens

    @model_validator(mode="after")
    def _prunes_natively(self) -> Config:
        if self.prune and self.loss_backend != "native":
            raise ValueError(
                f"prune works with loss_backend: native alone, not with {self.loss_backend}; leave out one of the two"
            )
        return self


class Head(BaseHead):
    searches = ("greedy", "beam")

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
        if config.prune:
            self.simple_from_encoder = nn.Linear(enc_dim, vocab_size)
            self.simple_from_predictor = nn.Linear(dim, vocab_size)
            self.register_buffer("batches_seen", torch.zeros((), dtype=torch.int64))

    def auxiliary(self) -> list[str]:
        """What the loss holds beside the Transducer's own, pruned or not, with its weight."""
        if not (prune := self.config.prune):
            return []
        return [
            f"pruned to {prune.range} tokens a frame",
            f"simple joiner {prune.simple_weight:g}",
            f"warm-up of {prune.warmup_batches} batches",
        ]

    def refuse_untrainable(self, blocks: int, device: torch.device) -> None:
        """Raises UserError if the loss cannot be had on this machine and device; decoding does without it."""
        rnnt_backend(self.config.loss_backend, device)

    def loss(
        self, enc: Tensor, enc_lens: Tensor, tokens: Tensor, token_lens: Tensor, layers: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Mean over utterances; one without a frame counts as zero, as no alignment of it exists.

        Pruned in training alone: the loss on held-out data is the exact one, and compares with that of other runs.
        """
        possible = enc_lens > 0
        if not possible.all():
            enc, enc_lens, tokens, token_lens = (x[possible] for x in (enc, enc_lens, tokens, token_lens))
        if not len(enc):
            return {"loss": sum(p.sum() for p in self.parameters()) * 0.0 + enc.float().sum() * 0.0}
        tokens = tokens[:, : int(token_lens.max())]
        heard, said = self.dropout(enc), self.dropout(self.predictor(tokens))
        projected, target = (self.from_encoder(heard), self.from_predictor(said)), (tokens, enc_lens, token_lens)
        out_layer = self.joiner.weight, self.joiner.bias
        if self.config.prune and self.training:
            simple, posterior = simple_rnnt(self.simple_from_encoder(heard), self.simple_from_predictor(said), *target)
            kept = kept_cells(posterior, enc_lens, token_lens, self.config.prune.range)
            pruned = rnnt_from_joiner(*projected, *out_layer, *target, kept=kept)
            return self._weighted(simple.sum() / len(possible), pruned.sum() / len(possible))
        if self.config.loss_backend == "native":
            losses = rnnt_from_joiner(*projected, *out_layer, *target)
        else:
            logits = self._join(projected[0].unsqueeze(2), projected[1].unsqueeze(1))
            losses = rnnt_backend(self.config.loss_backend, logits.device)(logits, *target, 0)
        return {"loss": losses.sum() / len(possible)}

    def _weighted(self, simple: Tensor, pruned: Tensor) -> dict[str, Tensor]:
        """Both losses of a pruned batch as one, and as parts for the log."""
        prune = self.config.prune
        warm = (self.batches_seen / prune.warmup_batches).clamp_max(1.0) if prune.warmup_batches else 1.0
        self.batches_seen += 1
        loss = (1.0 - warm * (1.0 - prune.simple_weight)) * simple + (0.1 + 0.9 * warm) * pruned
        return {"loss": loss, "simple": simple.detach(), "pruned": pruned.detach()}

    def search(
        self,
        enc: Tensor,
        enc_lens: Tensor,
        method: str = "greedy",
        beam: int = 10,
        nbest: int = 1,
        lm: Fusion | None = None,
    ) -> list[list[Hypothesis]]:
        """n-best lists of a batch (B, T, D), best first; greedy search has one entry and no use for `beam`."""
        assert method in ("greedy", "beam"), method
        given = (
            self.from_encoder(enc),
            enc_lens,
            self._predict,
            self._join,
            self.predictor.start(len(enc), enc.device),
        )
        limit = self.config.max_symbols_per_frame
        if method == "greedy":
            return transducer_greedy(*given, max_symbols_per_frame=limit, lm=lm)
        return transducer_beam(*given, beam=beam, nbest=nbest, max_symbols_per_frame=limit, lm=lm)

    def internal_lm(self, tokens: Tensor, token_lens: Tensor) -> Tensor | None:
        """What predictor and joiner make of the tokens alone: log-probabilities (N, U) where nothing is heard.

        The encoder's part of the joiner's sum is zero and blank is taken out (Variani et al. 2020, "Hybrid
        autoregressive transducer", section 4; Meng et al. 2021).
        """
        pred = self.from_predictor(self.predictor(tokens))[:, :-1]
        logits = self.joiner(torch.tanh(pred))[:, :, 1:]
        return logits.float().log_softmax(-1).gather(2, tokens.clamp(min=1)[:, :, None] - 1)[:, :, 0]

    def picture(self, enc: Tensor, tokens: Tensor) -> Picture:
        """The lattice of enc (1, T, D) and the tokens (1, U): the posterior of each node, and the best path."""
        pred = self.from_predictor(self.predictor(tokens))[0]  # (U + 1, J)
        target = torch.nn.functional.pad(tokens[0], (0, 1))[:, None]  # no label leaves the last row
        blank, label = [], []
        for frame in self.from_encoder(enc)[0]:  # one at a time: (T, U + 1, V) would be gigabytes for large V
            log_probs = self._join(frame, pred).float().log_softmax(-1)
            blank.append(log_probs[:, 0])
            label.append(log_probs.gather(1, target)[:, 0])
        edges = torch.stack(blank)[None], torch.stack(label)[None]  # (1, T, U + 1)
        path = best_path(edges[0][0], edges[1][0])  # before their memory is reused
        lens = torch.tensor([enc.shape[1]], device=enc.device), torch.tensor([tokens.shape[1]], device=enc.device)
        _, by_blank, by_label = edge_posteriors(*edges, *lens)
        # An alignment leaves each node that it passes by one edge.
        passed = (by_blank + by_label)[0].T
        return Picture(
            "posterior of each node of the lattice; the line is the best path",
            "map",
            [None, *tokens[0].tolist()],
            passed,
            path,
        )

    def _predict(self, tokens: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        out, state = self.predictor.step(tokens, state)
        return self.from_predictor(out), state

    def _join(self, enc: Tensor, pred: Tensor) -> Tensor:
        return self.joiner(torch.tanh(enc + pred))

    def parts(self) -> dict[str, tuple[nn.Module, tuple]]:
        """For export: one step of the predictor, projected, with its state; and the joiner of one frame with that."""
        token, frame = torch.zeros(1, dtype=torch.int64), torch.zeros(1, self.from_encoder.in_features)
        state = self.predictor.start(1, torch.device("cpu"))
        pred = torch.zeros(1, self.config.joiner_dim)
        return {"predictor": (_PredictorStep(self), (token, *state)), "joiner": (_Joiner(self), (frame, pred))}


class _PredictorStep(nn.Module):
    """token (N,), state... -> pred (N, J), next state..."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.predictor, self.projection = head.predictor, head.from_predictor

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        out, state = self.predictor.step(token, state)
        return self.projection(out), *state


class _Joiner(nn.Module):
    """enc (N, D), pred (N, J) -> logits (N, V)."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.projection, self.output = head.from_encoder, head.joiner

    def forward(self, enc: Tensor, pred: Tensor) -> Tensor:
        return self.output(torch.tanh(self.projection(enc) + pred))
