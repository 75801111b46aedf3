"""Transcribe the utterances of a manifest with a trained model; one JSON line each, whatever the head."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from asrtts import __version__, config, storage
from asrtts.asr.decoding import Decoding
from asrtts.config import ArgumentParser, Made
from asrtts.data import batching
from asrtts.experiment import arguments, processes
from asrtts.experiment.run_folder import Run
from asrtts.experiment.transcription import transcribe
from asrtts.lm import lm_folder
from asrtts.partial_results import PartialResults
from asrtts.registry import UserError, suggestion
from asrtts.training import memory, parallel
from asrtts.training.computer import computer


def parser() -> ArgumentParser:
    args = ArgumentParser("decode", __doc__)
    arguments.add_arguments(args, "e.g. data/test", "e.g. method=ctc_prefix_beam beam=10 nbest=5")
    args.add_argument("--tuned", metavar="NAME", help="settings that `asrtts tune` chose; the result is MANIFEST_NAME")
    args.add_argument("--name", help="of the result, beside others of this manifest (default: the manifest's)")
    args.add_argument("--weights", default="model", help="file of weights in the run's folder, without .safetensors")
    args.add_argument("--batch-seconds", type=float, default=60.0, help="padded audio in a batch (default: 60)")
    args.add_argument("--threads", type=int, default=0, help="default: all cores; 1 to compare RTFs")
    args.add_argument("--restart", action="store_true", help="decode again what is finished, e.g. to time it again")
    args.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return args


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    parallel.refuse_threads(args.threads)
    args = arguments.told_apart(args)
    arguments.refuse_absent(args, made)
    config.build(Decoding, config.overridden({}, args.settings), "decode")
    config.build(batching.Config, {"seconds": args.batch_seconds}, "--batch-seconds")
    refuse_path(args.name)


def main(argv: list[str]) -> None:
    args = arguments.told_apart(parser().parse_args(argv))
    parallel.use_threads(args.threads)
    runs = [Run.open(exp, "recognition") for exp in args.exp]
    if len(runs) > 1:
        for run in runs:
            processes.verb(alone(run, args))
        return
    (run,) = runs
    values = tuned(run, args.tuned) if args.tuned else run.settings.decoding.model_dump()
    config.put_overrides(values, args.settings)
    decoding = config.build(Decoding, values, "decode")
    cut = config.build(batching.Config, {"seconds": args.batch_seconds}, "--batch-seconds")
    device = parallel.pick_device(args.device)
    index = batching.Index(args.manifest)
    recognizer = run.load(args.weights)
    recognizer.model.to(device)
    method, lms = recognizer.model.method(decoding), recognizer.language_models(decoding, device)
    goal = run.folder / "decode" / f"{name_of(args, index)}.jsonl"
    record = goal.with_name(f"{goal.stem}.summary.json")
    inputs = made_from(run, args, index, decoding, device)
    if not args.restart and storage.finished(record, inputs):
        print(f"{goal}: finished before, by the same weights, data and search (--restart: again)", file=sys.stderr)
        return
    began = time.monotonic()
    with memory.limited(device), PartialResults(goal, inputs) as partial:
        transcript = transcribe(recognizer, index, decoding, device, cut, lms, partial)
        storage.write(goal, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in transcript.records))
        seconds = sum(line["seconds"] for line in transcript.records)
        named = decoding.lm or decoding.lodr  # also where the chosen weight is 0
        summary = {
            "method": method,
            "beam": 1 if method.endswith("greedy") else decoding.beam,
            "ctc_weight": decoding.ctc_weight if method == "joint_beam" else None,
            "length_bonus": decoding.length_bonus,
            **{key: value for key, value in decoding.model_dump().items() if key.startswith(("lm", "lodr")) and named},
            "weights": args.weights,
            "rtf": round(transcript.spent / seconds, 5) if seconds else 0.0,
            "threads": torch.get_num_threads(),
            "device": device.type,
            "computer": computer(device),
            "seconds": round(seconds, 2),
            "utterances": len(transcript.records),
            "too_short": transcript.too_short,
            "precision": "float32",
            **memory.peak(device),
        }
        storage.finish(record, inputs, [goal], **summary)  # last: it ends the stage
        partial.close()
    print(
        f"{goal}: {len(index)} utterances, {seconds / 60:.1f} min of audio by {method}{with_lm(decoding)} in "
        f"{time.monotonic() - began:.1f} s, RTF {summary['rtf']:.4f}",
        file=sys.stderr,
    )


def name_of(args: argparse.Namespace, index: batching.Index) -> str:
    """Of the result. Raises UserError for a name that is a path."""
    name = "_".join(part for part in (index.path.stem, args.tuned) if part) if args.name is None else args.name
    refuse_path(name)
    return name


def refuse_path(name: str | None) -> None:
    if name is not None and (not name or name != Path(name).name):
        raise UserError(f"--name '{name}': wanted a bare name, e.g. test_lm")


def made_from(
    run: Run, args: argparse.Namespace, index: batching.Index, decoding: Decoding, device: torch.device
) -> dict[str, Any]:
    """All that decides the lines of a decoding, and what its time depends on."""
    model = run.settings.model_dump(mode="json", include={"features", "encoder", "heads"})
    return {
        "asrtts": __version__,
        "model": storage.short_hash(model),
        "decoding": decoding.model_dump(),
        "weights": storage.checksum(run.folder / f"{args.weights}.safetensors"),
        "statistics": storage.checksum(run.folder / "cmvn.json"),
        "tokens": storage.checksum(run.folder / "tokens" / "tokens.txt"),
        "manifest": storage.checksum(index.path),
        "language_models": [storage.checksum(lm_folder.model_file(folder)) for folder, _ in decoding.lms],
        "batch_seconds": args.batch_seconds,
        "threads": torch.get_num_threads(),
        "device": device.type,
    }


def alone(run: Run, args: argparse.Namespace) -> list[str]:
    """The command that decodes one of several runs: in a process of its own, whose peak memory is that of this run."""
    names = ("tuned", "name", "weights", "batch_seconds", "threads", "device")
    given = {name: str(value) for name in names if (value := getattr(args, name)) is not None}
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    again = ["--restart"] * args.restart
    return ["decode", str(run.folder), args.manifest, *args.settings, *options, *again]


def tuned(run: Run, name: str) -> dict[str, Any]:
    """The settings in EXP/tuned/NAME.yaml. Raises UserError if there are none."""
    path = run.folder / "tuned" / f"{name}.yaml"
    if not path.is_file():
        near = suggestion(name, [p.stem for p in path.parent.glob("*.yaml")])
        raise UserError(f"{path}: nothing was tuned by this name{near}; `asrtts tune {run.folder} data/dev lm=...`")
    return config.load(path, Decoding).model_dump()


def with_lm(decoding: Decoding) -> str:
    """How the language models are weighed, e.g. " with 0.3 exp/lm - 0.1 exp/lodr"; nothing without one."""
    terms = "".join(f" {'-' if weight < 0 else '+'} {abs(weight):g} {folder}" for folder, weight in decoding.lms)
    return f" with{terms.removeprefix(' +')}" if terms else ""
