"""What every head of asr/heads gives. A head overrides what it has; the defaults stand here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from asrtts.asr.picture import Picture
from asrtts.search.hypothesis import Hypothesis


class BaseHead(nn.Module):
    """The base class of heads: `Head(config, enc_dim, vocab_size)`.

    A head has to give `loss` and `search`.
    """

    views = 1  # augmented views of each utterance that a training batch must hold
    wants_layers = False  # whether `loss` reads the outputs of the encoder's blocks
    searches: tuple[str, ...] = ()  # `decoding.method=<head>_<search>`; the first is the default, the last fuses LMs
    without_lm: tuple[str, ...] = ()  # searches that no language model and no length bonus can help
    takes_length_bonus = False  # whether `search` has an argument for it; else the fusion adds it

    def auxiliary(self) -> list[str]:
        """What the loss holds besides its main term, with weights, for the table of `asrtts compare`."""
        return []

    def refuse_untrainable(self, blocks: int, device: torch.device) -> None:
        """Raises UserError for settings with which `loss` would stop at the first batch.

        Args:
            blocks: that the encoder has.
            device: that is trained on.
        """

    def loss(
        self, enc: Tensor, enc_lens: Tensor, tokens: Tensor, token_lens: Tensor, layers: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The mean over utterances under "loss", with gradient; other keys are logged.

        Args:
            enc: (N, T, D).
            enc_lens: (N,), in frames after subsampling.
            tokens: (N, U), padded with any valid id.
            token_lens: (N,).
            layers: with `wants_layers`, the output (N, T, D) of each encoder block.
        """
        raise NotImplementedError

    def search(self, enc: Tensor, enc_lens: Tensor, **options: Any) -> list[list[Hypothesis]]:
        """n-best lists of a batch (B, T, D), best first."""
        raise NotImplementedError

    def internal_lm(self, tokens: Tensor, token_lens: Tensor) -> Tensor | None:
        """Log-probabilities (N, U) of the tokens (N, U) without audio; None without a language model inside."""
        return None

    def attention(self, enc: Tensor, enc_lens: Tensor, tokens: Tensor) -> Tensor | None:
        """Weights (N, heads, U, T) over the frames for each token; None without attention."""
        return None

    def picture(self, enc: Tensor, tokens: Tensor) -> Picture | None:
        """How enc (1, T, D) becomes the tokens (1, U), for the page of `asrtts compare`; None without a picture."""
        return None

    def parts(self) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
        """The pieces that an exporter writes by name, each with example inputs."""
        return {}
