"""Train a model: settings and a manifest in, exp/<name> out. Stopped or killed, the same command goes on."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from asrtts import experiment
from asrtts.asr.model import AsrModel
from asrtts.config import ArgumentParser
from asrtts.data import augmentation, batching, features
from asrtts.data.dataset import UtteranceDataset, batches
from asrtts.experiment import Experiment, Run
from asrtts.registry import UserError
from asrtts.text.tokenizer import Tokenizer
from asrtts.training import parallel
from asrtts.training.trainer import Trainer

STATISTICS_UTTERANCES = 2000  # enough for a mean and a variance of each bin


def parser() -> ArgumentParser:
    args = ArgumentParser("train", __doc__)
    args.add_argument("conf", help="settings, e.g. conf/ctc.yaml")
    args.add_argument("exp", type=Path, help="folder of the run, e.g. exp/ctc")
    args.add_argument("settings", nargs="*", metavar="key=value", help="overrides, e.g. training.updates=2000 seed=2")
    args.add_argument("--restart", action="store_true", help="throw away what the folder holds and start anew")
    args.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return args


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    settings = experiment.load(args.conf, args.settings)
    rank, world = parallel.start()
    device = pick_device(args.device)
    torch.set_num_threads(settings.training.threads or os.cpu_count() or 1)
    run = Run(args.exp)
    if args.restart and rank == 0:
        shutil.rmtree(run.folder, ignore_errors=True)
    parallel.wait()

    index = batching.Index(settings.data.train)
    tokenizer = Tokenizer.load(Path(settings.data.tokens))
    model = run.build_model(settings, tokenizer.vocab_size)
    facts = experiment.facts_of(settings, tokenizer, model)
    if (run.folder / "config.yaml").is_file():
        run.check_unchanged(settings, facts)
    elif rank == 0:
        run.begin(settings, tokenizer, measure_statistics(settings, index))
        run.record(**facts)
    parallel.wait()

    trainer = Trainer(model, settings.training, run.folder, settings.seed, device)
    resumed = trainer.resume()
    if rank == 0:
        say(f"{run.folder}: {facts['parameters'] / 1e6:.2f} M parameters, {len(index)} utterances, {device.type}")
        if resumed:
            done = trainer.done or trainer.update >= settings.training.updates
            say(f"{'finished' if done else 'going on'} at update {trainer.update}")
    stream = training_batches(settings, index, run, tokenizer, model.views, trainer, rank, world)
    trainer.fit(stream, validation(settings, run, tokenizer, model, device))
    if rank == 0:
        run.record(train_minutes=round(trainer.seconds / 60, 2), updates=trainer.update)
    parallel.stop()


def training_batches(
    settings: Experiment,
    index: batching.Index,
    run: Run,
    tokenizer: Tokenizer,
    views: int,
    trainer: Trainer,
    rank,
    world,
) -> Iterator[dict]:
    dataset = UtteranceDataset(
        index,
        settings.features,
        run.statistics,
        tokenizer.encode,
        augment=settings.augmentation,
        views=views,
        seed=settings.seed,
    )
    requests = batching.requests(
        settings.batching,
        settings.augmentation,
        index.seconds,
        settings.seed,
        epoch=trainer.epoch,
        batch=trainer.batch,
        rank=rank,
        world=world,
    )
    return batches(dataset, requests, settings.training.workers)


def validation(
    settings: Experiment, run: Run, tokenizer: Tokenizer, model: AsrModel, device: torch.device
) -> Callable[[], dict[str, float]]:
    """Loss and token error rate (by the cheapest search of the heads) on the dev manifest."""
    index = batching.Index(settings.data.dev)
    dataset = UtteranceDataset(index, settings.features, run.statistics, tokenizer.encode)
    greedy = settings.decoding.model_copy(update={"beam": 1, "nbest": 1, "method": "auto", "ctc_weight": 0.0})
    plan = list(batching.epoch_batches(settings.batching, augmentation.NONE, index.seconds, 0, 0))

    def measure() -> dict[str, float]:
        loss = errors = tokens = utterances = 0.0
        for number, (indices, _) in enumerate(plan):
            count = len(indices)
            request = batching.Request(0, number, tuple(indices.tolist()), (1.0,) * count, count)
            batch = dataset[request]
            batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            loss += float(model(batch)["loss"]) * count
            utterances += count
            found = model.search(batch["feats"], batch["feat_lens"], greedy)
            for row, length, hyps in zip(batch["tokens"].tolist(), batch["token_lens"].tolist(), found, strict=True):
                errors += Levenshtein.distance(row[:length], hyps[0].tokens)
                tokens += length
        return {"loss": loss / utterances, "error": errors / max(tokens, 1)}

    return measure


def measure_statistics(settings: Experiment, index: batching.Index) -> features.Statistics:
    """Mean and deviation of the features over a fixed sample of the training data."""
    sample = np.random.default_rng(settings.seed).permutation(len(index))[:STATISTICS_UTTERANCES]
    none = features.Statistics(torch.zeros(1), torch.ones(1))
    dataset = UtteranceDataset(index, settings.features, none, lambda text: [])
    requests = [
        batching.Request(0, 0, tuple(sample[i : i + 32].tolist()), (1.0,) * 32, 32) for i in range(0, len(sample), 32)
    ]
    requests[-1] = batching.Request(0, 0, requests[-1].indices, (1.0,) * len(requests[-1].indices), 32)
    return features.Statistics.of((b["feats"], b["feat_lens"]) for b in (dataset[r] for r in requests))


def pick_device(name: str) -> torch.device:
    """`auto`: the GPU of this process if there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this torch sees no CUDA device; leave the option out to use the CPU")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
