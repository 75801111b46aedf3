"""A manifest: one utterance a line, as JSON. `data/train` names `data/train.jsonl`."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path

from asrtts import storage
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError, suggestion

_TYPES = {f.name: {"str": str, "float": (int, float), "int": int}[str(f.type)] for f in fields(Utterance)}
_WORDS = {"str": "text", "float": "number", "int": "whole number"}


def locate(manifest: str | Path) -> Path:
    """The manifest's file; `.jsonl` may be left out. Raises UserError, with the nearest name, if there is none."""
    path = Path(manifest)
    whole = path if path.suffix == ".jsonl" or not path.name else path.with_name(path.name + ".jsonl")
    for candidate in (path, whole):
        if candidate.is_file():
            return candidate
    there = [p.stem for p in whole.parent.glob("*.jsonl") if p.stem != "checks"]  # what `asrtts prepare` found
    near = suggestion(whole.stem, there) if there else ""
    raise UserError(f"{whole}: no such manifest{near}. Make it with `asrtts prepare` (stage 1)")


def read(manifest: str | Path) -> Iterator[Utterance]:
    """Yield the utterances of a manifest, one line at a time.

    Raises:
        UserError: a line is no utterance; the file, the line number and the key are named.
    """
    path = locate(manifest)
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            yield parse(line, f"{path}:{number}")


def parse(line: bytes | str, where: str) -> Utterance:
    """One manifest line as an Utterance; `where` names it in an error."""
    record = storage.json_object(line, where, "make the manifest again with `asrtts prepare`")
    for key, value in record.items():
        if key not in _TYPES:
            raise UserError(f"{where}: unknown key '{key}'{suggestion(key, _TYPES)}")
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            raise UserError(
                f"{where}: key '{key}' holds {value!r:.60}, which is no {_WORDS[Utterance.__annotations__[key]]}"
            )
        if not isinstance(value, str) and not 0 <= value < math.inf:  # JSON of Python has NaN and Infinity
            raise UserError(f"{where}: key '{key}' holds {value}; wanted a number from 0 on")
    missing = [key for key in ("utt_id", "audio", "text") if key not in record]
    if missing:
        raise UserError(f"{where}: key '{missing[0]}' is missing")
    return Utterance(**record)


def seconds_of(line: bytes, where: str) -> float:
    """The duration in a manifest line: parsing all of it takes ten times as long, and a manifest may have millions.

    A line as `write` wrote it is only searched: quotes within a text are escaped, so `"seconds": ` is the key. Any
    other line is parsed.
    """
    if line.startswith(b'{"utt_id": "') and line.endswith(b"}\n"):
        at = line.rfind(b'"seconds": ') + len(b'"seconds": ')
        number = line[at : line.find(b",", at)]
        if number.replace(b".", b"", 1).isdigit():  # not -1, NaN, or the rest of a line without the key
            return float(number)
    return parse(line, where).seconds


def write(manifest: Path, utterances: Iterable[Utterance]) -> int:
    """Write a manifest beside its goal and rename it at the end; returns the number of utterances."""
    manifest = Path(manifest)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    beside = manifest.with_name(manifest.name + ".part")
    count = 0
    with open(beside, "w", encoding="utf-8") as lines:
        for utterance in utterances:
            record = asdict(utterance)
            if not utterance.size:  # no shard
                del record["offset"], record["size"]
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    os.replace(beside, manifest)
    return count


def fingerprint(manifest: str | Path) -> str:
    """What a run was trained on: a hash of ids, texts and durations, not of where the audio lies."""
    digest = hashlib.sha256()
    for u in read(manifest):
        digest.update(f"{u.utt_id}\t{u.text}\t{u.start:.4f}\t{u.seconds:.4f}\n".encode())
    return digest.hexdigest()[:16]
