"""Make the manifests of a corpus and look for everything in it that would make training wrong."""

from __future__ import annotations

import argparse
import errno
import inspect
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from asrtts import registry, storage
from asrtts.config import ArgumentParser, warn, whole
from asrtts.data import preparation_report, preparing, survey
from asrtts.data.diagnosis import KINDS, Seen
from asrtts.data.inspection import Limits
from asrtts.data.preparing import Splits
from asrtts.registry import UserError
from asrtts.text.normalization import CASES
from asrtts.text.tokenizer import Tokenizer


def parser() -> ArgumentParser:
    options = ArgumentParser("prepare", __doc__)
    add = options.add_argument
    add("corpus", help="a file of asrtts/corpora, e.g. an4")
    add("root", type=Path, help="where stage 0 put the corpus, e.g. downloads")
    add("data", type=Path, help="where the manifests go, e.g. data")
    add("--corpus", type=Path, metavar="DIR", dest="there", help="a corpus that is there already (or ASRTTS_CORPORA)")
    add("--jobs", type=whole(1, 1024), default=os.cpu_count(), help="processes (default: one per CPU)")
    add("--tokens", type=Path, metavar="FOLDER", help="check against these tokens, e.g. data/tokens")
    add("--subsampling", type=whole(1, 1000), default=4, help="with --tokens: the encoder's, for CTC (default: 4)")
    add("--sample-rate", type=whole(1, 1_000_000), default=16000, help="that of the features, in Hz (default: 16000)")
    add(
        "--min-seconds", type=float, default=Limits.min_seconds, help="shorter is not trained on (default: %(default)s)"
    )
    add("--max-seconds", type=float, default=Limits.max_seconds, help="longer is not trained on (default: %(default)s)")
    add("--max-dropped", type=float, default=0.05, help="stop if more of a split is left out (default: 0.05)")
    add("--allow", action="append", default=[], metavar="KIND", help="report this kind, but neither stop nor drop")
    add("--stop", action="append", default=[], metavar="KIND", help="stop at this kind, e.g. speaker-leak")
    add("--keep-going", action="store_true", help="allow every kind that stops")
    add("--case", choices=CASES, default="keep", help="of the text (default: %(default)s, as the corpus has it)")
    add("--no-punctuation", action="store_true", help="take it out of the text; apostrophes inside words stay")
    add("--allow-pipes", action="store_true", help="run the commands that a Kaldi wav.scp holds")
    for split in ("train", "dev", "test"):
        text = f"the Kaldi data folders in ROOT that are {split}; where any are named, only those are read"
        add(f"--{split}", nargs="+", action="extend", default=[], metavar="NAME", help=text)
    add("--force", action="store_true", help="do it again though nothing changed")
    options.epilog = "kinds: " + ", ".join(KINDS)
    return options


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    effects, limits = preparing.effects(args.allow, args.stop, args.keep_going), _limits(args)
    data = storage.behind_links(args.data)
    tokenizer = Tokenizer.load(args.tokens) if args.tokens else None
    corpus = _utterances(args)
    keys = survey.keys([u for utterances in corpus.values() for u in utterances], limits)
    made_from = preparing.made_from(_settings(args), corpus, keys, tokenizer)
    if not args.force and (before := storage.finished(data / preparing.RECORD, made_from)):
        counts = ", ".join(f"{split} {count}" for split, count in before["utterances"].items())
        print(f"{args.data}: finished before and nothing changed: {counts} utterances; --force does it again")
        return
    try:
        splits = preparing.texts_in_one_form(corpus, args.case, not args.no_punctuation)
        seen = _look(splits, keys, limits, args)
        findings = list(preparing.findings(corpus, seen, tokenizer, args.sample_rate, args.subsampling))
        kept = preparing.kept(seen, findings, effects)
        findings += preparing.losses(splits, kept, args.max_dropped)
        findings.sort(key=lambda f: list(KINDS).index(f.kind))  # stable: within a kind, the order of the corpus
        stops = [f for f in findings if effects[f.kind] == "stop"]
        preparing.write(data, {} if stops else kept, findings, made_from)
        preparation_report.show(seen, kept, findings, effects)
    except BrokenPipeError:
        raise  # `asrtts prepare ... | head`
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else f"{error.filename}: {error.strerror}"
        raise UserError(f"{args.data}: cannot be written ({why}); the manifests are as they were") from None
    if stops:
        raise UserError(preparing.stopped(stops, args.corpus, args.data))


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The options that change what is written."""
    elsewhere = ("root", "data", "there", "jobs", "force", "tokens")
    return {name: value for name, value in vars(args).items() if name not in elsewhere}


def _limits(args: argparse.Namespace) -> Limits:
    if not 0 <= args.min_seconds < args.max_seconds:
        raise UserError(f"--min-seconds {args.min_seconds:g} is not below --max-seconds {args.max_seconds:g}")
    if not 0 <= args.max_dropped <= 1:
        raise UserError(f"--max-dropped {args.max_dropped:g}: wanted a share from 0 to 1, e.g. 0.05 for 5 percent")
    return Limits(args.min_seconds, args.max_seconds)


def _utterances(args: argparse.Namespace) -> Splits:
    """The corpus from the first folder that holds it: that of --corpus, or else stage 0's, then ASRTTS_CORPORA.

    Raises:
        UserError: none does; the first folder's error.
    """
    read = registry.find("asrtts.corpora", args.corpus).utterances
    takes = inspect.signature(read).parameters
    given = {name: getattr(args, name) for name in ("allow_pipes", "train", "dev", "test")}
    foreign = next((name for name, value in given.items() if value and name not in takes), None)
    if foreign:
        raise UserError(f"--{foreign.replace('_', '-')} is for Kaldi data folders; {args.corpus} has its own form")
    options = {name: value for name, value in {**given, "cache": args.data / "audio"}.items() if name in takes}
    shared = os.environ.get("ASRTTS_CORPORA")
    roots = [args.there, args.root] if args.there else [args.root, *([Path(shared)] if shared else [])]
    errors = []
    for root in roots:
        try:
            splits = read(root, **options)
        except UserError as error:
            errors.append(error)
            continue
        if errors and roots[0].exists():
            warn(f"{args.corpus} is read from {root}, since {errors[0]}")
        return splits
    raise errors[0]


def _look(splits: Splits, keys: list[str], limits: Limits, args: argparse.Namespace) -> list[Seen]:
    """Every utterance with its inspection, while a bar shows how far it is."""
    pairs = [(split, u) for split, utterances in splits.items() for u in utterances]
    memory = storage.behind_links(args.data) / ".inspected"
    if args.force:
        memory.unlink(missing_ok=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    started = time.monotonic()
    known = survey.recall(memory)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        inspections = survey.survey([u for _, u in pairs], keys, known, memory, limits, args.jobs)
        tracked = progress.track(inspections, len(pairs), description="reading audio")
        seen = [Seen(split, u, audio) for (split, u), audio in zip(pairs, tracked, strict=True)]
    took = time.monotonic() - started
    hours = sum(s.audio.seconds for s, key in zip(seen, keys, strict=True) if key not in known) / 3600
    rate = f"in {took:.1f} s, {60 * hours / took:.0f} h a minute" if hours else "(no file has changed)"
    print(f"{args.corpus}: {hours:.2f} h of audio looked at {rate}")
    return seen
