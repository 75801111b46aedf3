"""A neural language model of a recognizer's tokens: an LSTM (`task: language_model`, `asrtts lm --neural`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat

from asrtts import config, storage
from asrtts.config import Count, CountOrNone
from asrtts.data import augmentation, batching, sentences
from asrtts.data.dataset import pad
from asrtts.experiment.run_folder import Run
from asrtts.experiment.settings import TaskSettings
from asrtts.experiment.task_door import Asset, OpenTask, Place
from asrtts.lm import lm_folder
from asrtts.lm.recurrent import Config as ModelConfig
from asrtts.lm.recurrent import RecurrentLm
from asrtts.registry import UserError
from asrtts.search.language_model import LanguageModel
from asrtts.text.tokenizer import Tokenizer
from asrtts.training import memory
from asrtts.training.optimizer import Config as OptimizerConfig
from asrtts.training.trainer import Config as TrainingConfig


class Data(config.Settings):
    """Manifests, or text files with one sentence a line; and the tokens of the recognizer."""

    train: str = "data/train"
    dev: str = "data/dev"
    tokens: str = "data/tokens"


class Optimizer(OptimizerConfig):
    lr: PositiveFloat = 3e-3  # at the end of the warm-up
    warmup_updates: CountOrNone = 100


class Training(TrainingConfig):
    updates: Count = 2000  # optimizer steps: the budget
    validate_every: Count = 100  # updates
    patience: CountOrNone = 5  # validations without a better one before stopping; 0: never stop early
    keep_best: CountOrNone = 1  # weight snapshots kept for averaging
    keep_last: CountOrNone = 0  # of the newest snapshots, the same
    workers: int = Field(0, ge=0, le=1024)  # batches of sentences are made in this process
    optimizer: Optimizer = Field(default_factory=Optimizer)


class Settings(TaskSettings):
    """What a YAML file with `task: language_model` fills, and `key=value` of `asrtts lm --neural`."""

    task: Literal["language_model"] = "language_model"
    data: Data = Field(default_factory=Data)
    model: ModelConfig = Field(default_factory=ModelConfig)
    batch_tokens: Count = 2000  # padded, the ends of sentences among them
    training: Training = Field(default_factory=Training)


def open(settings: Settings, device: torch.device) -> OpenLanguageModel:
    """Raises UserError if texts or tokens are missing, or the model does not fit into memory."""
    return OpenLanguageModel(settings)


def load(run: Run, weights: str = "model") -> LanguageModel:
    """A trained language model. Raises UserError if something of it is missing or damaged."""
    tokenizer = Tokenizer.load(run.folder / "tokens")
    model = run.fill(RecurrentLm(run.settings.model, tokenizer.vocab_size), weights)
    assert isinstance(model, RecurrentLm)
    return model


@dataclass(frozen=True)
class Card:
    """lm.json: by it `lm=FOLDER` of decode knows a language model."""

    model: ModelConfig

    def save(self, path: Path) -> None:
        storage.write_json(path, {"kind": "lstm", "model": self.model.model_dump()})

    def fingerprint(self) -> str:
        return storage.short_hash(self.model.model_dump())


class OpenLanguageModel(OpenTask):
    """Texts, tokens and model of a training."""

    name, unit = "lstm", "tokens"
    measures = ("loss", "error")  # error: perplexity of a token

    def __init__(self, settings: Settings) -> None:
        self.settings, data = settings, settings.data
        self.tokenizer = Tokenizer.load(Path(data.tokens))
        texts, held_out = sentences.read(Path(data.train)), sentences.read(Path(data.dev))
        encode = self.tokenizer.encode
        self.text, self.dev = ([s for s in map(encode, lines) if s] for lines in (texts, held_out))
        torch.manual_seed(settings.seed)
        with memory.enough("lower model.dim or model.layers"):
            self.trainable = self.model = RecurrentLm(settings.model, self.tokenizer.vocab_size)
        self.facts: dict[str, Any] = {}
        self.summary = f"{len(self.text)} sentences"
        self.inputs = {
            "data_hash": storage.short_hash(texts),
            "dev_hash": storage.short_hash(held_out),
            "tokens_hash": self.tokenizer.fingerprint(),
        }

    def refuse(self) -> None:
        for path, text in ((self.settings.data.train, self.text), (self.settings.data.dev, self.dev)):
            if not text:
                raise UserError(f"{path}: no text for a language model: every sentence is empty")

    def assets(self) -> Mapping[str, Asset]:
        return {"tokens": self.tokenizer, lm_folder.ABOUT: Card(self.settings.model)}

    def batches(self, place: Place) -> Iterator[dict[str, Any]]:
        """Batches of sentences. What batching calls seconds are tokens here."""
        lengths = np.array([len(s) + 1 for s in self.text], dtype=np.float32)
        limit = self.settings.batch_tokens
        cut, seed = batching.Config(seconds=limit, max_utterances=limit), self.settings.seed
        at = {"epoch": place.epoch, "batch": place.batch, "rank": place.rank, "world": place.world}
        for request in batching.requests(cut, augmentation.NONE, lengths, seed, **at):
            rows = [self.text[i] for i in request.indices]
            ids = {f"sentence {i + 1}": float(len(self.text[i])) for i in request.indices}
            lens = torch.tensor([len(row) for row in rows])
            yield {
                "tokens": pad(rows),
                "token_lens": lens,
                "ids": ids,
                "place": request.place,
                "share": request.share,
            }

    def measure(self) -> dict[str, float]:
        """Loss of a sentence and perplexity of a token on dev."""
        dev, device = self.dev, next(self.model.parameters()).device
        total, width = 0.0, max(1, self.settings.batch_tokens // (max(map(len, dev)) + 1))
        for start in range(0, len(dev), width):
            rows = dev[start : start + width]
            batch = {"tokens": pad(rows).to(device), "token_lens": torch.tensor([len(r) for r in rows]).to(device)}
            total += float(self.model(batch)["loss"]) * len(rows)
        tokens = sum(map(len, dev)) + len(dev)
        return {"loss": total / len(dev), "error": float(np.exp(total / tokens))}
