"""Whether the encoder leaves utterances the frames that CTC needs for their tokens: seen before training begins.

The loss passes over an utterance without them, so that a run where most are so learns nothing and says it only in its
log. `asrtts prepare --tokens` looks for the same, but knows neither the encoder nor the speeds.
"""

from __future__ import annotations

import numpy as np
import torch

from asrtts.asr.heads.ctc import needed_frames
from asrtts.asr.model import AsrModel
from asrtts.config import warn
from asrtts.data import dataset, features
from asrtts.data.batching import Index
from asrtts.experiment import Experiment
from asrtts.registry import UserError
from asrtts.text.tokenizer import Tokenizer

SAMPLE = 2000  # utterances that are looked at; a manifest may have millions
MOST = 0.5  # share that CTC may pass over


def check(index: Index, settings: Experiment, tokenizer: Tokenizer, model: AsrModel) -> None:
    """Warn of utterances that CTC would pass over. Raises UserError if most are so, at the speeds of training."""
    if "ctc" not in settings.heads:
        return
    rows = np.random.default_rng(settings.seed).choice(len(index), min(SAMPLE, len(index)), replace=False)
    speeds = sorted(set(settings.augmentation.speed))
    with torch.device("cpu"):  # also where the model is on the meta device
        need = _needed(tokenizer, [index[row].text for row in rows])
        lens = torch.stack([_encoder_lens(index.seconds[rows] / speed, settings, model) for speed in speeds])
    short = lens < need  # (speeds, utterances)
    poor = short.any(0).nonzero().flatten().tolist()
    if not poor:
        return
    worst = max(poor, key=lambda i: int(need[i] - lens[-1, i]))
    name, seconds = index[rows[worst]].utt_id, index.seconds[rows[worst]]
    example = f"{name} of {seconds:.2f} s has {max(0, lens[-1, worst])} frames and needs {need[worst]}"
    looked = f"of {len(index)}" if len(rows) == len(index) else f"of {len(rows)} that were looked at"
    fastest = f" at speed {speeds[-1]:g}" if speeds[-1] != 1 else ""
    cause = (
        f"one frame in {model.encoder.subsampling} leaves the encoder{fastest}, fewer than their tokens need: {example}"
    )
    if short.float().mean() > MOST:
        raise UserError(
            f"{index.path}: CTC cannot learn {len(poor)} utterances {looked}: {cause}. Lower encoder.subsampling, "
            "or make coarser tokens (`asrtts tokenize --kind bpe`)"
        )
    warn(f"{index.path}: CTC passes over {len(poor)} utterances {looked}: {cause}")


def _needed(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    tokens = [tokenizer.encode(text) for text in texts]
    return needed_frames(dataset.pad(tokens), torch.tensor([len(t) for t in tokens]))


def _encoder_lens(seconds: np.ndarray, settings: Experiment, model: AsrModel) -> torch.Tensor:
    samples = torch.from_numpy((seconds.astype(np.float64) * settings.features.sample_rate).astype(np.int64))
    return model.encoder.out_lens(features.num_frames(settings.features, samples))
