"""The folder exp/<name>: the one reader and writer of everything that a training leaves in it.

config.yaml (every value), the task's assets (e.g. tokens/, cmvn.json), checkpoints/, snapshots/, train.jsonl, run.json
(hashes of the data, versions, parameters, checksums) and model.safetensors. Decode, quantize and export need this
folder and nothing else.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import asrtts
from asrtts import config, storage
from asrtts.experiment import settings as experiment_settings
from asrtts.experiment.settings import HARMLESS_KEYS, TaskSettings
from asrtts.experiment.task_door import Asset
from asrtts.nn import weights_file
from asrtts.registry import UserError, suggestion
from asrtts.training.journal import LOG

SETTINGS, FACTS, MODEL = "config.yaml", "run.json", "model"
# Facts that must stay as they were when a run is resumed, with the names that a message has for them.
HASHES = {"data_hash": "training manifest", "dev_hash": "dev manifest", "tokens_hash": "token list"}
# Run-time facts that affect results, and how a command asks for the value that the run began with.
COMPUTED_WITH = {"precision": "training.precision={}", "device": "--device {}"}
WAY_OUT = "Train into a new folder, or add --restart to throw this one away"


class Run:
    """A run folder. What is read is kept: config.yaml and run.json are read once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def open(cls, folder: str | Path, task: str | None = None) -> Run:
        """An existing run. Raises UserError if the folder is none, or a run of another task than `task`."""
        run = cls(folder)
        if not (run.folder / SETTINGS).is_file():
            parent = run.folder.parent
            others = sorted(p.parent.name for p in parent.glob(f"*/{SETTINGS}")) if parent.is_dir() else []
            hint = f"; {parent} holds: {', '.join(others)}" if others else ""
            raise UserError(f"{run.folder}: no trained model here ({SETTINGS} is missing){hint}. Train one: stage 3")
        if task is not None and run.settings.task != task:
            raise UserError(f"{run.folder}: is a run of task: {run.settings.task}; wanted one of task: {task}")
        return run

    @cached_property
    def settings(self) -> Any:
        """The Settings of the run's task. Raises UserError if config.yaml is missing or damaged."""
        return experiment_settings.load(self.folder / SETTINGS)

    def load(self, weights: str = MODEL) -> Any:
        """What the run's task gives for a trained model, e.g. a Recognizer; `weights`: or a snapshot by its name.

        Raises:
            UserError: weights or assets are missing or damaged, or do not fit.
        """
        return experiment_settings.task(self.settings.task).load(self, weights)

    # A run that begins or resumes ---------------------------------------------------------------------------------

    @property
    def is_begun(self) -> bool:
        """Whether there is a run to resume. Raises UserError for the remains of one."""
        self._refuse_here()
        if not (self.folder / SETTINGS).is_file() and (self.folder / "checkpoints").is_dir():
            raise UserError(
                f"{self.folder}: holds checkpoints, but {SETTINGS} is missing, so that nothing says what they are of. "
                + WAY_OUT
            )
        if not (self.folder / SETTINGS).is_file() and (self.folder / LOG).exists():
            raise UserError(
                f"{self.folder}: holds a {LOG} that is of no run (there is no {SETTINGS}), and training would write "
                "its log there; name a new folder, such as exp/ctc"
            )
        return (self.folder / SETTINGS).is_file()

    def begin(self, settings: TaskSettings, assets: Mapping[str, Asset], facts: Mapping[str, Any]) -> None:
        """Write what a run starts from. Raises UserError if that cannot be written."""
        try:
            storage.make_folder(self.folder)
            (self.folder / FACTS).unlink(missing_ok=True)
            for name, asset in assets.items():
                if (self.folder / name).is_dir():
                    shutil.rmtree(self.folder / name)
                asset.save(self.folder / name)
            self.record(**facts, assets={name: asset.fingerprint() for name, asset in assets.items()})
            beside = self.folder / f"{SETTINGS}.part"
            config.dump(settings, beside)
            os.replace(beside, self.folder / SETTINGS)  # last: it makes the folder a run
        except OSError as error:
            raise storage.storage_error(self.folder, error) from None

    def discard(self) -> None:
        """Throw the run away. Raises UserError if the folder is something else than a run."""
        self._refuse_here()
        if not self.folder.exists():
            return
        known = [self.folder / name for name in (SETTINGS, "checkpoints")]
        if not self.folder.is_dir() or (any(self.folder.iterdir()) and not any(path.exists() for path in known)):
            raise UserError(
                f"{self.folder}: --restart would delete it, but it is no run (there is no {SETTINGS} in it)"
            )
        goal = self.folder.resolve()  # the folder itself may be a link to a larger disk: the link stays
        beside = goal.with_name(goal.name + ".discarded")
        with storage.held(self.folder):  # or it is refused: another process would train on without its folder
            try:
                shutil.rmtree(beside, ignore_errors=True)
                os.replace(goal, beside)  # a kill in between leaves no half of a run
                if self.folder.is_symlink():
                    goal.mkdir()
                shutil.rmtree(beside)
            except OSError as error:
                raise UserError(f"{self.folder}: cannot be thrown away ({error})") from None
        self._forget()

    def _refuse_here(self) -> None:
        """A run in the recipe's own folder (`asrtts train conf/ctc.yaml "$unset"`) is thrown away with the recipe."""
        if storage.is_here(storage.behind_links(self.folder)):
            raise UserError(f"'{self.folder}' is the folder you are in; name one for the run, such as exp/ctc")

    def check_unchanged(self, settings: TaskSettings, facts: Mapping[str, Any]) -> None:
        """Refuse to resume under other settings, data, tokens, precision or device than the run began with; the key is
        named. A finished run computes nothing more, so another machine may see that it is finished."""
        old = self.facts()
        resolved = {"training.precision"} if {"precision"} <= old.keys() & facts.keys() else set()  # auto is one of two
        for key, before, now in experiment_settings.differences(self.settings, settings):
            if key not in HARMLESS_KEYS | resolved and not key.startswith(settings.FREE):
                raise UserError(
                    f"{self.folder}: cannot resume: {key} was {before} at the start and is {now} now. {WAY_OUT}"
                )
        if not old:
            raise UserError(
                f"{self.folder / FACTS}: not there, and nothing else says which data and tokens this run began "
                f"with; put it back. {WAY_OUT}"
            )
        if old.get("init") != facts.get("init"):
            before, now = (f"--init {o['init']}" if "init" in o else "random weights" for o in (old, facts))
            raise UserError(
                f"{self.folder}: cannot resume: this run began with {before}, now it is {now}; give the command that "
                f"it began with. {WAY_OUT}"
            )
        for key, name in HASHES.items():
            if key in old and old[key] != facts.get(key):
                raise UserError(
                    f"{self.folder}: cannot resume: the {name} is another than this run began with. {WAY_OUT}"
                )
        for key, way in COMPUTED_WITH.items():
            if "updates" not in old and old.get(key) != facts.get(key) and {key} <= old.keys() & facts.keys():
                raise UserError(
                    f"{self.folder}: cannot resume: {key} was {old[key]} at the start and is {facts[key]} now; add "
                    f"{way.format(old[key])} where that can be had. {WAY_OUT}"
                )

    def refuse_other(self, name: str, asset: Asset) -> None:
        """Raises UserError for an asset that is not the one that this run began with."""
        began = (self.facts().get("assets") or {}).get(name)
        if began is not None and began != asset.fingerprint():
            raise UserError(
                f"{self.folder / name}: not what this run began with ({asset.fingerprint()}, at the start {began}); "
                "put its own back, or train again into a new folder"
            )

    # Weights ------------------------------------------------------------------------------------------------------

    def read_weights(self, name: str = MODEL) -> dict[str, Tensor]:
        """The averaged model, or a snapshot by its name.

        Raises:
            UserError: they are missing, not what was written, or hold NaN or infinity.
        """
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            there = [
                str(p.relative_to(self.folder).with_suffix("")) for p in self.folder.glob("**/[0-9m]*.safetensors")
            ]
            there = [other for other in there if not other.startswith("checkpoints")]
            hint = suggestion(name, there) if name != MODEL and there else ""
            raise UserError(f"{path}: no such weights{hint}; `asrtts average {self.folder}` makes the model (stage 3)")
        recorded = self.facts().get(storage.FILES)
        expected = recorded.get(path.name) if isinstance(recorded, dict) and name == MODEL else None
        return weights_file.load(path, expected)

    def fill(self, model: nn.Module, weights: str = MODEL) -> nn.Module:
        """Put weights into a model, for evaluation. Raises UserError as `read_weights`, or if they do not fit."""
        try:
            model.load_state_dict(self.read_weights(weights))
        except RuntimeError as error:
            detail = str(error).strip().splitlines()[-1].strip()
            path = self.folder / f"{weights}.safetensors"
            raise UserError(f"{path}: does not fit {self.folder}/{SETTINGS} ({detail})") from None
        return model.eval()

    def save_model(self, weights: Mapping[str, Tensor], **facts: Any) -> None:
        """Write model.safetensors, and `facts` and its checksum to run.json."""
        path = self.folder / f"{MODEL}.safetensors"
        weights_file.save(path, dict(weights))
        self.record(**facts, **{storage.FILES: storage.sums(self.folder, [path])})

    # run.json -----------------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """run.json, or {} if it is not written yet. Raises UserError if it is damaged."""
        return dict(self._facts)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        path = self.folder / FACTS
        way_out = "damaged; delete it: decoding does without it"
        return storage.json_object(path.read_bytes(), str(path), way_out) if path.is_file() else {}

    def record(self, **facts: Any) -> None:
        """Add facts to run.json."""
        self._forget()  # another process may have added some
        storage.write_json(self.folder / FACTS, {**self.facts(), **facts})
        self._forget()

    def _forget(self) -> None:
        for name in ("settings", "_facts"):
            self.__dict__.pop(name, None)


def versions() -> dict[str, str]:
    return {"asrtts": asrtts.__version__, "torch": torch.__version__, "python": platform.python_version()}
