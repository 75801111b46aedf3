"""An experiment's settings, and the folder exp/<name> that holds everything a trained model needs.

config.yaml (every value), tokens/, cmvn.json, checkpoints/, snapshots/, train.jsonl, run.json (data hash, versions,
parameters) and model.safetensors: decode, quantize and export need this folder and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

import asrtts
from asrtts import config, storage
from asrtts.asr.model import AsrModel, Decoding
from asrtts.config import Settings, chosen_by_name, weighted_by_name
from asrtts.data import manifest
from asrtts.data.augmentation import Config as AugmentationConfig
from asrtts.data.batching import Config as BatchingConfig
from asrtts.data.batching import Index
from asrtts.data.features import Config as FeatureConfig
from asrtts.data.features import Statistics, num_frames
from asrtts.lm import lm_folder
from asrtts.registry import UserError, suggestion
from asrtts.search.language_model import LanguageModel
from asrtts.text.tokenizer import Tokenizer
from asrtts.training import checkpoint, memory
from asrtts.training.journal import LOG
from asrtts.training.trainer import HARMLESS
from asrtts.training.trainer import Config as TrainingConfig

HARMLESS_KEYS = {f"training.{key}" for key in HARMLESS}
# Facts that must stay as they were when a run is resumed.
HASHES = {"data_hash": "training manifest", "dev_hash": "dev manifest", "tokens_hash": "token list"}
# What the numbers of a training hang on beside its settings, and how a command asks for the value that it began with.
COMPUTED_WITH = {"precision": "training.precision={}", "device": "--device {}"}


class Data(Settings):
    """Where stage 1 put things, relative to the recipe's folder."""

    train: str = "data/train"
    dev: str = "data/dev"
    tokens: str = "data/tokens"


