"""Whether the encoder leaves utterances the frames that CTC needs for their tokens: seen before training begins.

The loss passes over an utterance without them, so that a run where most are so learns nothing and says it only in its
log. `asrtts prepare --tokens` looks for the same, but knows neither the encoder nor the speeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from asrtts.config import warn
from asrtts.data import dataset
from asrtts.data.batching import Index
from asrtts.losses.ctc_lengths import needed_frames
from asrtts.registry import UserError

SAMPLE = 2000  # utterances that are looked at; a manifest may have millions
MOST = 0.5  # share that CTC may pass over


def check(
    index: Index,
    speeds: Sequence[float],
    seed: int,
    encode: Callable[[str], list[int]],
    encoder_frames: Callable[[np.ndarray], Tensor],
) -> None:
    """Warn of utterances that CTC would pass over.

    Args:
        speeds: of the augmentation.
        encode: a text to its tokens.
        encoder_frames: seconds (N,) to the encoder frames (N,) of utterances that last as long.

    Raises:
        UserError: most utterances are so, at the speeds of training.
    """
    rows = np.random.default_rng(seed).choice(len(index), min(SAMPLE, len(index)), replace=False)
    speeds = sorted(set(speeds))
    with torch.device("cpu"):  # also where the model is on the meta device
        tokens = [encode(index[row].text) for row in rows]
        need = needed_frames(dataset.pad(tokens), torch.tensor([len(t) for t in tokens]))
        frames = torch.stack([encoder_frames(index.seconds[rows] / speed) for speed in speeds])
    short = frames < need  # (speeds, utterances)
    poor = short.any(0).nonzero().flatten().tolist()
    if not poor:
        return
    worst = max(poor, key=lambda i: int(need[i] - frames[-1, i]))
    name, seconds = index[rows[worst]].utt_id, index.seconds[rows[worst]]
    example = f"{name} of {seconds:.2f} s has {max(0, frames[-1, worst])} frames and needs {need[worst]}"
    checked = f"of {len(index)}" if len(rows) == len(index) else f"of {len(rows)} that were checked"
    fastest = f" at speed {speeds[-1]:g}" if speeds[-1] != 1 else ""
    cause = f"the encoder leaves them fewer frames{fastest} than their tokens need: {example}"
    if short.float().mean() > MOST:
        raise UserError(
            f"{index.path}: CTC cannot learn {len(poor)} utterances {checked}: {cause}. Lower encoder.subsampling, "
            "or make coarser tokens (`asrtts tokenize --kind bpe`)"
        )
    warn(f"{index.path}: CTC passes over {len(poor)} utterances {checked}: {cause}")
