"""From the utterances of a corpus and what their audio is to manifests: what is checked, kept, told and written."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from asrtts import storage
from asrtts.config import warn
from asrtts.data import diagnosis, manifest
from asrtts.data.diagnosis import KINDS, Finding, Seen
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError, suggestion
from asrtts.text import normalization
from asrtts.text.tokenizer import Tokenizer

Splits = dict[str, list[Utterance]]
RECORD = "prepare.json"


def effects(allow: Sequence[str], stop: Sequence[str], keep_going: bool) -> dict[str, str]:
    """What each kind of finding does in this run: stop, drop, drop-train or note.

    Raises:
        UserError: a kind that there is not, or one that cannot be allowed.
    """
    for kind in (*allow, *stop):
        if kind not in KINDS:
            raise UserError(f"no kind of finding is named '{kind}'{suggestion(kind, KINDS)}")
    final = [kind for kind in allow if KINDS[kind].final]
    if final:
        raise UserError(f"--allow {final[0]}: there is nothing to train on; {KINDS[final[0]].fix}")
    chosen = {kind: KINDS[kind].effect for kind in KINDS}
    if keep_going:
        chosen |= {kind: "note" for kind in KINDS if chosen[kind] == "stop" and not KINDS[kind].final}
    return chosen | dict.fromkeys(stop, "stop") | dict.fromkeys(allow, "note")


def texts_in_one_form(splits: Splits, case: str, punctuation: bool) -> Splits:
    """The texts as they go into manifests: in one form where that was asked for, else as the corpus has them."""

    def form(text: str) -> str:
        if case == "keep" and punctuation:
            return normalization.clean(text)
        return normalization.normalize(text, case, punctuation)

    return {split: [replace(u, text=form(u.text)) for u in utterances] for split, utterances in splits.items()}


def findings(
    corpus: Splits, seen: list[Seen], tokenizer: Tokenizer | None, sample_rate: int, subsampling: int
) -> Iterator[Finding]:
    """Everything that is found: first in the texts as the corpus has them, then in `seen`."""
    for split, utterances in corpus.items():
        yield from diagnosis.of_marks(split, utterances)
    yield from diagnosis.of_audio(seen, sample_rate)
    yield from diagnosis.of_text(seen)
    if tokenizer:
        yield from diagnosis.of_tokens(seen, tokenizer, subsampling)
    yield from diagnosis.of_copies(seen)
    yield from diagnosis.of_speakers(seen)
    yield from diagnosis.of_folders(s.utterance for s in seen)


def kept(seen: list[Seen], found: list[Finding], effect: dict[str, str]) -> Splits:
    """The utterances that go into the manifests, with what their files say of duration and rate."""
    dropped = {(f.split, f.utt_id, f.audio) for f in found if diagnosis.drops(f, effect) and f.kind != "doubled-id"}
    splits: Splits = {s.split: [] for s in seen}
    ids = set()
    for s in seen:
        u = s.utterance
        if (s.split, u.utt_id, u.audio) not in dropped and (s.split, u.utt_id) not in ids:
            ids.add((s.split, u.utt_id))
            splits[s.split].append(replace(u, seconds=s.audio.seconds, sample_rate=s.audio.sample_rate))
    return splits


def losses(splits: Splits, remaining: Splits, allowed: float) -> Iterator[Finding]:
    """Splits that have lost too much to be what their name says; warns of any loss in a test set."""
    names = ", ".join(splits)
    if not any(remaining.values()):
        yield Finding("nothing-left", "", "", "", f"no utterance can be used (splits: {names or 'none'})")
    elif not any(remaining[split] for split in remaining if diagnosis.is_train(split)):
        yield Finding("no-train", "", "", "", f"no training utterance is left (splits: {names})")
    for split, utterances in splits.items():
        lost, count = len(utterances) - len(remaining.get(split, [])), len(utterances)
        if lost and not diagnosis.is_train(split):
            warn(f"{lost} of {count} {split} utterances are left out: a score on the others is not the corpus'")
        if lost > allowed * count:
            yield Finding(
                "many-dropped", split, "", "", f"{lost} of {count} are left out, over --max-dropped {allowed:g}"
            )


def stopped(stops: list[Finding], corpus: str, data: Path) -> str:
    """One line: the first kind that stops, one example, the fix and the way round."""
    first = stops[0]
    count = sum(f.kind == first.kind for f in stops)
    others = sorted({f.kind for f in stops} - {first.kind})
    where = " ".join(part for part in (first.split, first.utt_id) if part)
    fix = KINDS[first.kind].fix + ("" if KINDS[first.kind].final else f", or go on with --allow {first.kind}")
    return (
        f"{corpus}: {first.kind}: {where + ': ' if where else ''}{first.found}"
        + (f" (and {count - 1} more)" if count > 1 else "")
        + f"; {fix}"
        + (f". Also: {', '.join(others)}" if others else "")
        + f". All of them are in {data / 'checks.jsonl'}; no manifest was written"
    )


def made_from(
    settings: dict[str, Any], corpus: Splits, keys: Sequence[str], tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """What the manifests depend on: settings, tokens, and a hash of the listing and of the files' sizes and times."""
    digest = hashlib.sha256(repr(list(keys)).encode())
    for split, utterances in corpus.items():
        for u in utterances:
            digest.update(repr((split, u)).encode())
    return {"settings": settings, "tokens": tokenizer and tokenizer.fingerprint(), "corpus": digest.hexdigest()[:16]}


def write(data: Path, splits: Splits, found: list[Finding], origin: dict[str, Any]) -> None:
    """The manifests, all or none, and the findings: written in a folder beside, then renamed; prepare.json last.

    Without splits the manifests stay as they are, and there is no prepare.json: the data do not count as finished.
    """
    with storage.staged(data / "manifests") as beside:
        for split, utterances in splits.items():
            manifest.write(beside / f"{split}.jsonl", utterances)
        with open(beside / "checks.jsonl", "w", encoding="utf-8", errors="backslashreplace") as lines:
            for finding in found:
                lines.write(json.dumps({**asdict(finding), "fix": KINDS[finding.kind].fix}, ensure_ascii=False) + "\n")
        names = sorted(path.name for path in beside.iterdir())
        (data / RECORD).unlink(missing_ok=True)
        for name in names:
            os.replace(beside / name, data / name)
    if splits:
        counts = {"utterances": {split: len(splits[split]) for split in splits}}
        counts["findings"] = dict(Counter(finding.kind for finding in found))
        storage.finish(data / RECORD, origin, [data / name for name in names], **counts)
