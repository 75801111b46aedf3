"""Speech recognition: one encoder and weighted heads, trained on a manifest (`task: recognition`, the default)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from asrtts import config
from asrtts.asr.decoding import Decoding
from asrtts.asr.foreign_weights import start_from
from asrtts.asr.model import AsrModel
from asrtts.config import chosen_by_name, warn, weighted_by_name
from asrtts.data import audio, augmentation, batching, ctc_feasibility, features, manifest
from asrtts.data.augmentation import Config as AugmentationConfig
from asrtts.data.batching import Config as BatchingConfig
from asrtts.data.dataset import UtteranceDataset, batches, start_early
from asrtts.data.features import Config as FeatureConfig
from asrtts.experiment.run_folder import Run
from asrtts.experiment.settings import TaskSettings
from asrtts.experiment.task_door import Asset, OpenTask, Place
from asrtts.lm import lm_folder
from asrtts.nn import weights_file
from asrtts.registry import UserError
from asrtts.search.language_model import LanguageModel
from asrtts.text.tokenizer import Tokenizer
from asrtts.training import memory

STATISTICS_UTTERANCES = 2000  # enough for a mean and a variance of each bin
STATISTICS_BATCH = 32
TOKENS, STATISTICS = "tokens", "cmvn.json"


class Data(config.Settings):
    """Where stage 1 put things, relative to the recipe's folder."""

    train: str = "data/train"
    dev: str = "data/dev"
    tokens: str = "data/tokens"


class Settings(TaskSettings):
    """What conf/<head>.yaml fills."""

    FREE: ClassVar[tuple[str, ...]] = ("data.", "decoding.")

    task: Literal["recognition"] = "recognition"
    data: Data = Field(default_factory=Data)
    features: FeatureConfig = Field(default_factory=FeatureConfig)
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    batching: BatchingConfig = Field(default_factory=BatchingConfig)
    encoder: chosen_by_name("asrtts.asr.encoders")
    heads: weighted_by_name("asrtts.asr.heads")
    decoding: Decoding = Field(default_factory=Decoding)


def open(settings: Settings, device: torch.device) -> OpenRecognition:
    """Raises UserError if data or tokens are missing, or the model does not fit into memory."""
    return OpenRecognition(settings, device)


def load(run: Run, weights: str = "model") -> Recognizer:
    """A trained recognizer. Raises UserError if something of it is missing, damaged or of another run."""
    settings, tokenizer = run.settings, Tokenizer.load(run.folder / TOKENS)
    trained_on = run.facts().get("tokens_hash", tokenizer.fingerprint())
    if tokenizer.fingerprint() != trained_on:
        raise UserError(
            f"{run.folder / TOKENS}: the tokens of another run ({tokenizer.fingerprint()}; this model was "
            f"trained on {trained_on}); put its own back, or train again"
        )
    model = run.fill(build_model(settings, tokenizer.vocab_size), weights)
    return Recognizer(run, settings, tokenizer, load_statistics(run, settings), model)


@dataclass(frozen=True)
class Recognizer:
    """A trained recognizer, as decode, tune and compare use it."""

    run: Run
    settings: Settings
    tokenizer: Tokenizer
    statistics: features.Statistics
    model: AsrModel  # in evaluation mode, on the CPU

    @property
    def frame_seconds(self) -> float:
        """Of an encoder frame."""
        return self.settings.features.hop_seconds * self.model.encoder.subsampling

    def dataset(self, index: batching.Index) -> UtteranceDataset:
        """The features of a manifest, without tokens."""
        return UtteranceDataset(index, self.settings.features, self.statistics, lambda text: [])

    def language_models(self, decoding: Decoding, device: torch.device) -> list[tuple[LanguageModel, float]]:
        """Those that `decoding` names, with their weights. Raises UserError for one of other tokens than the run's."""
        return [(lm_folder.load(folder, self.tokenizer, device), weight) for folder, weight in decoding.lms]

    def has_frames(self, seconds: np.ndarray) -> np.ndarray:
        """Whether utterances of these durations give the encoder a frame: (N,) bool."""
        return has_frames(self.settings.features, self.model, seconds)


