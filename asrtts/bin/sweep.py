"""Train several sizes of a model: one run for every value of a setting, decoded, ready to be compared.

A setting with several values is swept, `encoder.dim=72,108,144`; one with a single value is that of every run. Several
that are swept go together, the first values of all, then the second:

    asrtts sweep conf/ctc.yaml exp/ctc encoder.dim=72,144 encoder.feedforward=288,576 --test data/test

trains exp/ctc-dim72 and exp/ctc-dim144; the first one names them. What is finished is not done again. With

    --encoder conf/pretraining.yaml exp/encoder

the first begins with exp/encoder-dim72-feedforward288, which is trained before it and has all that is swept of an
encoder in its name; the sweep of another head names the same. docs/choosing_settings.md says more.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from asrtts.comparison import fairness
from asrtts.config import ArgumentParser, Made
from asrtts.experiment import decodings, first_encoder
from asrtts.experiment import jobs as series
from asrtts.experiment.jobs import Job
from asrtts.experiment.settings import HARMLESS_KEYS, load
from asrtts.registry import UserError
from asrtts.training import parallel

# What a swept setting makes unequal beside itself, as `asrtts compare` calls it.
FOLLOWS = {"encoder.": "encoder_hash", "features.": "encoder_hash", "training.updates": "updates"}


def parser() -> ArgumentParser:
    args = ArgumentParser("sweep", __doc__)
    args.add_argument("conf", help="settings, e.g. conf/ctc.yaml")
    args.add_argument("exp", type=Path, help="the runs are EXP-<last part of the key><value>, e.g. exp/ctc-dim72")
    args.add_argument("settings", nargs="*", default=[], metavar="KEY=V1,V2|key=value", help="swept, or of every run")
    first_encoder.add_option(args)
    args.add_argument("--test", required=True, metavar="TEST", help="the manifest to decode, e.g. data/test")
    args.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return args


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    decodings.refuse_absent(args.test, made)
    jobs_of(args, Path(args.test))
    made.add(args.exp.parent)


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    jobs, swept = jobs_of(args, decodings.located(args.test))
    device = parallel.pick_device(args.device)
    series.check(jobs, device)
    series.run(jobs, args.device)
    exps, allow = [str(job.exp) for job in jobs], allowed(swept, bool(args.encoder))
    print("compare them: " + shlex.join(["asrtts", "compare", *exps, "--test", args.test, *allow]))


def jobs_of(args: argparse.Namespace, manifest: Path) -> tuple[list[Job], dict[str, list[str]]]:
    """The runs, and what is swept. Raises UserError for settings that cannot be."""
    swept, fixed = divided(args.settings)
    jobs = []
    for point in points(swept):
        job = Job(args.conf, (*fixed, *point), series.beside(args.exp, point[:1]), manifest)
        load(job.conf, job.overrides)
        jobs.append(first_encoder.begun(job, args.encoder, point))
    refuse_alike(jobs, swept)
    refuse_new_heads(args.conf, fixed, swept)
    first_encoder.check(jobs)
    return jobs, swept


def divided(settings: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The values of every key that has several, and the settings of all runs."""
    swept: dict[str, list[str]] = {}
    fixed: list[str] = []
    for setting in settings:
        key, _, text = setting.partition("=")
        values = series.split(text)
        if "" in values and len(values) > 1:
            raise UserError(f"'{setting}': a value is missing between the commas")
        if key in swept or key in (other.partition("=")[0] for other in fixed):
            raise UserError(f"'{setting}': {key} is given twice; write all of its values once: {key}=V1,V2,V3")
        if len(values) > 1:
            swept[key] = values
        else:
            fixed.append(setting)
    if not swept:
        given = f"{fixed[0]} has one value" if fixed else "no setting is given"
        raise UserError(f"nothing to sweep: {given}; write several with commas, e.g. encoder.dim=72,108,144")
    counts = {key: len(values) for key, values in swept.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{key} has {count} values" for key, count in counts.items())
        raise UserError(f"{told}: settings that are swept go together, so give each as many")
    return swept, fixed


def points(swept: dict[str, list[str]]) -> list[list[str]]:
    """What is set in each run: {"a": ["1", "2"], "b": ["3", "4"]} -> ["a=1", "b=3"], ["a=2", "b=4"]"""
    rows = zip(*swept.values(), strict=True)
    return [[f"{key}={value}" for key, value in zip(swept, row, strict=True)] for row in rows]


def refuse_alike(jobs: Sequence[Job], swept: dict[str, list[str]]) -> None:
    """Two values, of which the second would be the run of the first."""
    key, values = next(iter(swept.items()))
    exps = [job.exp for job in jobs]
    for exp, value in zip(exps, values, strict=True):
        if exps.count(exp) > 1:
            first = values[exps.index(exp)]
            same = f"{value} stands twice" if values.count(value) > 1 else f"two values would be the run {exp}"
            raise UserError(f"{key}={','.join(values)}: {same} (the first: {first}); write each value once")


def refuse_new_heads(conf: str, fixed: Sequence[str], swept: dict[str, list[str]]) -> None:
    """`heads.ctc.dropout=0,0.1` on a model without that head would give it one."""
    heads = load(conf, fixed).heads
    for key in swept:
        room, _, rest = key.partition(".")
        if room == "heads" and (head := rest.partition(".")[0]) not in heads:
            raise UserError(f"{key}: {conf} has no head {head}; its heads: {', '.join(heads)}")


def allowed(swept: dict[str, list[str]], with_encoder: bool) -> list[str]:
    """The options of `asrtts compare` without which it would refuse these runs."""
    unequal = [key for key in swept if not key.startswith(fairness.FREE) and key not in HARMLESS_KEYS]
    unequal += [name for start, name in FOLLOWS.items() if any(key.startswith(start) for key in swept)]
    if with_encoder and any(key != "seed" for key in first_encoder.shared(swept)):
        unequal.append("encoder_hash")
    return [word for name in dict.fromkeys(unequal) for word in ("--allow", name)]
