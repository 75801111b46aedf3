"""A manifest: one utterance a line, as JSON. `data/train` names `data/train.jsonl`."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path

from asrtts import storage
from asrtts.data import manifest_cache
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError, quoted, suggestion

_TYPES = {f.name: {"str": str, "float": (int, float), "int": int}[str(f.type)] for f in fields(Utterance)}
_LINE_END = re.compile(
    rb'"seconds": ([0-9]+\.[0-9]+|[0-9]+), "sample_rate": [0-9]+, "channel": [0-9]+'
    rb'(?:, "offset": [0-9]+, "size": [0-9]+)?}\n'
)
_LINE = re.compile(
    rb'{"utt_id": "([^"\\]*)", "audio": "[^"\\]*", "text": "([^"\\]*)", "speaker": "[^"\\]*", '
    rb'"start": ([0-9]+\.[0-9]+), "seconds": ([0-9]+\.[0-9]+), [^"\\]*"[^\n]*}\n'
)
_HALF = re.compile("[\ud800-\udfff]")  # JSON can write what no text can hold
LARGEST = 1 << 53  # of whole numbers, which JSON has of any length; more bytes are in no file
CHUNK = 4 << 20  # bytes of a manifest that are read at a time
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
            raise UserError(f"{where}: unknown key {quoted(key)}{suggestion(key[:60], _TYPES)}")
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            raise UserError(
                f"{where}: key '{key}' holds {value!r:.60}, which is no {_WORDS[Utterance.__annotations__[key]]}"
            )
        most = LARGEST if isinstance(value, int) else math.inf  # JSON of Python has NaN and Infinity
        if not isinstance(value, str) and not 0 <= value < most:
            raise UserError(f"{where}: key '{key}' holds {value!r:.60}; wanted a number from 0 on")
        if key != "audio" and isinstance(value, str) and _HALF.search(value):  # a path may have any bytes
            raise UserError(f"{where}: key '{key}' holds {value!a:.60}, with half a character of UTF-16; correct it")
    missing = [key for key in ("utt_id", "audio", "text") if key not in record]
    if missing:
        raise UserError(f"{where}: key '{missing[0]}' is missing")
    return Utterance(**record)


def seconds_of(lines: bytes, path: str | Path, first: int) -> list[float]:
    """The durations in whole manifest lines, of which the first has this number.

    Parsing all of a line takes fifteen times as long, and a manifest may have millions. Lines as `write` wrote them are
    only searched: quotes within a text are escaped, so that only the end of a line looks like the end of one. If any
    line is of another hand, all are parsed.
    """
    found = _LINE_END.findall(lines)
    if len(found) == lines.count(b"\n") and lines.endswith(b"\n"):
        return [float(number) for number in found]
    return [parse(line, f"{path}:{n}").seconds for n, line in enumerate(io.BytesIO(lines), first)]


def write(manifest: Path, utterances: Iterable[Utterance]) -> int:
    """Write a manifest beside its goal and rename it at the end; returns the number of utterances.

    Bytes of a path that are no UTF-8 become an escape of JSON, from which `read` makes the same path.
    """
    manifest = Path(manifest)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    beside = manifest.with_name(manifest.name + ".part")
    count = 0
    with open(beside, "w", encoding="utf-8", errors="backslashreplace") as lines:
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

    def work() -> bytes:
        digest = hashlib.sha256()
        for lines, first in chunks(path):
            found = _LINE.findall(lines)  # a fifth of the time of parsing; lines with an escape in them are not found
            if len(found) < lines.count(b"\n") or not lines.endswith(b"\n"):
                parsed = [parse(line, f"{path}:{n}") for n, line in enumerate(io.BytesIO(lines), first)]
                found = [(u.utt_id.encode(), u.text.encode(), u.start, u.seconds) for u in parsed]
            for utt_id, text, start, seconds in found:
                digest.update(b"%b\t%b\t%.4f\t%.4f\n" % (utt_id, text, float(start), float(seconds)))
        return digest.hexdigest()[:16].encode()

    path = locate(manifest)
    return manifest_cache.remembered(path, "fingerprint", work).tobytes().decode()


def chunks(path: Path) -> Iterator[tuple[bytes, int]]:
    """Some whole lines of a file, and the number of the first."""
    number = 1
    with open(path, "rb") as file:
        while lines := file.read(CHUNK) + file.readline():
            yield lines, number
            number += lines.count(b"\n")
