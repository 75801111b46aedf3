"""Search the words of a manifest with a trained model; one JSON line an utterance, whatever the head."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from asrtts import config
from asrtts.asr.model import AsrModel, Decoding
from asrtts.bin.train import pick_device
from asrtts.config import ArgumentParser
from asrtts.data import augmentation, batching, manifest
from asrtts.data.dataset import UtteranceDataset
from asrtts.experiment import Experiment, Run
from asrtts.search.hypothesis import Hypothesis
from asrtts.text.tokenizer import Tokenizer
from asrtts.training import checkpoint


def parser() -> ArgumentParser:
    args = ArgumentParser("decode", __doc__)
    args.add_argument("exp", type=Path, help="folder of the run, e.g. exp/ctc")
    args.add_argument("manifest", help="e.g. data/test")
    args.add_argument("settings", nargs="*", metavar="key=value", help="e.g. method=ctc_prefix_beam beam=10 nbest=5")
    args.add_argument("--weights", default="model", help="file of weights in the run's folder, without .safetensors")
    args.add_argument("--batch-seconds", type=float, default=60.0, help="padded audio in a batch (default: 60)")
    args.add_argument("--threads", type=int, default=0, help="default: all cores; 1 to compare RTFs")
    args.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return args


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads or os.cpu_count() or 1)
    run = Run.open(args.exp)
    experiment = run.experiment
    values = experiment.decoding.model_dump()
    config.put_overrides(values, args.settings)
    decoding = config.build(Decoding, values, "decode")
    device = pick_device(args.device)
    model = run.load_model(args.weights).to(device)
    source = manifest.locate(args.manifest)
    goal = run.folder / "decode" / f"{source.stem}.jsonl"

    began = time.monotonic()
    lines, timing = decode(model, experiment, run, source, decoding, device, args.batch_seconds)
    write(goal, lines)
    audio_seconds = sum(line["seconds"] for line in lines)
    summary = {
        "method": model.method(decoding),
        "beam": 1 if model.method(decoding).endswith("greedy") else decoding.beam,
        "ctc_weight": decoding.ctc_weight if model.method(decoding) == "joint_beam" else None,
        "rtf": round(timing / max(audio_seconds, 1e-9), 5),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "seconds": round(audio_seconds, 2),
        "utterances": len(lines),
        "precision": "float32",
    }
    goal.with_suffix(".summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(
        f"{goal}: {len(lines)} utterances, {audio_seconds / 60:.1f} min of audio by {summary['method']} in "
        f"{time.monotonic() - began:.1f} s, RTF {summary['rtf']:.4f}",
        file=sys.stderr,
    )


def decode(
    model: AsrModel,
    experiment: Experiment,
    run: Run,
    source: Path,
    decoding: Decoding,
    device: torch.device,
    batch_seconds: float,
) -> tuple[list[dict[str, Any]], float]:
    """One record for each utterance, in the manifest's order, and the seconds that model and search took.

    The timing counts features, encoder and search, not reading audio from the disk.
    """
    index, tokenizer = batching.Index(source), run.tokenizer
    dataset = UtteranceDataset(index, experiment.features, run.statistics, lambda text: [])
    cut = batching.Config(seconds=batch_seconds, window=max(len(index), 1))
    plan = list(batching.epoch_batches(cut, augmentation.NONE, index.seconds, 0, 0))
    records: dict[int, dict[str, Any]] = {}
    spent = 0.0
    frame_seconds = experiment.features.hop_seconds * model.encoder.subsampling
    for indices, _ in track(plan, "decoding", console=Console(stderr=True), transient=True):
        count = len(indices)
        batch = dataset[batching.Request(0, 0, tuple(indices.tolist()), (1.0,) * count, count)]
        feats, feat_lens = batch["feats"].to(device), batch["feat_lens"].to(device)
        began = time.perf_counter()
        found = model.search(feats, feat_lens, decoding)
        spent += time.perf_counter() - began
        for row, hyps in zip(indices.tolist(), found, strict=True):
            records[row] = record(index[row], hyps, tokenizer, frame_seconds, model.method(decoding))
    return [records[row] for row in range(len(index))], spent


def record(
    utterance, hyps: list[Hypothesis], tokenizer: Tokenizer, frame_seconds: float, method: str
) -> dict[str, Any]:
    """The output line of one utterance; times are seconds from its start."""
    best = hyps[0]
    return {
        "utt_id": utterance.utt_id,
        "ref": utterance.text,
        "hyp": tokenizer.decode(best.tokens),
        "score": round(best.score, 5),
        "tokens": [
            {"token": tokenizer.pieces[token], "time": round(frame * frame_seconds, 3), "confidence": round(sure, 4)}
            for token, frame, sure in zip(best.tokens, best.frames, best.confidences, strict=True)
        ],
        "nbest": [{"text": tokenizer.decode(h.tokens), "score": round(h.score, 5)} for h in hyps],
        "seconds": utterance.seconds,
        "speaker": utterance.speaker,
        "method": method,
    }


def write(goal: Path, lines: list[dict[str, Any]] | Iterator[dict[str, Any]]) -> None:
    """JSON lines, beside their goal and renamed."""
    beside = goal.with_name(goal.name + ".part")
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "w", encoding="utf-8") as out:
            for line in lines:
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
        os.replace(beside, goal)
    except OSError as error:
        raise checkpoint.storage_error(goal, error) from None
