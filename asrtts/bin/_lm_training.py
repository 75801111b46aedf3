"""Train a neural language model of `asrtts lm` with the one loop."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from asrtts import config, storage
from asrtts.config import Count, Settings
from asrtts.data import augmentation, batching
from asrtts.data.dataset import pad
from asrtts.lm.recurrent import Config as ModelConfig
from asrtts.lm.recurrent import RecurrentLm
from asrtts.registry import UserError
from asrtts.text.tokenizer import Tokenizer
from asrtts.training import checkpoint, memory, parallel
from asrtts.training.optimizer import Config as OptimizerConfig
from asrtts.training.trainer import Config as TrainingConfig
from asrtts.training.trainer import Trainer, best_first


class NeuralLm(Settings):
    """What `key=value` of `asrtts lm --neural` sets, `training.` of `asrtts train` among it."""

    seed: int = Field(1, ge=0, lt=1 << 32)
    model: ModelConfig = Field(default_factory=ModelConfig)
    batch_tokens: Count = 2000  # padded, the ends of sentences among them
    training: TrainingConfig = TrainingConfig(
        updates=2000,
        validate_every=100,
        patience=5,
        keep_best=1,
        keep_last=0,
        workers=0,
        optimizer=OptimizerConfig(lr=3e-3, warmup_updates=100),
    )


def train(
    folder: Path, given: Sequence[str], tokenizer: Tokenizer, text: list[list[int]], dev: list[list[int]], device: str
) -> tuple[RecurrentLm, dict[str, Any]]:
    """The model that was best on dev, and what lm.json tells of it. Killed, the same call goes on.

    Raises:
        UserError: a wrong setting; the folder holds a model of other settings, text or tokens.
    """
    text, dev = ([s for s in sentences if s] for sentences in (text, dev))
    if not text:
        raise UserError("no text to train a language model on: every sentence is empty")
    settings = settings_of(given)
    begin(folder, settings, tokenizer, text)
    parallel.use_threads(settings.training.threads)
    torch.manual_seed(settings.seed)
    with memory.enough("lower model.dim or model.layers"):
        model = RecurrentLm(settings.model, tokenizer.vocab_size)
    trainer = Trainer(model, settings.training, folder, settings.seed, parallel.pick_device(device))
    trainer.resume()
    trainer.fit(batches(settings, text, trainer), validation(settings, dev, model, trainer.device))
    update, perplexity = best_first(trainer.snapshots)[0]
    best = folder / "snapshots" / f"{update:08d}.safetensors"
    weights = checkpoint.load_weights(best)
    checkpoint.save_weights(folder / "model.safetensors", weights)
    model.load_state_dict(weights)
    about = {"kind": "lstm", "parameters": sum(p.numel() for p in model.parameters()), "update": update}
    return model.cpu().eval(), {**about, "model": settings.model.model_dump()}


def settings_of(given: Sequence[str]) -> NeuralLm:
    """The settings with `key=value` over their defaults. Raises UserError for a wrong one."""
    settings = config.build(NeuralLm, config.overridden(NeuralLm().model_dump(), given), "asrtts lm")
    if not settings.training.keep_best:
        raise UserError("training.keep_best is 0: the snapshot that is best on dev becomes the model; wanted 1 or more")
    return settings


def begin(folder: Path, settings: NeuralLm, tokenizer: Tokenizer, text: list[list[int]]) -> None:
    """Write settings.yaml and tokens/, or see that they are of the same settings, text and tokens."""
    digest = hashlib.sha256(repr((settings.model_dump(), tokenizer.fingerprint(), text)).encode()).hexdigest()[:16]
    mark = folder / "begun"
    if mark.is_file():
        if mark.read_text(encoding="utf-8").strip() != digest:
            raise UserError(
                f"{folder}: holds a language model of other settings, text or tokens; train into a new folder, or "
                "delete this one"
            )
        return
    try:
        for rest in ("checkpoints", "snapshots"):
            shutil.rmtree(folder / rest, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder / "tokens")
        config.dump(settings, folder / "settings.yaml.part")
        os.replace(folder / "settings.yaml.part", folder / "settings.yaml")
    except OSError as error:
        raise storage.storage_error(folder, error) from None
    storage.write(mark, digest + "\n")


def batches(settings: NeuralLm, text: list[list[int]], trainer: Trainer) -> Iterator[dict[str, Any]]:
    """Batches of sentences for ever, from where the trainer stands. What batching calls seconds are tokens here."""
    lengths = np.array([len(s) + 1 for s in text], dtype=np.float32)
    cut = batching.Config(seconds=settings.batch_tokens, max_utterances=settings.batch_tokens)
    place = {"epoch": trainer.epoch, "batch": trainer.batch, "rank": trainer.rank, "world": trainer.world}
    for request in batching.requests(cut, augmentation.NONE, lengths, settings.seed, **place):
        rows = [text[i] for i in request.indices]
        lens = torch.tensor([len(row) for row in rows])
        ids = [f"sentence {i + 1}" for i in request.indices]
        yield {"tokens": pad(rows), "token_lens": lens, "utt_ids": ids, "request": request}


def validation(
    settings: NeuralLm, dev: list[list[int]], model: RecurrentLm, device: torch.device
) -> Callable[[], dict[str, float]]:
    """Loss and perplexity a token on dev."""

    def measure() -> dict[str, float]:
        total, width = 0.0, max(1, settings.batch_tokens // (max(map(len, dev)) + 1))
        for start in range(0, len(dev), width):
            rows = dev[start : start + width]
            batch = {"tokens": pad(rows).to(device), "token_lens": torch.tensor([len(r) for r in rows]).to(device)}
            total += float(model(batch)["loss"]) * len(rows)
        tokens = sum(map(len, dev)) + len(dev)
        return {"loss": total / len(dev), "error": float(np.exp(total / tokens))}

    return measure
