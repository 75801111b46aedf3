"""CTC: a token or a blank for each encoder frame, independent of each other (Graves et al. 2006).

Options: InterCTC (Lee and Watanabe 2021) puts the same loss on inner encoder blocks; CR-CTC (Yao et al. 2024) asks two
augmented views of an utterance for the same posteriors. Both cost nothing at decoding.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from asrtts.asr.head import BaseHead
from asrtts.asr.picture import Picture
from asrtts.config import Count, Settings
from asrtts.losses.ctc_consistency import consistency
from asrtts.losses.ctc_lengths import needed_frames
from asrtts.nn.dropout import Dropout
from asrtts.registry import UserError
from asrtts.search.ctc_greedy import ctc_greedy
from asrtts.search.ctc_prefix import ctc_prefix_beam
from asrtts.search.hypothesis import Hypothesis
from asrtts.search.language_model import Fusion


class Config(Settings):
    weight: float = 1.0
    dropout: float = Field(0.1, ge=0.0, lt=1.0)  # on the encoder output, before the projection
    inter_layers: list[Count] = []  # encoder blocks, counted from 1, that get the loss too; [] is plain CTC
    inter_weight: float = Field(0.3, ge=0.0, lt=1.0)  # share of the inner losses (their mean) in the whole
    consistency: float = Field(0.0, ge=0.0)  # weight of CR-CTC, 0.2 in the paper; above 0 doubles the batch


class Head(BaseHead):
    """Linear projection to token log-probabilities; blank is id 0."""

    searches = ("greedy", "prefix_beam")
    without_lm = ("greedy",)

    def __init__(self, config: Config, enc_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.views = 2 if config.consistency > 0 else 1
        self.wants_layers = bool(config.inter_layers)
        self.dropout = Dropout(config.dropout)
        self.projection = nn.Linear(enc_dim, vocab_size)

    def auxiliary(self) -> list[str]:
        """What the loss holds beside CTC on the last block, with its weight."""
        config, parts = self.config, []
        if config.inter_layers:
            parts.append(f"InterCTC {config.inter_weight:g} at {', '.join(map(str, config.inter_layers))}")
        return [*parts, *([f"CR-CTC {config.consistency:g}"] if config.consistency else [])]

    def refuse_untrainable(self, blocks: int, device: torch.device) -> None:
        """Raises UserError for an inner block that the encoder, which has so many, lacks."""
        if max(self.config.inter_layers, default=0) > blocks:
            raise UserError(
                f"heads.ctc.inter_layers: {self.config.inter_layers}, but the encoder has {blocks} blocks; wanted 1 to "
                f"{blocks}"
            )

    def log_probs(self, enc: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V), float32 whatever the autocast."""
        return self.projection(self.dropout(enc)).float().log_softmax(-1)

    def loss(
        self, enc: Tensor, enc_lens: Tensor, tokens: Tensor, token_lens: Tensor, layers: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Minus log-likelihood of the tokens, a sum over each utterance and then the mean over utterances.

        Not divided by length, so that it stands beside the attention loss on one scale. In training with
        `consistency` > 0 the rows are two views, stacked: [0:B] and [B:2B]; in evaluation each row is an utterance.

        Args:
            enc: (N, T, D).
            enc_lens: (N,), in frames after subsampling.
            tokens: (N, U), padded with anything, no blanks inside the lengths.
            token_lens: (N,).
            layers: output (N, T, D) of each encoder block, where `wants_layers`.

        Returns:
            loss: scalar with gradient; the rest is to be logged: ctc (last layer alone), inter, consistency, skipped
            (utterances with fewer frames than their tokens need: their loss and gradient are zero).
        """
        config = self.config
        possible = enc_lens >= needed_frames(tokens, token_lens)
        log_probs = self.log_probs(enc)
        ctc = _ctc(log_probs, enc_lens, tokens, token_lens, possible)
        loss, parts = ctc, {"ctc": ctc.detach(), "skipped": (~possible).sum().float()}
        if config.inter_layers:
            assert layers is not None, "inter_layers needs the outputs of the encoder blocks"
            inner = [self.log_probs(layers[n - 1]) for n in config.inter_layers]
            inter = torch.stack([_ctc(x, enc_lens, tokens, token_lens, possible) for x in inner]).mean()
            loss = (1 - config.inter_weight) * ctc + config.inter_weight * inter
            parts["inter"] = inter.detach()
        if config.consistency > 0 and self.training:
            apart = (consistency(log_probs, enc_lens) * possible).mean()
            loss = loss + config.consistency * apart
            parts["consistency"] = apart.detach()
        return {"loss": loss, **parts}

    @torch.no_grad()
    def search(
        self,
        enc: Tensor,
        enc_lens: Tensor,
        method: Literal["greedy", "prefix_beam"] = "greedy",
        beam: int = 10,
        nbest: int = 1,
        lm: Fusion | None = None,
    ) -> list[list[Hypothesis]]:
        """Best path of each utterance, or its n best token sequences; only these hear of a language model."""
        if method == "greedy":
            return ctc_greedy(self.log_probs(enc), enc_lens)
        return ctc_prefix_beam(self.log_probs(enc), enc_lens, beam, nbest, lm=lm)

    def picture(self, enc: Tensor, tokens: Tensor) -> Picture:
        """The spikes: posteriors of blank and of each of the tokens (1, U) in every frame of enc (1, T, D)."""
        rows = [0, *dict.fromkeys(tokens[0].tolist())]
        return Picture(
            "posterior of each token; thin dots: blank", "curves", rows, self.log_probs(enc)[0, :, rows].exp().T
        )

    def parts(self) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
        """The one piece to export: enc (B, T, D) -> log-probabilities (B, T, V)."""
        example = torch.zeros(1, 16, self.projection.in_features, device=self.projection.weight.device)
        return {"ctc": (nn.Sequential(self.projection, nn.LogSoftmax(-1)), (example,))}


def _ctc(log_probs: Tensor, enc_lens: Tensor, tokens: Tensor, token_lens: Tensor, possible: Tensor) -> Tensor:
    """Mean over utterances; an impossible one counts as zero."""
    with torch.autocast(log_probs.device.type, enabled=False):
        each = F.ctc_loss(log_probs.transpose(0, 1), tokens, enc_lens, token_lens, reduction="none", zero_infinity=True)
    return (each * possible).mean()
