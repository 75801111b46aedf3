"""Joint CTC and attention beam search (Watanabe et al. 2017): CTC keeps the decoder from skipping and repeating."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from asrtts.search.attention_beam import Decoder, attention_beam
from asrtts.search.ctc_prefix import ctc_times
from asrtts.search.ctc_prefix_score import ctc_prefix_scores
from asrtts.search.hypothesis import Hypothesis
from asrtts.search.inputs import check_lens
from asrtts.search.language_model import Fusion


def joint_beam(
    decoder: Decoder,
    log_probs: Tensor,
    lens: Tensor,
    eos: int,
    beam: int = 10,
    nbest: int = 1,
    length_bonus: float = 0.0,
    ctc_weight: float = 0.3,
    blank_id: int = 0,
    lm: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """As `attention_beam`, with CTC log-probabilities (B, T, V) at weight `ctc_weight`.

    Frames are those of the likeliest CTC path of the tokens, which is surer of time than the decoder is; confidences
    are the decoder's probabilities.

    Raises:
        ValueError: lengths beyond the frames; with the batch index and the value.
    """
    check_lens(lens, *log_probs.shape[:2])
    scores = ctc_prefix_scores(log_probs, lens, blank_id, few=ctc_weight < 1)
    found = attention_beam(decoder, lens, eos, beam, nbest, length_bonus, scores, ctc_weight, blank_id, lm)
    rows: np.ndarray = log_probs.detach().float().cpu().numpy()
    for b, n in enumerate(lens.tolist()):
        for hypothesis in found[b]:
            hypothesis.frames, _ = ctc_times(rows[b, :n], hypothesis.tokens, blank_id)
    return found
