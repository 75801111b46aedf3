"""What `asrtts compare` measures on the models themselves: multiply-adds, and the properties of the output side.

The properties are those by which Battenberg et al. 2017, "Exploring neural transducers for end-to-end speech
recognition", tell CTC, Transducer and attention apart; here every system is asked, and no head is known by name.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from asrtts.comparison.fairness import Member
from asrtts.comparison.measuring import Missing
from asrtts.data import audio, features
from asrtts.data.dataset import pad
from asrtts.data.features import num_frames
from asrtts.data.utterance import Utterance
from asrtts.experiment.run_folder import Run
from asrtts.registry import UserError
from asrtts.search.language_model import LanguageModel

SAMPLE_SECONDS = (
    15.0  # of audio, on which multiply-adds are counted: each operation passes through Python, so it is slow
)
TEXTS = 1000  # utterances whose text the internal language model reads
BATCH = 32

Properties = dict[str, Any]


@torch.no_grad()
def measure(member: Member, utterances: Sequence[Utterance]) -> Properties | Missing:
    """Everything that is measured on the model of a run; the reason, where its weights or the audio are not there."""
    feature = member.settings.features
    try:
        recognizer = Run(member.exp).load(member.summary.get("weights", "model"))
        model, tokenizer, decoding = recognizer.model, recognizer.tokenizer, member.search
        lasting = [u for u in utterances if model.encoder.out_lens(_frames(feature, u)) > 0]
        if not lasting:
            return Missing("no utterance is long enough for a frame of the encoder")
        sample = _sample(lasting)
        waves = [audio.read(u, feature.sample_rate) for u in sample]
    except UserError as error:
        return Missing(str(error))
    try:
        lms: list[tuple[LanguageModel, float]] | Missing = recognizer.language_models(decoding, torch.device("cpu"))
    except UserError as error:
        lms = Missing(str(error))
    seconds = sum(u.seconds for u in sample)
    lengths = [len(tokenizer.encode(u.text)) for u in utterances]
    frames = [max(0, int(model.encoder.out_lens(_frames(feature, utterance)))) for utterance in utterances]
    found: Properties = {"frames": statistics.fmean(frames), "tokens": statistics.fmean(lengths)}
    found |= {"sample": [u.utt_id for u in sample], "sample_seconds": seconds}
    looks: list[tuple[float, float, int]] = []
    encoder = search = 0.0
    for utterance, wave in zip(sample, waves, strict=True):
        feats, feat_lens = features.fbank(feature, [wave])
        feats = recognizer.statistics.normalize(feats, feat_lens)
        of_encoder, (enc, enc_lens) = counted(model.encoder, feats, feat_lens)
        encoder += of_encoder
        if not isinstance(lms, Missing):
            search += counted(model.search_encoded, enc, enc_lens, decoding, lms)[0]
        tokens = torch.tensor([tokenizer.encode(utterance.text)], dtype=torch.int64)
        weights = model.leader(decoding).attention(enc, enc_lens, tokens) if tokens.numel() else None
        if weights is not None:
            looks.append(look(weights[0]))
    found["encoder_macs"] = encoder / seconds / 1e6  # millions
    found["search_macs"] = lms if isinstance(lms, Missing) else search / seconds / 1e6
    found |= _alignment(looks)
    texts = [tokens for u in utterances[:TEXTS] if (tokens := tokenizer.encode(u.text))]
    return found | _internal_lm(model.leader(decoding), texts, tokenizer.vocab_size)


def _frames(feature: features.Config, utterance: Utterance) -> int:
    return num_frames(feature, int(utterance.seconds * feature.sample_rate))


def counted(call: Any, *inputs: Any) -> tuple[float, Any]:
    """Multiply-adds of a call, and what it returns.

    Products of matrices and convolutions are counted, also those within an LSTM; sums, norms, softmaxes and the
    features are not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TF32, when oneDNN is switched on again
        # oneDNN would take an LSTM whole, and hide its products.
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
            result = call(*inputs)
    return counter.get_total_flops() / 2, result


def look(weights: Tensor) -> tuple[float, float, int]:
    """Of attention weights (H, U, T): steps that do not go back (of U - 1), summed entropy in nats, and U.

    The frame of a step is the one that all heads together look at most, as a search gives it; the entropy is the mean
    of theirs, since heads that look sharply at different frames are sharp.
    """
    at = weights.mean(0).argmax(-1)
    entropy = -(weights * weights.clamp(min=1e-30).log()).sum(-1).mean(0)
    return float((at[1:] >= at[:-1]).sum()), float(entropy.sum()), len(at)


def _alignment(looks: Sequence[tuple[float, float, int]]) -> Properties:
    """Soft: frames that a token is read from (the perplexity of the weights), and how many steps do not go back."""
    if not looks:
        return {"alignment": "hard", "attention_frames": 1.0, "monotonic_percent": 100.0}
    forward, entropy, tokens = (sum(column) for column in zip(*looks, strict=True))
    steps = tokens - len(looks)
    return {
        "alignment": "soft",
        "attention_frames": math.exp(entropy / tokens),
        "monotonic_percent": 100 * forward / steps if steps else 100.0,
    }


def _internal_lm(head: nn.Module, texts: Sequence[list[int]], vocab_size: int) -> Properties:
    """Perplexity by token of the texts where nothing is heard, and that of the uniform distribution to read it by."""
    total, count = 0.0, 0
    for first in range(0, len(texts), BATCH):
        rows = texts[first : first + BATCH]
        lens = torch.tensor([len(row) for row in rows])
        log_probs = head.internal_lm(pad(rows), lens)
        if log_probs is None:
            break
        real = torch.arange(log_probs.shape[1]) < lens[:, None]
        total, count = total + float(log_probs[real].sum()), count + int(lens.sum())
    perplexity = math.exp(-total / count) if count else None
    return {"internal_lm_perplexity": perplexity, "uniform_perplexity": vocab_size - 1}


def _sample(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Utterances from all of the manifest, evenly, of SAMPLE_SECONDS together or a little more."""
    mean = sum(u.seconds for u in utterances) / len(utterances)
    stride = max(1, int(len(utterances) * mean / SAMPLE_SECONDS))
    found: list[Utterance] = []
    for utterance in utterances[stride // 2 :: stride]:
        if sum(u.seconds for u in found) >= SAMPLE_SECONDS:
            break
        found.append(utterance)
    return found or list(utterances[:1])
