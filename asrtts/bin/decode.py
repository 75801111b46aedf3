"""Search the words of a manifest with a trained model; one JSON line an utterance, whatever the head."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from asrtts import __version__, config, storage
from asrtts.asr.model import AsrModel, Decoding
from asrtts.bin import _runs, _steps
from asrtts.config import ArgumentParser
from asrtts.data import augmentation, batching
from asrtts.data.dataset import UtteranceDataset
from asrtts.data.utterance import Utterance
from asrtts.experiment import Run, refuse_too_short
from asrtts.lm import lm_folder
from asrtts.registry import UserError, suggestion
from asrtts.search.hypothesis import Hypothesis
from asrtts.search.language_model import LanguageModel
from asrtts.storage import checksum
from asrtts.text.tokenizer import Tokenizer
from asrtts.training import memory, parallel
from asrtts.training.computer import computer


def parser() -> ArgumentParser:
    args = ArgumentParser("decode", __doc__)
    _runs.add_arguments(args, "e.g. data/test", "e.g. method=ctc_prefix_beam beam=10 nbest=5")
    args.add_argument("--tuned", metavar="NAME", help="settings that `asrtts tune` chose; the result is MANIFEST_NAME")
    args.add_argument("--name", help="of the result, beside others of this manifest (default: the manifest's)")
    args.add_argument("--weights", default="model", help="file of weights in the run's folder, without .safetensors")
    args.add_argument("--batch-seconds", type=float, default=60.0, help="padded audio in a batch (default: 60)")
    args.add_argument("--threads", type=int, default=0, help="default: all cores; 1 to compare RTFs")
    args.add_argument("--restart", action="store_true", help="decode again what is finished, e.g. to time it anew")
    args.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return args


def main(argv: list[str]) -> None:
    args = _runs.told_apart(parser().parse_args(argv))
    parallel.use_threads(args.threads)
    runs = [Run.open(exp) for exp in args.exp]
    if len(runs) > 1:
        for run in runs:
            _steps.verb(alone(run, args))
        return
    (run,) = runs
    values = tuned(run, args.tuned) if args.tuned else run.experiment.decoding.model_dump()
    config.put_overrides(values, args.settings)
    decoding = config.build(Decoding, values, "decode")
    cut = config.build(batching.Config, {"seconds": args.batch_seconds}, "--batch-seconds")
    device = parallel.pick_device(args.device)
    index = batching.Index(args.manifest)
    model = run.load_model(args.weights).to(device)
    refuse_too_short(index, run.experiment.features, model)
    method, lms = model.method(decoding), run.language_models(decoding, device)
    name = "_".join(part for part in (index.path.stem, args.tuned) if part) if args.name is None else args.name
    if not name or name != Path(name).name:
        raise UserError(f"--name '{name}': wanted a bare name, e.g. test_lm")

    named = decoding.lm or decoding.lodr  # also where the chosen weight is 0
    goal = run.folder / "decode" / f"{name}.jsonl"
    origin = made_from(run, args, index, decoding, device)
    if not args.restart and is_finished(goal, origin):
        print(f"{goal}: finished before, by the same weights, data and search (--restart: again)", file=sys.stderr)
        return
    began = time.monotonic()
    lines, spent = decode(model, run, index, decoding, device, cut, lms)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    audio_seconds = sum(line["seconds"] for line in lines)
    summary = {
        "method": method,
        "beam": 1 if method.endswith("greedy") else decoding.beam,
        "ctc_weight": decoding.ctc_weight if method == "joint_beam" else None,
        "length_bonus": decoding.length_bonus,
        **{key: value for key, value in decoding.model_dump().items() if key.startswith(("lm", "lodr")) and named},
        "weights": args.weights,
        "rtf": round(spent / audio_seconds, 5),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "computer": computer(device),
        "seconds": round(audio_seconds, 2),
        "utterances": len(lines),
        "precision": "float32",
        **memory.peak(device),
        "made_from": origin,
        "lines_hash": hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest(),
    }
    storage.write(summary_of(goal), json.dumps(summary, indent=1) + "\n")
    storage.write(goal, text)  # last: it ends the stage
    print(
        f"{goal}: {len(lines)} utterances, {audio_seconds / 60:.1f} min of audio by {method}{with_lm(decoding)} in "
        f"{time.monotonic() - began:.1f} s, RTF {summary['rtf']:.4f}",
        file=sys.stderr,
    )


def made_from(
    run: Run, args: argparse.Namespace, index: batching.Index, decoding: Decoding, device: torch.device
) -> str:
    """A hash of all that decides the lines of a decoding, and of what its time hangs on."""
    model = run.experiment.model_dump(mode="json", include={"features", "encoder", "heads"})
    files = [run.folder / f"{args.weights}.safetensors", run.folder / "cmvn.json", index.path]
    files += [lm_folder.model_file(folder) for folder, _ in decoding.lms]
    told = [__version__, model, decoding.model_dump(), run.tokenizer.fingerprint(), *map(checksum, files)]
    told += [args.batch_seconds, torch.get_num_threads(), device.type]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def is_finished(goal: Path, origin: str) -> bool:
    """Whether the lines are there, are those that were written, and are of this origin."""
    try:
        summary = storage.json_object(summary_of(goal).read_bytes(), str(goal), "")
        return summary.get("made_from") == origin and summary.get("lines_hash") == checksum(goal)
    except (OSError, UserError):  # not there, or damaged
        return False


def summary_of(goal: Path) -> Path:
    return goal.with_name(f"{goal.stem}.summary.json")


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


def decode(
    model: AsrModel,
    run: Run,
    index: batching.Index,
    decoding: Decoding,
    device: torch.device,
    cut: batching.Config,
    lms: Sequence[tuple[LanguageModel, float]] = (),
) -> tuple[list[dict[str, Any]], float]:
    """One record for each utterance, in the manifest's order, and the seconds that were spent.

    The time is all of the way from the audio file to the hypothesis: reading, features, encoder and search, but not
    what is compiled or loaded once.
    """
    feature, tokenizer, method = run.experiment.features, run.tokenizer, model.method(decoding)
    dataset = UtteranceDataset(index, feature, run.statistics, lambda text: [])
    plan = list(batching.epoch_batches(cut, augmentation.NONE, index.seconds, 0, 0))
    records: dict[int, dict[str, Any]] = {}
    spent = 0.0
    frame_seconds = feature.hop_seconds * model.encoder.subsampling

    def search(rows: list[int]) -> list[list[Hypothesis]]:
        batch = dataset[batching.Request(0, 0, tuple(rows), (1.0,) * len(rows), len(rows))]
        return model.search(batch["feats"].to(device), batch["feat_lens"].to(device), decoding, lms)

    search([int(index.seconds.argmin())])  # not timed: in a fresh installation the first search compiles for seconds
    for indices, _ in track(plan, "decoding", console=Console(stderr=True), transient=True):
        began = time.perf_counter()
        found = search(indices.tolist())
        spent += time.perf_counter() - began
        for row, hyps in zip(indices.tolist(), found, strict=True):
            records[row] = record(index[row], hyps, tokenizer, frame_seconds, method)
    return [records[row] for row in range(len(index))], spent


def with_lm(decoding: Decoding) -> str:
    """How the language models are weighed, e.g. " with 0.3 exp/lm - 0.1 exp/lodr"; nothing without one."""
    terms = "".join(f" {'-' if weight < 0 else '+'} {abs(weight):g} {folder}" for folder, weight in decoding.lms)
    return f" with{terms.removeprefix(' +')}" if terms else ""


def record(
    utterance: Utterance, hyps: list[Hypothesis], tokenizer: Tokenizer, frame_seconds: float, method: str
) -> dict[str, Any]:
    """The output line of one utterance; times are seconds from its start."""
    best, texts = hyps[0], {}
    for hyp in hyps:  # different tokens may be one text
        texts.setdefault(tokenizer.decode(hyp.tokens), hyp.score)
    return {
        "utt_id": utterance.utt_id,
        "ref": utterance.text,
        "hyp": tokenizer.decode(best.tokens),
        "score": round(best.score, 5),
        "tokens": [
            {"token": tokenizer.pieces[token], "time": round(frame * frame_seconds, 3), "confidence": round(sure, 4)}
            for token, frame, sure in zip(best.tokens, best.frames, best.confidences, strict=True)
        ],
        "nbest": [{"text": text, "score": round(score, 5)} for text, score in texts.items()],
        "steps": best.steps,
        "seconds": utterance.seconds,
        "speaker": utterance.speaker,
        "method": method,
    }