class OpenRecognition(OpenTask):
    """Data, tokens and model of a training."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.index, self.held_out = batching.Index(settings.data.train), batching.Index(settings.data.dev)
        self.tokenizer = Tokenizer.load(Path(settings.data.tokens))
        self.model = self.trainable = build_model(settings, self.tokenizer.vocab_size)
        self.statistics: features.Statistics | None = None  # of the run folder; `restore` reads them
        self.given_statistics: features.Statistics | None = None  # those that came with --init
        self.name = "+".join(sorted(settings.heads))
        self.summary = f"{len(self.index)} utterances"
        self.inputs = {
            "data_hash": manifest.fingerprint(settings.data.train),
            "dev_hash": manifest.fingerprint(settings.data.dev),
            "tokens_hash": self.tokenizer.fingerprint(),
        }

    @property
    def facts(self) -> dict[str, Any]:
        heads = {name: head.weight for name, head in self.settings.heads.items()}
        return {"heads": heads, "encoder_hash": weights_hash(self.model.encoder)}

    def start_workers(self) -> None:
        start_early(self.settings.training.workers)

    def refuse(self) -> None:
        settings, model, index = self.settings, self.model, self.index
        model.method(settings.decoding)  # a search that these heads cannot do is refused now, not after the training
        model.refuse_untrainable(self.device)
        refuse_too_short(index, settings.features, model, max(settings.augmentation.speed))
        if not has_frames(settings.features, model, self.held_out.seconds).any():
            raise UserError(f"{self.held_out.path}: no utterance is long enough for one frame of the encoder")
        if "ctc" in settings.heads:
            ctc_feasibility.check(
                index, settings.augmentation.speed, settings.seed, self.tokenizer.encode, self._frames
            )
        augmentation.check(settings.augmentation)
        audio.read(self.held_out[0], settings.features.sample_rate)  # a corpus that moved: now, not at a validation
        rate, wanted = index[0].sample_rate, settings.features.sample_rate
        if rate and rate < wanted:
            warn(
                f"{index.path}: recorded at {rate} Hz, features.sample_rate is {wanted}: bins above {rate // 2} Hz "
                f"hear nothing; set features.sample_rate={rate} if all of it is so"
            )

    def _frames(self, seconds: np.ndarray) -> Tensor:
        return encoder_frames(self.settings.features, self.model, seconds)

    def initialize(self, source: str) -> None:
        cmvn = start_from(source, self.model.encoder, self.settings.encoder)
        if cmvn is None:
            return
        mean, std = cmvn
        if len(mean) != self.settings.features.num_bins:
            raise UserError(
                f"--init: its features have {len(mean)} bins, features.num_bins is {self.settings.features.num_bins}; "
                f"set features.num_bins={len(mean)}"
            )
        warn("features are normalized with the global_cmvn of --init, on which its encoder was trained")
        self.given_statistics = features.Statistics(mean, std)

    def assets(self) -> Mapping[str, Asset]:
        return {TOKENS: self.tokenizer, STATISTICS: self.given_statistics or self._measure_statistics()}

    def restore(self, run: Run) -> None:
        self.statistics = load_statistics(run, self.settings)

    def batches(self, place: Place) -> Iterator[dict[str, Any]]:
        workers = self.settings.training.workers
        return batches(self.dataset(self.statistics), self.requests(place), workers)

    def requests(self, place: Place) -> Iterator[batching.Request]:
        """The utterances of each batch."""
        settings = self.settings
        return batching.requests(
            settings.batching,
            settings.augmentation,
            self.index.seconds,
            settings.seed,
            epoch=place.epoch,
            batch=place.batch,
            rank=place.rank,
            world=place.world,
        )

    def dataset(self, statistics: features.Statistics) -> UtteranceDataset:
        """What makes a training batch of a request."""
        settings = self.settings
        return UtteranceDataset(
            self.index,
            settings.features,
            statistics,
            self.tokenizer.encode,
            augment=settings.augmentation,
            views=self.model.views,
            seed=settings.seed,
            round_frames=round_frames(settings),
        )

    def measure(self) -> dict[str, float]:
        """Loss and token error rate (by the cheapest search of the heads) on the dev manifest."""
        settings, index, model = self.settings, self.held_out, self.model
        encode, rounded = self.tokenizer.encode, round_frames(settings)
        dataset = UtteranceDataset(index, settings.features, self.statistics, encode, round_frames=rounded)
        greedy = settings.decoding.model_copy(
            update={"beam": 1, "nbest": 1, "method": "auto", "ctc_weight": 0.0, "lm": None, "lodr": None}
        )
        device = next(model.parameters()).device
        long_enough = has_frames(settings.features, model, index.seconds)
        loss = errors = tokens = utterances = 0.0
        for request in batching.plain_batches(settings.batching, index.seconds):
            rows = [row for row in request.indices if long_enough[row]]
            short = sum(len(encode(index[row].text)) for row in request.indices if not long_enough[row])
            errors, tokens = errors + short, tokens + short  # nothing is recognized in them
            if not rows:
                continue
            batch = dataset[batching.Request.plain(rows, request.batch)]
            batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            with memory.told(batch["ids"], f"lower batching.seconds, or leave such out of {index.path} (stage 1)"):
                loss += float(model(batch)["loss"]) * len(rows)
                hypotheses = model.search(batch["feats"], batch["feat_lens"], greedy)
            utterances += len(rows)
            for row, length, nbest in zip(
                batch["tokens"].tolist(), batch["token_lens"].tolist(), hypotheses, strict=True
            ):
                errors += Levenshtein.distance(row[:length], nbest[0].tokens)
                tokens += length
        return {"loss": loss / utterances, "error": errors / max(tokens, 1)}

    def _measure_statistics(self) -> features.Statistics:
        """Mean and deviation of the features over a fixed sample of the training data."""
        settings, index = self.settings, self.index
        sample = np.random.default_rng(settings.seed).permutation(len(index))[:STATISTICS_UTTERANCES]
        none = features.Statistics(torch.zeros(1), torch.ones(1))
        dataset = UtteranceDataset(index, settings.features, none, lambda text: [])
        cuts = [sample[i : i + STATISTICS_BATCH].tolist() for i in range(0, len(sample), STATISTICS_BATCH)]
        made = (dataset[batching.Request.plain(cut)] for cut in cuts)
        return features.Statistics.of((batch["feats"], batch["feat_lens"]) for batch in made)


def build_model(settings: Settings, vocab_size: int) -> AsrModel:
    """Raises UserError if there is not as much memory as the settings ask for."""
    with memory.enough("lower encoder.dim or encoder.layers, or those of a head"):
        return AsrModel(settings.encoder, settings.heads, settings.features.num_bins, vocab_size, settings.seed)


def load_statistics(run: Run, settings: Settings) -> features.Statistics:
    """Raises UserError if they are damaged, or of other features."""
    path, bins = run.folder / STATISTICS, settings.features.num_bins
    statistics = features.Statistics.load(path)
    if len(statistics.mean) != bins:
        what = f"statistics of {len(statistics.mean)} bins, features.num_bins is {bins}"
        raise UserError(f"{path}: {what}; train again into a new folder")
    run.refuse_other(STATISTICS, statistics)
    return statistics


def round_frames(settings: Settings) -> int:
    """Frames of `batching.round_seconds`, at least one."""
    return max(1, round(settings.batching.round_seconds / settings.features.hop_seconds))


def encoder_frames(feature: features.Config, model: AsrModel, seconds: np.ndarray) -> Tensor:
    """The encoder frames (N,) of utterances of these durations."""
    with torch.device("cpu"):  # also where the model is on the meta device
        samples = torch.from_numpy((seconds.astype(np.float64) * feature.sample_rate).astype(np.int64))
        return model.encoder.out_lens(features.num_frames(feature, samples))


def has_frames(feature: features.Config, model: AsrModel, seconds: np.ndarray) -> np.ndarray:
    """Whether utterances of these durations give the encoder a frame: (N,) bool."""
    return (encoder_frames(feature, model, seconds) >= 1).numpy()


def refuse_too_short(index: batching.Index, feature: features.Config, model: AsrModel, fastest: float = 1.0) -> None:
    """Raises UserError if an utterance gives the encoder no frame when it is spoken `fastest` times as fast."""
    short = np.flatnonzero(~has_frames(feature, model, index.seconds / fastest))
    if len(short):
        shortest = int(short[index.seconds[short].argmin()])
        raise UserError(
            f"{index.path}: utterance {index[shortest].utt_id} lasts {index.seconds[shortest]:.3f} s, too short for "
            f"one frame of the encoder (so are {len(short) - 1} others); drop such with `asrtts prepare --min-seconds` "
            "(stage 1)"
        )


def weights_hash(module: torch.nn.Module) -> str:
    """A hash of all weights and buffers: two runs with the same one began with the same encoder, bit for bit."""
    return weights_file.digest(module.state_dict())[:16]
