"""Inspect the audio of a whole corpus: by several processes, in order, and never twice."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partial
from pathlib import Path

from asrtts import storage
from asrtts.data.inspection import VERSION, Inspection, Limits, inspect
from asrtts.data.utterance import Utterance
from asrtts.data.worker import end_with_parent
from asrtts.registry import UserError
from asrtts.storage import parse_json

FEW = 64  # so many are read sooner than processes start


def keys(listed: Sequence[Utterance], limits: Limits) -> list[str]:
    """For each utterance, what its inspection depends on: the place in the file, the file's size and time, limits."""
    stats = {}
    for audio in {u.audio for u in listed}:
        try:
            stat = os.stat(audio)
            stats[audio] = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            stats[audio] = (-1, -1)
    places = ((u.audio, stats[u.audio], u.offset, u.size, u.start, u.seconds, u.channel) for u in listed)
    parts = ((VERSION, limits, *place) for place in places)
    return [hashlib.blake2b(repr(part).encode(), digest_size=12).hexdigest() for part in parts]


def recall(memory: Path) -> dict[str, Inspection]:
    """What was inspected before, by key. A line that a kill cut short is forgotten."""
    known = {}
    lines = memory.read_text(encoding="utf-8", errors="replace").splitlines() if memory.is_file() else []
    for line in lines:
        try:
            record = parse_json(line)
            key = record.pop("key")
            record["findings"] = tuple((kind, found) for kind, found in record["findings"])
            known[key] = Inspection(**record)
        except (ValueError, KeyError, TypeError):
            continue
    return known


def survey(
    listed: Sequence[Utterance],
    keyed: Sequence[str],
    known: dict[str, Inspection],
    memory: Path,
    limits: Limits,
    jobs: int,
) -> Iterator[Inspection]:
    """Yield the inspection of each utterance, in order, whatever the number of processes.

    Args:
        keyed: `keys` of the same utterances.
        known: what `recall` gave; the others are inspected and noted in `memory` one by one, so that a killed run
            is not lost.

    Raises:
        UserError: a process died.
    """
    fresh = _inspect([u for u, key in zip(listed, keyed, strict=True) if key not in known], limits, jobs)
    memory.parent.mkdir(parents=True, exist_ok=True)
    now = {}
    with open(memory, "a", buffering=1, encoding="utf-8") as lines:  # a line at a time, for kill -9
        if len(known) < len(set(keyed)) and lines.tell():
            lines.write("\n")  # what a kill cut short stays a line of its own
        for key in keyed:
            if key in known:
                now[key] = known[key]
            else:
                now[key] = next(fresh)
                lines.write(_line(key, now[key]))
            yield now[key]
    if known.keys() - now.keys():  # of files that have changed or gone
        storage.write(memory, "".join(_line(key, inspection) for key, inspection in now.items()))


def _inspect(todo: Sequence[Utterance], limits: Limits, jobs: int) -> Iterator[Inspection]:
    look = partial(inspect, limits=limits)
    if jobs == 1 or len(todo) <= FEW:
        yield from map(look, todo)
        return
    # spawn: a fork would copy the thread that draws the progress bar in whatever state it is in
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(jobs, context, end_with_parent) as pool:
            yield from pool.map(look, todo, chunksize=16)
    except BrokenProcessPool:
        raise UserError(
            "a process died while reading audio (out of memory?); what was read is kept: "
            "give the same command, or with --jobs 1 to see where it stops"
        ) from None


def _line(key: str, inspection: Inspection) -> str:
    return json.dumps({"key": key, **asdict(inspection)}) + "\n"
