"""The settings of an experiment: YAML and overrides to the `Settings` of the task that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from pydantic import Field

from asrtts import config, registry, storage
from asrtts.config import Settings
from asrtts.training.trainer import HARMLESS
from asrtts.training.trainer import Config as TrainingConfig

TASKS = "asrtts.tasks"
DEFAULT_TASK = "recognition"
HARMLESS_KEYS = {f"training.{key}" for key in HARMLESS}  # a resumed run may change these


class TaskSettings(Settings):
    """What every task's Settings have; each task names itself in `task` and adds its own keys."""

    # Keys that a resumed run may change, by their beginning: what the data holds is compared by hashes.
    FREE: ClassVar[tuple[str, ...]] = ("data.",)

    task: str = DEFAULT_TASK
    seed: int = Field(1, ge=0, lt=1 << 32)  # of weights, batches and augmentation
    training: TrainingConfig = Field(default_factory=TrainingConfig)


def task(name: str) -> ModuleType:
    """The file of asrtts/tasks that `task: NAME` stands for. Raises UserError with the nearest name."""
    return registry.find(TASKS, name)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """The Settings of the task that a YAML file names, with `key.sub=value` over it. Raises UserError with the key."""
    values = config.read_yaml(Path(path))
    config.put_overrides(values, overrides)
    return build(values, str(path))


def build(values: dict[str, Any], where: str) -> Any:
    """A mapping as the Settings of its `task`; `where` names its origin in errors."""
    return config.build(task(values.get("task", DEFAULT_TASK)).Settings, values, where)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"encoder": {"dim": 144}} -> {"encoder.dim": 144}"""
    rows: dict[str, Any] = {}
    for key, value in values.items():
        rows.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return rows


def differences(one: Settings, other: Settings) -> list[tuple[str, Any, Any]]:
    """The keys that differ, with both values."""
    first, second = (flat(settings.model_dump(mode="json")) for settings in (one, other))
    keys = dict.fromkeys((*first, *second))
    return [(key, first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)]


def family(settings: Settings, name: str, inputs: Mapping[str, Any]) -> str:
    """What runs that differ in their seed only have in common, e.g. "ctc-1a2b3c": `asrtts score` takes their mean.

    Args:
        name: of the kind of model.
        inputs: hashes of what it is trained on.
    """
    values = flat(settings.model_dump(mode="json", exclude={"task", "seed", "data", "decoding"}))
    values = {key: value for key, value in values.items() if key not in HARMLESS_KEYS}
    return f"{name}-{storage.short_hash([values, inputs], 6)}"
