"""A dev split of training utterances, for a corpus that has none: no stretch of audio is in both."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random

from asrtts import storage
from asrtts.data.utterance import Utterance

ONE_IN = 10  # every tenth training utterance is dev
EVERY_TENTH = "every tenth training utterance is dev"
OVERLAP = 0.1  # seconds that two segments of one recording may share: the ends are often rounded


@dataclass(frozen=True)
class HeldOut:
    """What becomes of the training utterances; those that are neither are left out."""

    train: list[Utterance]
    dev: list[Utterance]
    how: str  # dev was chosen, for a message


def take(utterances: Sequence[Utterance]) -> HeldOut:
    """Every tenth utterance, without those that share audio with others; where that is most, another tenth.

    The other ways are, in this order: whole speakers with their recordings, whole recordings, and the last stretch of
    the corpus, without the training utterances that overlap with it. Where all utterances share their audio it is every
    tenth, for `asrtts prepare` to refuse. The same utterances give the same split.
    """
    return _Splitter(utterances).take()


class _Splitter:
    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self.utterances = utterances
        self.wanted = len(utterances) // ONE_IN
        self.first_copy = _first_copies({u.audio for u in utterances})

    def take(self) -> HeldOut:
        tenth = list(self.utterances[ONE_IN - 1 :: ONE_IN])
        dev = tenth
        while sharing := set(map(id, self.overlapping(dev, self.rest(dev)))):
            dev = [u for u in dev if id(u) not in sharing]
        if 2 * len(dev) >= self.wanted:
            but = " but those that share audio with others" if len(dev) < len(tenth) else ""
            return HeldOut(self.rest(dev), dev, EVERY_TENTH + but)
        for groups, how in (
            (self.by_speaker(), "whole speakers are dev, since segments of one recording overlap"),
            (self.by_recording(), "whole recordings are dev, since segments of one overlap"),
        ):
            drawn = set(map(id, _drawn(groups, self.wanted)))
            dev = [u for u in self.utterances if id(u) in drawn]
            if dev and not self.overlapping(dev, self.rest(dev)):
                return HeldOut(self.rest(dev), dev, how)
        return self.last() or HeldOut(self.rest(tenth), tenth, EVERY_TENTH)

    def last(self) -> HeldOut | None:
        places = {
            recording: place for place, recording in enumerate(dict.fromkeys(map(self.recording, self.utterances)))
        }
        dev = sorted(self.utterances, key=lambda u: (places[self.recording(u)], u.start))[-self.wanted :]
        train = self.rest(dev)
        lost = set(map(id, self.overlapping(train, dev)))
        if 2 * len(lost) >= len(train):
            return None
        return HeldOut(
            [u for u in train if id(u) not in lost], dev, "the last segments are dev, since segments overlap"
        )

    def rest(self, dev: Iterable[Utterance]) -> list[Utterance]:
        held = set(map(id, dev))
        return [u for u in self.utterances if id(u) not in held]

    def recording(self, utterance: Utterance) -> tuple[str, int]:
        return self.first_copy[utterance.audio], utterance.offset

    def by_recording(self) -> list[list[Utterance]]:
        groups = defaultdict(list)
        for utterance in self.utterances:
            groups[self.recording(utterance)].append(utterance)
        return list(groups.values())

    def by_speaker(self) -> list[list[Utterance]]:
        """Groups that share neither a recording nor a speaker with each other."""
        parent: dict[Hashable, Hashable] = {}

        def root(node: Hashable) -> Hashable:
            while parent.setdefault(node, node) != node:
                parent[node] = node = parent[parent[node]]
            return node

        for u in self.utterances:
            if u.speaker:
                parent[root(u.speaker)] = root(self.recording(u))
        groups = defaultdict(list)
        for u in self.utterances:
            groups[root(self.recording(u))].append(u)
        return list(groups.values())

    def overlapping(self, some: Iterable[Utterance], others: Iterable[Utterance]) -> list[Utterance]:
        """Those of `some` that share more than OVERLAP with one of `others`, on one channel of a recording."""
        stretches = defaultdict(list)
        for u in others:
            stretches[self.recording(u), u.channel].append(_stretch(u))
        for ordered in stretches.values():
            ordered.sort()
        latest = {key: list(accumulate((end for _, end in ordered), max)) for key, ordered in stretches.items()}
        found = []
        for u in some:
            key, (start, end) = (self.recording(u), u.channel), _stretch(u)
            ordered = stretches.get(key, [])
            first = bisect_right(ordered, (start, math.inf))  # those before begin before it, or with it
            within = ordered[first : bisect_right(ordered, (end, -math.inf))]
            shared = [min(end, other_end) - other_start for other_start, other_end in within]
            if first:
                shared.append(min(end, latest[key][first - 1]) - start)
            if max(shared, default=0) > OVERLAP:
                found.append(u)
        return found


def _drawn(groups: list[list[Utterance]], wanted: int) -> list[Utterance]:
    """Groups drawn at random with about so many utterances together; nothing where the groups are too large."""
    drawn: list[Utterance] = []
    for group in Random(0).sample(groups, len(groups)):
        if len(drawn) < wanted and len(drawn) + len(group) <= 2 * wanted:
            drawn += group
    return drawn if 2 * len(drawn) >= wanted else []


def _stretch(utterance: Utterance) -> tuple[float, float]:
    """Its seconds in the recording; one whose duration is not known yet is all of it."""
    return utterance.start, utterance.start + utterance.seconds if utterance.seconds else math.inf


def _first_copies(paths: Iterable[str]) -> dict[str, str]:
    """For each file the first one with the same bytes. Only files of one size are read."""
    sizes = defaultdict(list)
    for path in sorted(paths):
        sizes[os.path.getsize(path) if os.path.isfile(path) else path].append(path)
    first: dict[Hashable, str] = {}
    return {
        path: first.setdefault(path if len(alike) == 1 else _contents(Path(path)), path)
        for alike in sizes.values()
        for path in alike
    }


def _contents(path: Path) -> str:
    try:
        return storage.checksum(path)
    except OSError:  # which the check of every file will tell
        return str(path)
