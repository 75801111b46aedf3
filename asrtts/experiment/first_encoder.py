"""`--encoder CONF EXP`: the encoder that runs begin with, trained before them by settings of its own, once for all.

What it is and what it hears is set in both: the runs' settings of the rooms in SHARED are its own too. How long it is
trained, and with which heads, its file alone says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from asrtts.config import ArgumentParser, Settings
from asrtts.experiment import jobs as series
from asrtts.experiment.jobs import Job
from asrtts.experiment.settings import differences, load
from asrtts.registry import UserError

SHARED = ("encoder", "features", "augmentation", "batching", "seed", "data")  # all but the heads and their training
EQUAL = ("encoder.", "features.")  # whatever the files say: the weights would not fit, or hear something else


def add_option(args: ArgumentParser) -> None:
    told = "train and average an encoder first, and begin each run with it, e.g. conf/pretraining.yaml exp/encoder; "
    told += "settings of the encoder and of what it hears are set in both, and those that vary name it"
    args.add_argument("--encoder", nargs=2, metavar=("CONF", "EXP"), help=told)


def shared(settings: Iterable[str]) -> tuple[str, ...]:
    """The settings, or their keys, that are the encoder's as well as the run's."""
    return tuple(s for s in settings if s.partition("=")[0].partition(".")[0] in SHARED)


def begun(job: Job, encoder: Sequence[str] | None, varied: Sequence[str], end: str = "") -> Job:
    """The run, with the encoder that `--encoder` asks for; of what varies, that which is shared names its folder."""
    if not encoder:
        return job
    conf, exp = encoder
    folder = series.beside(Path(exp), shared(varied))
    return replace(job, encoder=Job(conf, shared(job.overrides), folder.with_name(folder.name + end), None))


def check(jobs: Sequence[Job]) -> None:
    """Raises UserError if a run cannot begin with its encoder, or if two encoders are one or have one folder."""
    settings = {job: load(job.conf, job.overrides) for job in series.in_order(jobs)}
    for job in jobs:
        if job.encoder:
            _refuse_unfit(job, job.encoder, settings)
    encoders = [job.encoder for job in jobs if job.encoder]
    for one, other in combinations(dict.fromkeys(encoders), 2):
        _refuse_confused(one, other, settings)
    begun = {encoder.exp for encoder in encoders}
    if both := next((job.exp for job in jobs if job.exp in begun), None):
        raise UserError(f"{both} would be a run and an encoder to begin with; name another folder behind --encoder")


def _refuse_unfit(job: Job, encoder: Job, settings: dict[Job, Settings]) -> None:
    for key, here, there in differences(settings[job], settings[encoder]):
        if key.startswith(EQUAL):
            raise UserError(
                f"{job.conf} cannot begin with the encoder of {encoder.conf}: {key} is {here} here and {there} there; "
                f"make it equal in the files, or set {key}, which sets it in both"
            )


def _refuse_confused(one: Job, other: Job, settings: dict[Job, Settings]) -> None:
    unequal = differences(settings[one], settings[other])
    if one.exp == other.exp and unequal:
        key, first, second = unequal[0]
        raise UserError(
            f"{one.exp} would be two encoders, of {key} {first} and {second}; give them apart, each with another folder"
        )
    if one.exp != other.exp and not unequal:
        raise UserError(
            f"{one.exp} and {other.exp} would be the same encoder, trained twice; leave out the settings that "
            f"{one.conf} has already, and write the others alike"
        )