class Experiment(Settings):
    """What conf/<head>.yaml fills."""

    seed: int = Field(1, ge=0, lt=1 << 32)  # of weights, batches and augmentation
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
        """Raises UserError if they are damaged, or of other features."""
        path, bins = self.folder / "cmvn.json", self.experiment.features.num_bins
        found = Statistics.load(path)
        if len(found.mean) != bins:
            what = f"statistics of {len(found.mean)} bins, features.num_bins is {bins}"
            raise UserError(f"{path}: {what}; train again into a new folder")
        return found

    @property
    def is_begun(self) -> bool:
        """Whether there is a run to go on with. Raises UserError for the remains of one."""
        self._refuse_here()
        if not (self.folder / "config.yaml").is_file() and (self.folder / "checkpoints").is_dir():
            raise UserError(
                f"{self.folder}: holds checkpoints, but config.yaml is missing, so that nothing says what they are of. "
                "Train into a new folder, or add --restart to throw this one away"
            )
        if not (self.folder / "config.yaml").is_file() and (self.folder / LOG).exists():
            raise UserError(
                f"{self.folder}: holds a {LOG} that is of no run (there is no config.yaml), and training would write "
                "its log there; name a new folder, such as exp/ctc"
            )
        return (self.folder / "config.yaml").is_file()

    def begin(
        self, experiment: Experiment, tokenizer: Tokenizer, statistics: Statistics, facts: dict[str, Any]
    ) -> None:
        """Write what a run starts from. Raises UserError if that cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "run.json").unlink(missing_ok=True)
            shutil.rmtree(self.folder / "tokens", ignore_errors=True)
            tokenizer.save(self.folder / "tokens")
            statistics.save(self.folder / "cmvn.json")
            self.record(**facts)
            beside = self.folder / "config.yaml.part"
            config.dump(experiment, beside)
            os.replace(beside, self.folder / "config.yaml")  # last: it makes the folder a run
        except OSError as error:
            raise storage.storage_error(self.folder, error) from None

    def discard(self) -> None:
        """Throw the run away. Raises UserError if the folder is something else than a run."""
        self._refuse_here()
        if not self.folder.exists():
            return
        known = [self.folder / name for name in ("config.yaml", "checkpoints")]
        if not self.folder.is_dir() or (any(self.folder.iterdir()) and not any(path.exists() for path in known)):
            raise UserError(
                f"{self.folder}: --restart would delete it, but it is no run (there is no config.yaml in it)"
            )
        beside = self.folder.resolve().with_name(self.folder.resolve().name + ".discarded")
        with storage.held(self.folder):  # or it is refused: another process would train on without its folder
            try:
                shutil.rmtree(beside, ignore_errors=True)
                os.replace(self.folder.resolve(), beside)  # a kill in between leaves no half of a run
                shutil.rmtree(beside)
            except OSError as error:
                raise UserError(f"{self.folder}: cannot be thrown away ({error})") from None

    def _refuse_here(self) -> None:
        """A run in the recipe's own folder (`asrtts train conf/ctc.yaml "$unset"`) is thrown away with the recipe."""
        here = Path.cwd()
        if self.folder.resolve() in (here, *here.parents):
            raise UserError(f"'{self.folder}' is the folder you are in; name one for the run, such as exp/ctc")

    def check_unchanged(self, experiment: Experiment, facts: dict[str, Any]) -> None:
        """Refuse to resume under other settings, data, tokens, precision or device than the run began with; the key is
        named. A finished run computes nothing more, so another machine may see that it is finished."""
        old = self.facts()
        came_to = {"training.precision"} if {"precision"} <= old.keys() & facts.keys() else set()  # auto is one of two
        before, now = flat(self.experiment.model_dump(mode="json")), flat(experiment.model_dump(mode="json"))
        for key in sorted(before.keys() | now.keys()):
            free = key in HARMLESS_KEYS | came_to or key.startswith(("decoding.", "data."))
            if not free and before.get(key) != now.get(key):
                raise UserError(
                    f"{self.folder}: this run began with {key}={before.get(key)}, now it is {now.get(key)}; a resumed "
                    "run would be neither. Train into a new folder, or add --restart to throw this one away"
                )
        if not old:
            raise UserError(
                f"{self.folder / 'run.json'}: not there, and nothing else says which data and tokens this run began "
                "with; put it back, train into a new folder, or add --restart to throw this one away"
            )
        if old.get("init") != facts.get("init"):
            began, now = (f"--init {of['init']}" if "init" in of else "random weights" for of in (old, facts))
            raise UserError(
                f"{self.folder}: this run began with {began}, now it is {now}; give the command that it began with, "
                "train into a new folder, or add --restart to throw this one away"
            )
        for key, what in HASHES.items():
            if key in old and old[key] != facts[key]:
                raise UserError(
                    f"{self.folder}: the {what} is another than this run began with. "
                    "Train into a new folder, or add --restart to throw this one away"
                )

        for key, way in COMPUTED_WITH.items():
            if "updates" not in old and old.get(key) != facts.get(key) and {key} <= old.keys() & facts.keys():
                raise UserError(
                    f"{self.folder}: this run began with {key} {old[key]}, now it is {facts[key]}; a resumed run would "
                    f"be neither. Say {way.format(old[key])} where that can be had, train into a new folder, or add "
                    "--restart to throw this one away"
                )

    def build_model(self, experiment: Experiment, vocab_size: int) -> AsrModel:
        """Raises UserError if there is not as much memory as the settings ask for."""
        e = experiment
        with memory.enough("lower encoder.dim or encoder.layers, or those of a head"):
            return AsrModel(e.encoder, e.heads, e.features.num_bins, vocab_size, e.seed)

    def load_model(self, weights: str = "model") -> AsrModel:
        """The averaged model, or a snapshot by its name. Raises UserError if the weights are missing or do not fit."""
        path = self.folder / f"{weights}.safetensors"
        if not path.is_file():
            there = [
                str(p.relative_to(self.folder).with_suffix("")) for p in self.folder.glob("**/[0-9m]*.safetensors")
            ]
            there = [name for name in there if not name.startswith("checkpoints")]
            hint = suggestion(weights, there) if weights != "model" and there else ""
            raise UserError(f"{path}: no such weights{hint}; `asrtts average {self.folder}` makes the model (stage 3)")
        tokenizer = self.tokenizer
        trained_on = self.facts().get("tokens_hash", tokenizer.fingerprint())
        if tokenizer.fingerprint() != trained_on:
            raise UserError(
                f"{self.folder / 'tokens'}: the tokens of another run ({tokenizer.fingerprint()}; this model was "
                f"trained on {trained_on}); put its own back, or train again"
            )
        model = self.build_model(self.experiment, tokenizer.vocab_size)
        try:
            model.load_state_dict(checkpoint.load_weights(path))
        except RuntimeError as error:
            detail = str(error).strip().splitlines()[-1].strip()
            raise UserError(f"{path}: does not fit {self.folder}/config.yaml ({detail})") from None
        return model.eval()

    def language_models(self, decoding: Decoding, device: torch.device) -> list[tuple[LanguageModel, float]]:
        """Those that `decoding` names, with their weights. Raises UserError for one of other tokens than the run's."""
        tokenizer = self.tokenizer
        return [(lm_folder.load(folder, tokenizer, device), weight) for folder, weight in decoding.lms]

    def facts(self) -> dict[str, Any]:
        """run.json, or {} if it is not written yet."""
        path = self.folder / "run.json"
        mend = "damaged; delete it: decoding does without it"
        return storage.json_object(path.read_bytes(), str(path), mend) if path.is_file() else {}

    def record(self, **facts: Any) -> None:
        """Add facts to run.json."""
        text = json.dumps({**self.facts(), **facts}, indent=1, ensure_ascii=False) + "\n"
        storage.write(self.folder / "run.json", text)


