"""Make the manifests of a corpus and look for everything in it that would make training wrong."""

from __future__ import annotations

import argparse
import errno
import hashlib
import inspect
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from asrtts import registry
from asrtts.bin import _summary as summary
from asrtts.config import ArgumentParser, Made, warn, whole
from asrtts.data import diagnosis, manifest, survey
from asrtts.data.diagnosis import KINDS, Finding, Seen
from asrtts.data.inspection import Limits
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError, suggestion
from asrtts.storage import parse_json
from asrtts.text.normalization import CASES, normalize
from asrtts.text.tokenizer import Tokenizer

Splits = dict[str, list[Utterance]]


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


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    _effects(args)
    _limits(args)
    registry.find("asrtts.corpora", args.corpus)
    if args.there and not args.there.is_dir():
        raise UserError(f"{args.there}: no such folder (named by --corpus)")
    made.add(args.data)


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    effects, limits = _effects(args), _limits(args)
    tokenizer = Tokenizer.load(args.tokens) if args.tokens else None
    splits = _written_alike(_utterances(args), args)
    keys = survey.keys([u for utterances in splits.values() for u in utterances], limits)
    fingerprint = _fingerprint(args, splits, keys, tokenizer)
    if not args.force and (before := _finished(args.data, fingerprint)):
        kept = ", ".join(f"{split} {count}" for split, count in before["utterances"].items())
        print(f"{args.data}: finished before and nothing changed: {kept} utterances; --force does it again")
        return
    try:
        seen = _look(splits, keys, limits, args)
        findings = list(_check(seen, tokenizer, args))
        kept = _kept(seen, findings, effects)
        findings += _losses(splits, kept, args.max_dropped)
        findings.sort(key=lambda f: list(KINDS).index(f.kind))  # stable: within a kind, the order of the corpus
        stops = [f for f in findings if effects[f.kind] == "stop"]
        _write(args.data, {} if stops else kept, findings, fingerprint)
        summary.show(seen, kept, findings, effects)
    except BrokenPipeError:
        raise  # `asrtts prepare ... | head`
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else f"{error.filename}: {error.strerror}"
        raise UserError(f"{args.data}: cannot be written ({why}); the manifests are as they were") from None
    if stops:
        raise UserError(_stopped(stops, args))


def _effects(args: argparse.Namespace) -> dict[str, str]:
    """What each kind does in this run: stop, drop, drop-train or note."""
    for kind in (*args.allow, *args.stop):
        if kind not in KINDS:
            raise UserError(f"no kind of finding is named '{kind}'{suggestion(kind, KINDS)}")
    final = [kind for kind in args.allow if KINDS[kind].final]
    if final:
        raise UserError(f"--allow {final[0]}: there is nothing to train on; {KINDS[final[0]].fix}")
    effects = {kind: KINDS[kind].effect for kind in KINDS}
    if args.keep_going:
        effects |= {kind: "note" for kind in KINDS if effects[kind] == "stop" and not KINDS[kind].final}
    return effects | dict.fromkeys(args.stop, "stop") | dict.fromkeys(args.allow, "note")


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


def _written_alike(splits: Splits, args: argparse.Namespace) -> Splits:
    """The texts in one form where that was asked for; else as the corpus has them, which is what its results count."""
    if args.case == "keep" and not args.no_punctuation:
        return splits
    form = partial(normalize, case=args.case, punctuation=not args.no_punctuation)
    return {split: [replace(u, text=form(u.text)) for u in utterances] for split, utterances in splits.items()}


def _look(splits: Splits, keys: list[str], limits: Limits, args: argparse.Namespace) -> list[Seen]:
    """Every utterance with its inspection, while a bar shows how far it is."""
    pairs = [(split, u) for split, utterances in splits.items() for u in utterances]
    memory = args.data / ".inspected"
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


def _check(seen: list[Seen], tokenizer: Tokenizer | None, args: argparse.Namespace) -> Iterable[Finding]:
    yield from diagnosis.of_audio(seen, args.sample_rate)
    yield from diagnosis.of_text(seen)
    if tokenizer:
        yield from diagnosis.of_tokens(seen, tokenizer, args.subsampling)
    yield from diagnosis.of_copies(seen)
    yield from diagnosis.of_speakers(seen)
    yield from diagnosis.of_folders(s.utterance for s in seen)


