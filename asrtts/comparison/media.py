"""Sound and pictures of a few utterances for the page of `asrtts compare`, small enough to travel within it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asrtts.comparison.fairness import Member, System
from asrtts.comparison.measuring import Missing
from asrtts.data import audio, features
from asrtts.data.utterance import Utterance
from asrtts.experiment import decodings
from asrtts.experiment.run_folder import Run
from asrtts.metrics import emission
from asrtts.registry import UserError

LONGEST = 35.0  # seconds; the pictures of longer ones could not be read
COLUMNS = 800  # of a spectrogram; more frames are averaged
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

Media = dict[str, Any]


def media(
    systems: Sequence[System], utterances: Sequence[Utterance], quick: bool, spoken: emission.Alignment | None = None
) -> Iterator[list[Media]]:
    """What an utterance has beside its words, a step at a time: first the sound, then system by system.

    Each step gives the same list, one record an utterance, with more in it: `audio` (or `silent`: why it cannot be
    heard), `spectrogram`, `spoken` (of the alignment, where it has the utterance), `words` (of every system: [word,
    seconds]) and `pictures`; `why`, where there is nothing.
    """
    feature = systems[0].members[0].settings.features
    waves = [_wave(utterance, feature) for utterance in utterances]
    found: list[Media] = []
    for utterance, wave in zip(utterances, waves, strict=True):
        if isinstance(wave, Missing):
            found.append({"why": str(wave), "words": [], "pictures": []})
        else:
            seconds = round(len(wave) / feature.sample_rate, 3)
            heard = sound(wave, feature.sample_rate)
            shown = {"silent" if isinstance(heard, Missing) else "audio": heard}
            shown["spectrogram"] = spectrogram(feature, wave)
            if spoken and (words := spoken.get(utterance.utt_id)):
                shown["spoken"] = [[word, round(end, 2)] for word, end in words]
            found.append({**shown, "seconds": seconds, "top": feature.top_hz, "words": [], "pictures": []})
    yield found
    for system in systems:
        of = _lines(system.members[0], utterances)
        for record, line in zip(found, of, strict=True):
            times = emission.word_times((piece.token, piece.time) for piece in line.tokens)
            record["words"].append([[word, round(time, 2)] for word, time in times])
        if not quick:
            _draw(system, of, waves, found)
        yield found


def sound(wave: np.ndarray, sample_rate: int) -> str | Missing:
    """As MP3, which every browser plays: about 4 kB a second. At its next rate, for it has nine of them only."""
    import soundfile

    out = io.BytesIO()
    smallest = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.8}
    rate = next((rate for rate in MP3_RATES if rate >= sample_rate), MP3_RATES[-1])
    try:
        soundfile.write(out, np.clip(audio.resample(wave, sample_rate, rate), -1, 1), rate, **smallest)
    except (RuntimeError, ValueError, TypeError) as error:  # a libsndfile or soundfile without MP3: words still count
        return Missing(f"it could not be made MP3: {error}")
    return f"data:audio/mpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def spectrogram(config: features.Config, wave: np.ndarray) -> str:
    """The log mel features that the encoder sees, before they are normalized; high frequencies on top."""
    feats = features.fbank(config, [wave])[0][0]  # (T, F)
    if len(feats) > COLUMNS:
        feats = torch.nn.functional.adaptive_avg_pool1d(feats.T[None], COLUMNS)[0].T
    low, high = torch.quantile(feats.flatten()[:1_000_000], torch.tensor([0.05, 0.998])).tolist()
    return shades(((feats.T.flip(0) - low) / max(high - low, 1e-3)).clamp(0, 1))


def shades(values: Tensor) -> str:
    """A matrix (rows, T) of 0 to 1 as PNG, a point each; 64 shades of matplotlib's cividis, which no eye confuses."""
    import matplotlib
    from PIL import Image

    palette = matplotlib.colormaps["cividis"](np.linspace(0, 1, 64))[:, :3]
    image = Image.fromarray((values * 63).round().to(torch.uint8).numpy(), mode="P")
    image.putpalette((palette * 255).round().astype(np.uint8).tobytes())
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _wave(utterance: Utterance, config: features.Config) -> np.ndarray | Missing:
    if utterance.seconds > LONGEST:
        return Missing(f"longer than {LONGEST:g} s")
    try:
        wave = audio.read(utterance, config.sample_rate)
    except UserError as error:
        return Missing(str(error))
    return wave if features.num_frames(config, len(wave)) else Missing("shorter than a frame")


def _lines(member: Member, utterances: Sequence[Utterance]) -> list[decodings.TimedLine]:
    wanted = {utterance.utt_id for utterance in utterances}
    every = decodings.again(member.exp, member.decoding, wanted, decodings.TimedLine)
    lines = {line.utt_id: line for line in every if line.utt_id in wanted}
    return [lines[utterance.utt_id] for utterance in utterances]


@torch.no_grad()
def _draw(system: System, lines: Sequence[decodings.TimedLine], waves: Sequence[Any], found: list[Media]) -> None:
    """Adds the picture of each of the model's heads, or the reason why there is none."""
    member = system.members[0]
    try:
        recognizer = Run(member.exp).load(member.summary.get("weights", "model"))
    except UserError as error:
        for record in found:
            record["pictures"].append({"system": system.name, "why": str(error)})
        return
    model, tokenizer, normal = recognizer.model, recognizer.tokenizer, recognizer.statistics
    ids = {piece: number for number, piece in enumerate(tokenizer.pieces)}
    feature = member.settings.features
    hop = feature.hop_seconds * model.encoder.subsampling
    for line, wave, record in zip(lines, waves, found, strict=True):
        if isinstance(wave, Missing):
            continue
        tokens = [ids[piece.token] for piece in line.tokens if piece.token in ids]
        if not tokens:
            why = "the hypothesis is empty" if not line.hyp.split() else "decode did not record its tokens"
            record["pictures"].append({"system": system.name, "why": why})
            continue
        enc, _ = model.encoder(*_normal(normal, *features.fbank(feature, [wave])))
        for name, head in model.heads.items():
            picture = head.picture(enc, torch.tensor([tokens]))
            if picture is None:
                continue
            drawn = {"system": system.name, "head": name, "caption": picture.caption, "hop": hop}
            drawn |= {"rows": ["start" if row is None else tokenizer.pieces[row] for row in picture.rows]}
            drawn |= {"frames": picture.values.shape[1], "path": picture.path}
            if picture.drawn == "map":
                drawn["map"] = shades(picture.values / picture.values.max().clamp(min=1e-9))
            else:
                drawn["curves"] = (100 * picture.values).round().int().tolist()
            record["pictures"].append(drawn)


def _normal(statistics: features.Statistics, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
    return statistics.normalize(feats, feat_lens), feat_lens
