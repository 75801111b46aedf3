"""Several trainings one after another: each is trained, averaged and decoded, and what is finished is left as it is.

A run may begin with the encoder of another, which is trained and averaged before it. Each step is a process of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asrtts.experiment import decodings, processes
from asrtts.experiment import settings as experiment_settings
from asrtts.experiment.fitting import computed_with, say
from asrtts.experiment.run_folder import Run
from asrtts.experiment.task_door import open_task
from asrtts.registry import UserError

OPENING, CLOSING = "[{(", "]})"
UNUSUAL = re.compile(r"[^\w.+-]+")  # in the name of a folder


@dataclass(frozen=True)
class Job:
    """A run to be had."""

    conf: str
    overrides: tuple[str, ...]
    exp: Path
    manifest: Path | None  # that is decoded; None: its encoder alone is wanted
    encoder: Job | None = None  # the run that it begins with

    @property
    def init(self) -> dict[str, str]:
        """As run.json has it: the weights to begin with, if they are not random."""
        return {"init": f"asrtts:{self.encoder.exp}/model.safetensors"} if self.encoder else {}


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """With the encoders: each stands once, before the first run that begins with it."""
    return list(dict.fromkeys(each for job in jobs for each in (job.encoder, job) if each))


# What a person writes ---------------------------------------------------------------------------------------------


def split(text: str) -> list[str]:
    """The parts between commas; those within brackets and quotes part nothing: "[1, 2],3" -> "[1, 2]", "3"."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if letter == "," and not depth and not quote:
            parts.append("")
            continue
        if letter in "'\"":
            quote = "" if letter == quote else quote or letter
        depth += not quote and (letter in OPENING) - (letter in CLOSING)
        parts[-1] += letter
    return parts


def named(base: str, settings: Sequence[str]) -> str:
    """A name for what `base` is with these settings: "ctc", "encoder.dim=96" -> "ctc-dim96"."""
    for setting in settings:
        key, _, value = setting.partition("=")
        value = UNUSUAL.sub("_", value).strip("_")  # e.g. the brackets and blanks of a list
        base += f"-{key.rpartition('.')[2]}{value}"
    return base


def beside(exp: Path, settings: Sequence[str]) -> Path:
    """The folder of `exp` with these settings: exp/ctc, "encoder.dim=96" -> exp/ctc-dim96"""
    if not exp.name:
        raise UserError(f"'{exp}' has no name that the runs could have; wanted one such as exp/ctc")
    return exp.with_name(named(exp.name, settings))


# Before the first training ----------------------------------------------------------------------------------------


def check(jobs: Sequence[Job], device: torch.device) -> None:
    """Raises UserError if one cannot be trained, or if its folder holds a run of other settings, data or weights."""
    for job in in_order(jobs):
        settings, run = experiment_settings.load(job.conf, job.overrides), Run(job.exp)
        with torch.device("meta"):  # shapes, no memory
            task = open_task(settings, device)
        if run.is_begun:
            run.check_unchanged(settings, task.inputs | computed_with(settings, device) | job.init)
            if job.manifest:
                _refuse_other_search(run, settings)


def _refuse_other_search(run: Run, settings: Any) -> None:
    """A training goes on under another search, but decoding takes the one that the run began with."""
    before, now = run.settings.decoding.model_dump(), settings.decoding.model_dump()
    for key, value in now.items():
        if before[key] != value:
            raise UserError(
                f"{run.folder}: this run began with decoding.{key}={before[key]}, now it is {value}. Train into a new "
                "folder, or throw this one away"
            )


# The work ---------------------------------------------------------------------------------------------------------


def run(jobs: Sequence[Job], device: str) -> None:
    """Train, average and decode what is not finished. A step that fails ends this process with its status."""
    trainings = in_order(jobs)
    for number, job in enumerate(trainings, 1):
        left = remaining(job, device)
        doing = ", ".join(argv[0] for argv in left) or "finished before"
        say(f"{number} of {len(trainings)}: {job.exp}: {doing}")
        for argv in left:
            processes.verb(argv)


def remaining(job: Job, device: str) -> list[list[str]]:
    """The commands that are still to be given for a run: the first that is not finished, and all behind it."""
    exp, facts = str(job.exp), Run(job.exp).facts()
    begun = [word for source in job.init.values() for word in ("--init", source)]
    commands = [["train", job.conf, exp, *job.overrides, *begun, "--device", device], ["average", exp]]
    averaged = "averaged" in facts and (job.exp / "model.safetensors").is_file()
    finished = [facts.get("updates") is not None, averaged]
    if job.manifest:
        commands.append(["decode", exp, str(job.manifest), "--threads", "1", "--device", device])
        finished.append(_is_decoded(job.exp, job.manifest))
    return commands[[*finished, False].index(False) :]


def _is_decoded(exp: Path, manifest: Path) -> bool:
    """Whether every utterance of the manifest was, and no other: it may have been made anew."""
    name, utterances = decodings.references(str(manifest))
    if not decodings.decoded(exp, name).is_file():
        return False
    try:
        return decodings.lines(exp, name, utterances).keys() == utterances.keys()
    except UserError:  # damaged, or of another manifest
        return False