def facts_of(experiment: Experiment, tokenizer: Tokenizer, model: AsrModel) -> dict[str, Any]:
    """What run.json says of a run before it is trained; the model has its starting weights."""
    hashes = hashes_of(experiment, tokenizer)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "heads": {name: head.weight for name, head in experiment.heads.items()},
        "seed": experiment.seed,
        "family": family(experiment, hashes),
        "encoder_hash": weights_hash(model.encoder),
        **hashes,
        "versions": {"asrtts": asrtts.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def hashes_of(experiment: Experiment, tokenizer: Tokenizer) -> dict[str, str]:
    """The HASHES of what a run is trained on."""
    return {
        "data_hash": manifest.fingerprint(experiment.data.train),
        "dev_hash": manifest.fingerprint(experiment.data.dev),
        "tokens_hash": tokenizer.fingerprint(),
    }


def family(experiment: Experiment, hashes: dict[str, str]) -> str:
    """What runs that differ in their seed only have in common, e.g. "ctc-1a2b3c": `asrtts score` takes their mean."""
    settings = flat(experiment.model_dump(mode="json", exclude={"seed", "data", "decoding"}))
    settings = {key: value for key, value in settings.items() if key not in HARMLESS_KEYS}
    digest = hashlib.sha256(json.dumps([settings, hashes], sort_keys=True).encode())
    return f"{'+'.join(sorted(experiment.heads))}-{digest.hexdigest()[:6]}"


def weights_hash(module: torch.nn.Module) -> str:
    """A hash of all weights and buffers: two runs with the same one began with the same encoder, bit for bit."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def refuse_too_short(index: Index, feature: FeatureConfig, model: AsrModel, fastest: float = 1.0) -> None:
    """Raises UserError if an utterance gives the encoder no frame when it is spoken `fastest` times as fast."""
    shortest = int(index.seconds.argmin())
    frames = num_frames(feature, int(index.seconds[shortest] / fastest * feature.sample_rate))
    if model.encoder.out_lens(frames) < 1:
        raise UserError(
            f"{index.path}: utterance {index[shortest].utt_id} lasts {index.seconds[shortest]:.3f} s, too short for "
            "one frame of the encoder; drop such with `asrtts prepare --min-seconds` (stage 1)"
        )


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"encoder": {"dim": 144}} -> {"encoder.dim": 144}"""
    found = {}
    for key, value in values.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return found