def _kept(seen: list[Seen], findings: list[Finding], effects: dict[str, str]) -> Splits:
    """The utterances that go into the manifests, with what their files say of duration and rate."""
    dropped = {(f.split, f.utt_id, f.audio) for f in findings if diagnosis.drops(f, effects) and f.kind != "doubled-id"}
    kept: Splits = {s.split: [] for s in seen}
    ids = set()
    for s in seen:
        u = s.utterance
        if (s.split, u.utt_id, u.audio) not in dropped and (s.split, u.utt_id) not in ids:
            ids.add((s.split, u.utt_id))
            kept[s.split].append(replace(u, seconds=s.audio.seconds, sample_rate=s.audio.sample_rate))
    return kept


def _losses(splits: Splits, kept: Splits, allowed: float) -> Iterable[Finding]:
    """Splits that have lost too much to be what their name says."""
    if not any(kept.values()):
        yield Finding("nothing-left", "", "", "", f"no utterance can be used (splits: {', '.join(splits) or 'none'})")
    elif not any(kept[split] for split in kept if diagnosis.is_train(split)):
        yield Finding("no-train", "", "", "", f"no training utterance is left (splits: {', '.join(splits)})")
    for split, utterances in splits.items():
        lost = len(utterances) - len(kept.get(split, []))
        if lost and not diagnosis.is_train(split):
            warn(
                f"{lost} of {len(utterances)} {split} utterances are left out: a score on the others is not the corpus'"
            )
        if lost > allowed * len(utterances):
            found = f"{lost} of {len(utterances)} are left out, over --max-dropped {allowed:g}"
            yield Finding("many-dropped", split, "", "", found)


def _stopped(stops: list[Finding], args: argparse.Namespace) -> str:
    """One line: the first kind that stops, one example, the fix and the way round."""
    first = stops[0]
    count = sum(f.kind == first.kind for f in stops)
    others = sorted({f.kind for f in stops} - {first.kind})
    where = " ".join(part for part in (first.split, first.utt_id) if part)
    fix = KINDS[first.kind].fix + ("" if KINDS[first.kind].final else f", or go on with --allow {first.kind}")
    return (
        f"{args.corpus}: {first.kind}: {where + ': ' if where else ''}{first.found}"
        + (f" (and {count - 1} more)" if count > 1 else "")
        + f"; {fix}"
        + (f". Also: {', '.join(others)}" if others else "")
        + f". All of them are in {args.data / 'checks.jsonl'}; no manifest was written"
    )


def _fingerprint(args: argparse.Namespace, splits: Splits, keys: list[str], tokenizer: Tokenizer | None) -> str:
    """What the manifests depend on: the listing, the audio files' sizes and times, the tokens, the settings."""
    settings = {k: v for k, v in vars(args).items() if k not in ("root", "data", "there", "jobs", "force", "tokens")}
    digest = hashlib.sha256(repr((settings, tokenizer and tokenizer.fingerprint(), keys)).encode())
    for split, utterances in splits.items():
        for u in utterances:
            digest.update(repr((split, u)).encode())
    return digest.hexdigest()[:16]


def _finished(data: Path, fingerprint: str) -> dict[str, Any] | None:
    """What an earlier run wrote down, if it saw the same corpus and its files are still as it left them."""
    try:
        before = parse_json((data / "prepare.json").read_text(encoding="utf-8"))
        same = before["fingerprint"] == fingerprint
        return before if same and all(_hash(data / name) == value for name, value in before["files"].items()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, or not whole: do it again


def _write(data: Path, kept: Splits, findings: list[Finding], fingerprint: str) -> None:
    """The manifests, all or none, and the findings: written in a folder beside, then renamed; prepare.json last."""
    data.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".prepare-", dir=data))
    try:
        for split, utterances in kept.items():
            manifest.write(beside / f"{split}.jsonl", utterances)
        with open(beside / "checks.jsonl", "w", encoding="utf-8", errors="backslashreplace") as lines:
            for finding in findings:
                lines.write(json.dumps({**asdict(finding), "fix": KINDS[finding.kind].fix}, ensure_ascii=False) + "\n")
        names = sorted(path.name for path in beside.iterdir())
        about = {"fingerprint": fingerprint, "utterances": {split: len(kept[split]) for split in kept}}
        about["findings"] = dict(Counter(f.kind for f in findings))
        about["files"] = {name: _hash(beside / name) for name in names}
        (beside / "prepare.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (data / "prepare.json").unlink(missing_ok=True)
        for name in [*names, "prepare.json"] if kept else names:
            os.replace(beside / name, data / name)
    finally:
        shutil.rmtree(beside)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
