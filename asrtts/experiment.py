"""An experiment's settings, and the folder exp/<name> that holds everything a trained model needs.

config.yaml (every value), tokens/, cmvn.json, checkpoints/, snapshots/, train.jsonl, run.json (data hash, versions,
parameters) and model.safetensors: decode, quantize and export need this folder and nothing else.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

import asrtts
from asrtts import config
from asrtts.asr.model import AsrModel, Decoding
from asrtts.config import Settings, chosen_by_name, weighted_by_name
from asrtts.data import manifest
from asrtts.data.augmentation import Config as AugmentationConfig
from asrtts.data.batching import Config as BatchingConfig
from asrtts.data.features import Config as FeatureConfig
from asrtts.data.features import Statistics
from asrtts.registry import UserError
from asrtts.text.tokenizer import Tokenizer
from asrtts.training import checkpoint
from asrtts.training.trainer import HARMLESS
from asrtts.training.trainer import Config as TrainingConfig


class Data(Settings):
    """Where stage 1 put things, relative to the recipe's folder."""

    train: str = "data/train"
    dev: str = "data/dev"
    tokens: str = "data/tokens"


class Experiment(Settings):
    """What conf/<head>.yaml fills."""

    seed: int = 1
    data: Data = Field(default_factory=Data)
    features: FeatureConfig = Field(default_factory=FeatureConfig)
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    batching: BatchingConfig = Field(default_factory=BatchingConfig)
    encoder: chosen_by_name("asrtts.asr.encoders")
    heads: weighted_by_name("asrtts.asr.heads")
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    decoding: Decoding = Field(default_factory=Decoding)


def load(path: str | Path, overrides: list[str] = ()) -> Experiment:
    """conf/<head>.yaml with `key.sub=value` overrides. Raises UserError naming the key."""
    return config.load(Path(path), Experiment, overrides)


class Run:
    """The folder exp/<name>."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run. Raises UserError if the folder is none."""
        run = cls(folder)
        if not (run.folder / "config.yaml").is_file():
            beside = run.folder.parent
            others = sorted(p.parent.name for p in beside.glob("*/config.yaml")) if beside.is_dir() else []
            hint = f"; {beside} holds: {', '.join(others)}" if others else ""
            raise UserError(f"{run.folder}: no trained model here (config.yaml is missing){hint}. Train one: stage 3")
        return run

    @property
    def experiment(self) -> Experiment:
        return config.load(self.folder / "config.yaml", Experiment)

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.folder / "tokens")

    @property
    def statistics(self) -> Statistics:
        return Statistics.load(self.folder / "cmvn.json")

    def begin(self, experiment: Experiment, tokenizer: Tokenizer, statistics: Statistics) -> None:
        """Write what a run starts from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.folder / "tokens", ignore_errors=True)
        tokenizer.save(self.folder / "tokens")
        statistics.save(self.folder / "cmvn.json")
        beside = self.folder / "config.yaml.part"
        config.dump(experiment, beside)
        os.replace(beside, self.folder / "config.yaml")  # last: it makes the folder a run

    def check_unchanged(self, experiment: Experiment, facts: dict[str, Any]) -> None:
        """Refuse to resume under other settings, data or tokens than the run began with; the key is named."""
        before, now = _flat(self.experiment.model_dump(mode="json")), _flat(experiment.model_dump(mode="json"))
        harmless = {f"training.{key}" for key in HARMLESS}
        for key in sorted(before.keys() | now.keys()):
            free = key in harmless or key.startswith(("decoding.", "data."))
            if not free and before.get(key) != now.get(key):
                raise UserError(
                    f"{self.folder}: this run began with {key}={before.get(key)}, now it is {now.get(key)}; a resumed "
                    "run would be neither. Train into a new folder, or add --restart to throw this one away"
                )
        old = self.facts()
        for key in ("data_hash", "tokens_hash"):
            if key in old and old[key] != facts[key]:
                what = {"data_hash": "training manifest", "tokens_hash": "token list"}[key]
                raise UserError(
                    f"{self.folder}: the {what} is another than this run began with. "
                    "Train into a new folder, or add --restart to throw this one away"
                )

    def build_model(self, experiment: Experiment, vocab_size: int) -> AsrModel:
        e = experiment
        return AsrModel(e.encoder, e.heads, e.features.num_bins, vocab_size, e.seed)

    def load_model(self, weights: str = "model") -> AsrModel:
        """The averaged model, or a snapshot by its name. Raises UserError if the weights are missing or do not fit."""
        path = self.folder / f"{weights}.safetensors"
        if not path.is_file():
            raise UserError(f"{path}: no such weights; make them with `asrtts average {self.folder}` (stage 3)")
        tokenizer = self.tokenizer
        model = self.build_model(self.experiment, tokenizer.vocab_size)
        try:
            model.load_state_dict(checkpoint.load_weights(path))
        except RuntimeError as error:
            detail = str(error).strip().splitlines()[-1].strip()
            raise UserError(f"{path}: does not fit {self.folder}/config.yaml ({detail})") from None
        return model.eval()

    def facts(self) -> dict[str, Any]:
        """run.json, or {} if it is not written yet."""
        path = self.folder / "run.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def record(self, **facts: Any) -> None:
        """Add facts to run.json."""
        beside = self.folder / "run.json.part"
        beside.write_text(json.dumps({**self.facts(), **facts}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(beside, self.folder / "run.json")


def facts_of(experiment: Experiment, tokenizer: Tokenizer, model: torch.nn.Module) -> dict[str, Any]:
    """What run.json says of a run before it is trained."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "heads": {name: head.weight for name, head in experiment.heads.items()},
        "seed": experiment.seed,
        "data_hash": manifest.fingerprint(experiment.data.train),
        "tokens_hash": tokenizer.fingerprint(),
        "versions": {"asrtts": asrtts.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
