"""Train a model: settings and a manifest in, exp/<name> out. Stopped or killed, the same command goes on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from asrtts import experiment, storage
from asrtts.asr.foreign_weights import refuse_source, start_from
from asrtts.asr.model import AsrModel
from asrtts.bin import _learnable
from asrtts.comparison import decodings
from asrtts.config import ArgumentParser, Made, utf8_path, warn
from asrtts.data import audio, augmentation, batching, features, manifest
from asrtts.data.dataset import UtteranceDataset, batches, start_early
from asrtts.experiment import Experiment, Run
from asrtts.registry import UserError
from asrtts.text.tokenizer import Tokenizer
from asrtts.training import memory, parallel
from asrtts.training.computer import computer
from asrtts.training.trainer import Trainer, wants_bf16

STATISTICS_UTTERANCES = 2000  # enough for a mean and a variance of each bin
STATISTICS_BATCH = 32
AND = " and then "  # between the computers that a run was trained on


def parser() -> ArgumentParser:
    args = ArgumentParser("train", __doc__)
    args.add_argument("conf", help="settings, e.g. conf/ctc.yaml")
    args.add_argument("exp", type=utf8_path, help="folder of the run, e.g. exp/ctc")
    overrides = "overrides, e.g. training.updates=2000 seed=2"
    args.add_argument("settings", nargs="*", default=[], metavar="key=value", help=overrides)
    args.add_argument("--restart", action="store_true", help="throw away what the folder holds and start anew")
    args.add_argument("--init", metavar="TOOLKIT:FILE", help="encoder weights to begin with: espnet, wenet or asrtts")
    args.add_argument("--settings", action=_SettingsPage, nargs=0, help="print every setting, and end")
    args.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return args


class _SettingsPage(argparse.Action):
    """Ends as --help does."""

    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, **kwargs)  # `dest` is that of key=value

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from asrtts.bin import _settings_page

        print(_settings_page.page(), end="")
        parser.exit()


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    settings = experiment.load(args.conf, args.settings)
    for path in (settings.data.train, settings.data.dev):
        if path not in made:
            manifest.locate(path)
    if args.init and args.init.partition(":")[2] not in made:
        refuse_source(args.init)
    made.add(args.exp)


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    settings = experiment.load(args.conf, args.settings)
    start_early(settings.training.workers)
    rank, world = parallel.start()
    device = parallel.pick_device(args.device)
    parallel.use_threads(settings.training.threads)
    run = Run(args.exp)
    index, held_out, tokenizer, model = opened(settings, run, device)
    heard = start_from(args.init, model.encoder, settings.encoder) if args.init else None
    facts = experiment.facts_of(settings, tokenizer, model)
    facts |= computed_with(settings, device) | {"computer": computer(device)}
    facts |= begun_from(args.init) if args.init else {}
    if rank == 0 and args.restart:
        run.discard()
    with storage.held(run.folder) if rank == 0 else nullcontext():
        if rank == 0:
            prepare_folder(run, settings, facts, tokenizer, index, heard)
        parallel.wait()
        trainer = Trainer(model, settings.training, run.folder, settings.seed, device)
        resumed = trainer.resume()
        finished = trainer.done or trainer.update >= settings.training.updates
        if rank == 0:
            say(f"{run.folder}: {facts['parameters'] / 1e6:.2f} M parameters, {len(index)} utterances, {device.type}")
            if resumed and not finished:
                goes_on(run, facts["computer"])
            if resumed:
                say(f"{'finished' if finished else 'going on'} at update {trainer.update}")
        if not finished:
            measure = validation(settings, held_out, run, tokenizer, model, device)
            stream = training_batches(settings, index, run, tokenizer, model.views, trainer, rank, world)
            with closing(stream):
                trainer.fit(stream, measure)
        if rank == 0 and run.facts().get("updates") != trainer.update:
            run.record(train_minutes=round(trainer.seconds / 60, 2), updates=trainer.update, **memory.peak(device))
    parallel.stop()


def opened(
    settings: Experiment, run: Run, device: torch.device
) -> tuple[batching.Index, batching.Index, Tokenizer, AsrModel]:
    """Training and dev data, the tokens and the model, which is not on the device yet.

    Raises:
        UserError: whatever would stop the training later.
    """
    index, held_out = batching.Index(settings.data.train), batching.Index(settings.data.dev)
    tokenizer = Tokenizer.load(Path(settings.data.tokens))
    model = run.build_model(settings, tokenizer.vocab_size)
    model.method(settings.decoding)  # a search that these heads cannot do is refused now, not after the training
    model.refuse_untrainable(device)
    experiment.refuse_too_short(index, settings.features, model, max(settings.augmentation.speed))
    experiment.refuse_too_short(held_out, settings.features, model)
    _learnable.check(index, settings, tokenizer, model)
    augmentation.check(settings.augmentation)
    audio.read(held_out[0], settings.features.sample_rate)  # a corpus that moved: now, not at the first validation
    rate, wanted = index[0].sample_rate, settings.features.sample_rate
    if rate and rate < wanted:
        warn(
            f"{index.path}: recorded at {rate} Hz, features.sample_rate is {wanted}: bins above {rate // 2} Hz hear "
            f"nothing; set features.sample_rate={rate} if all of it is so"
        )
    return index, held_out, tokenizer, model


def begun_from(source: str) -> dict[str, Any]:
    """What run.json says of the weights to begin with; of a run of ours, the minutes that went into them too."""
    folder = Path(source.partition(":")[2]).parent
    before = Run(folder).facts() if (folder / "config.yaml").is_file() else {}
    minutes = decodings.train_minutes(before)
    return {"init": source} | ({} if minutes is None else {"init_minutes": round(minutes, 2)})


def prepare_folder(
    run: Run,
    settings: Experiment,
    facts: dict[str, Any],
    tokenizer: Tokenizer,
    index: batching.Index,
    heard: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> None:
    """Begin a run, or see that the one that is there is of the same settings and data.

    `heard`: mean and deviation of the features that the encoder was trained on before; else they are measured.
    """
    if run.is_begun:
        run.check_unchanged(settings, facts)
    else:
        statistics = taken_over(*heard, settings) if heard else measure_statistics(settings, index)
        run.begin(settings, tokenizer, statistics, facts)


def goes_on(run: Run, here: str) -> None:
    """Note a computer that a resumed run was not trained on before: its minutes are of several then."""
    before = run.facts().get("computer", "not recorded")
    if here not in before.split(AND):
        run.record(computer=before + AND + here)


def training_batches(
    settings: Experiment,
    index: batching.Index,
    run: Run,
    tokenizer: Tokenizer,
    views: int,
    trainer: Trainer,
    rank: int,
    world: int,
) -> Iterator[dict]:
    dataset = training_data(settings, index, run.statistics, tokenizer, views)
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


def training_data(
    settings: Experiment, index: batching.Index, statistics: features.Statistics, tokenizer: Tokenizer, views: int
) -> UtteranceDataset:
    return UtteranceDataset(
        index,
        settings.features,
        statistics,
        tokenizer.encode,
        augment=settings.augmentation,
        views=views,
        seed=settings.seed,
        round_frames=round_frames(settings),
    )


def validation(
    settings: Experiment, index: batching.Index, run: Run, tokenizer: Tokenizer, model: AsrModel, device: torch.device
) -> Callable[[], dict[str, float]]:
    """Loss and token error rate (by the cheapest search of the heads) on the dev manifest."""
    rounded = round_frames(settings)
    dataset = UtteranceDataset(index, settings.features, run.statistics, tokenizer.encode, round_frames=rounded)
    greedy = settings.decoding.model_copy(
        update={"beam": 1, "nbest": 1, "method": "auto", "ctc_weight": 0.0, "lm": None, "lodr": None}
    )
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


def computed_with(settings: Experiment, device: torch.device) -> dict[str, str]:
    """The device, and what `training.precision` comes to on it, as run.json has them."""
    bf16 = wants_bf16(settings.training.precision, device)
    return {"device": device.type, "precision": "bf16" if bf16 else "float32"}


def round_frames(settings: Experiment) -> int:
    """Frames of `batching.round_seconds`, at least one."""
    return max(1, round(settings.batching.round_seconds / settings.features.hop_seconds))


def taken_over(mean: torch.Tensor, std: torch.Tensor, settings: Experiment) -> features.Statistics:
    """Raises UserError if they are of other features than ours."""
    if len(mean) != settings.features.num_bins:
        raise UserError(
            f"--init: its features have {len(mean)} bins, features.num_bins is {settings.features.num_bins}; "
            f"set features.num_bins={len(mean)}"
        )
    say("features are normalized as those that the encoder of --init was trained on, with its global_cmvn")
    return features.Statistics(mean, std)


def measure_statistics(settings: Experiment, index: batching.Index) -> features.Statistics:
    """Mean and deviation of the features over a fixed sample of the training data."""
    sample = np.random.default_rng(settings.seed).permutation(len(index))[:STATISTICS_UTTERANCES]
    none = features.Statistics(torch.zeros(1), torch.ones(1))
    dataset = UtteranceDataset(index, settings.features, none, lambda text: [])
    cuts = [sample[i : i + STATISTICS_BATCH].tolist() for i in range(0, len(sample), STATISTICS_BATCH)]
    requests = [batching.Request(0, 0, tuple(cut), (1.0,) * len(cut), len(cut)) for cut in cuts]
    return features.Statistics.of((b["feats"], b["feat_lens"]) for b in (dataset[r] for r in requests))


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
