"""The kinds of faults a corpus can have, and the checks that need texts, tokens or more than one utterance."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from asrtts.data.held_out import OVERLAP
from asrtts.data.inspection import Inspection
from asrtts.data.utterance import Utterance
from asrtts.registry import quoted
from asrtts.text import normalization
from asrtts.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Kind:
    """`effect`: stop (training would be wrong), drop (left out everywhere), drop-train (left out of training
    alone: a test set is scored whole) or note. `final`: --allow cannot lift it, there is nothing to train on."""

    effect: str
    fix: str
    final: bool = False


KINDS = {
    "nothing-left": Kind("stop", "get the corpus again (stage 0)", True),
    "no-train": Kind("stop", "get the corpus again (stage 0), or say what to train on: of Kaldi folders --train NAME"),
    "many-dropped": Kind("stop", "mend what is listed, or get the corpus again (stage 0)"),
    "audio-leak": Kind(
        "stop", "take the copies out of one of the two splits, or leave one out (of Kaldi folders, name the others)"
    ),
    "wrong-tokens": Kind("stop", "make tokens of this corpus: `asrtts tokenize`"),
    "missing-audio": Kind("drop", "get the file again (stage 0) or take its transcript out", True),
    "unreadable": Kind(
        "drop", "get the file again (stage 0), or convert it to wav or flac with ffmpeg or sph2pipe", True
    ),
    "empty": Kind("drop", "get the file again (stage 0)", True),
    "truncated": Kind("drop", "get the file again (stage 0), or correct the end of the segment"),
    "unread": Kind("drop", "write the file again (ffmpeg, sox), and of joined files each as one of its own"),
    "not-finite": Kind("drop", "write the file again from its source", True),
    "not-scaled": Kind("drop", "divide its samples by full scale, as integers have 32768, and write it again", True),
    "empty-text": Kind("drop-train", "write its transcript, or take the audio out; in a test set nothing was said"),
    "doubled-id": Kind("drop", "give every utterance its own id; the first one is kept", True),
    "two-texts": Kind("drop-train", "find out which transcript is true and take the other out"),
    "silent": Kind("drop-train", "record it again, or look whether another channel holds the speech"),
    "too-short": Kind("drop-train", "cut the segment wider, or lower --min-seconds"),
    "too-long": Kind("drop-train", "cut it into segments, or raise --max-seconds if memory allows"),
    "ctc-short": Kind("drop-train", "check the transcript, or take coarser tokens or a lower --subsampling"),
    "speaker-leak": Kind("note", "the test scores speakers heard in training: say so, or split by speaker"),
    "shared-speakers": Kind("note", "dev scores flatter; the test set is not concerned"),
    "shared-id": Kind("note", "give every utterance its own id"),
    "doubled-audio": Kind("note", "take one out: it counts twice"),
    "invisible": Kind(
        "note", "nothing to do: they are left out of the text; correct the transcripts to be rid of this"
    ),
    "uncovered": Kind("note", "make tokens of this text too, or normalize it; these become <unk>"),
    "speaking-rate": Kind("note", "listen to it: the text may belong to other audio"),
    "clipped": Kind("note", "record at a lower level; the samples cut off are lost"),
    "zeros": Kind("note", "listen to it: the recorder may have lost its input"),
    "odd-rate": Kind("note", "check where the file comes from; it is resampled"),
    "upsampled": Kind("note", "nothing is above half its rate: use --sample-rate of the files where all are so"),
    "resampled": Kind("note", "nothing to do; converting the files once would save time"),
    "channels": Kind("note", "check that the speech is on the channel used"),
    "no-transcript": Kind("note", "add its transcript; the file is not used"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault; `utt_id` and `audio` are "" where it concerns a whole split."""

    kind: str
    split: str
    utt_id: str
    audio: str
    found: str


@dataclass(frozen=True, slots=True)
class Seen:
    """An utterance, where it stands, and what its audio turned out to be."""

    split: str
    utterance: Utterance
    audio: Inspection

    def finding(self, kind: str, found: str) -> Finding:
        return Finding(kind, self.split, self.utterance.utt_id, self.utterance.audio, found)


def of_audio(seen: Iterable[Seen], sample_rate: int) -> Iterator[Finding]:
    """The inspections' own findings, and rates that are not the wanted one (Hz) or not that of most files."""
    seen = list(seen)
    rates = Counter(s.audio.sample_rate for s in seen if s.audio.sample_rate)
    most = rates.most_common(1)[0][0] if rates else sample_rate
    for s in seen:
        yield from (s.finding(kind, found) for kind, found in s.audio.findings)
        rate = s.audio.sample_rate
        if rate not in (0, most):
            yield s.finding("odd-rate", f"{rate} Hz, most files have {most}")
        elif rate not in (0, sample_rate):
            kind = "upsampled" if rate < sample_rate else "resampled"
            yield s.finding(kind, f"{rate} Hz, wanted {sample_rate}")


# Letters a second. Read speech has 5 to 17 (LibriSpeech), AN4's careful spelling comes down to 1.0.
FASTEST, SLOWEST = 30.0, 0.7
CHINESE_LETTERS = 3  # what a Chinese character weighs, so that AISHELL's 2-4 a second fall into the same range


def of_text(seen: Iterable[Seen]) -> Iterator[Finding]:
    """No text at all, or far too much or too little of it for the audio."""
    for s in seen:
        text = normalization.plain(s.utterance.text)
        letters = sum(CHINESE_LETTERS if "\u3400" <= c <= "\u9fff" else 1 for c in text if c.isalnum())
        if not letters:
            yield s.finding("empty-text", f"no word in {quoted(s.utterance.text)}")
        elif s.audio.seconds and not SLOWEST <= (rate := letters / s.audio.seconds) <= FASTEST:
            yield s.finding("speaking-rate", f"{letters} letters in {s.audio.seconds:.2f} s, {rate:.1f} a second")


def of_marks(split: str, utterances: Iterable[Utterance]) -> Iterator[Finding]:
    """Zero-width, direction and control characters in the texts as the corpus has them, and names of tokens."""
    for u in utterances:
        if marks := normalization.invisible(u.text):
            shown = ", ".join(_named(mark) if len(mark) == 1 else mark for mark in marks[:5])
            yield Finding("invisible", split, u.utt_id, u.audio, shown + (", ..." if len(marks) > 5 else ""))


def _named(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, 'a control character')}"


def of_tokens(seen: Iterable[Seen], tokenizer: Tokenizer, subsampling: int) -> Iterator[Finding]:
    """Characters without a token, and utterances with fewer encoder frames than CTC needs.

    CTC has to emit every token and a blank between two equal ones (Graves et al. 2006, section 3.1).
    """
    poor: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    for s in seen:
        texts[s.split] += is_train(s.split)  # a small corpus has characters in dev that train lacks
        lost = tokenizer.uncovered(s.utterance.text)
        if lost:
            poor[s.split] += is_train(s.split)
            shown = [f"{c} (U+{ord(c):04X} {unicodedata.name(c, '?')})" if len(c) == 1 else c for c in sorted(lost)]
            yield s.finding("uncovered", " ".join(shown))
        ids = tokenizer.encode(s.utterance.text)
        need = len(ids) + sum(a == b for a, b in zip(ids, ids[1:], strict=False))
        frames = encoder_frames(s.audio.seconds, subsampling)
        if s.audio.seconds and frames < need:
            yield s.finding("ctc-short", f"{frames} encoder frames in {s.audio.seconds:.2f} s, its tokens need {need}")
    for split in texts:
        if poor[split] > texts[split] / 2:
            found = f"{poor[split]} of {texts[split]} texts hold what the {tokenizer.kind} tokens do not cover"
            yield Finding("wrong-tokens", split, "", "", found)


def encoder_frames(seconds: float, subsampling: int) -> int:
    """Frames that leave the encoder, at 100 feature frames a second.

    By 4 and 6: two unpadded convolutions, as in nn/subsampling (which this must not import: it loads torch).
    """
    frames = int(seconds * 100 + 0.5)
    kernels = {4: ((3, 2), (3, 2)), 6: ((3, 2), (5, 3))}
    if subsampling not in kernels:
        return -(-frames // subsampling)
    for kernel, stride in kernels[subsampling]:
        frames = (frames - kernel) // stride + 1
    return max(frames, 0)


def of_copies(seen: Iterable[Seen]) -> Iterator[Finding]:
    """Ids and audio that occur more than once; within one recording, segments that overlap across splits."""
    ids: dict[str, Seen] = {}
    for s in (seen := list(seen)):
        first = ids.setdefault(s.utterance.utt_id, s)
        if first is not s:
            kind = "doubled-id" if first.split == s.split else "shared-id"
            yield s.finding(kind, f"the id is also that of {Path(first.utterance.audio).name} in {first.split}")
    copies = defaultdict(list)
    for s in seen:
        if s.audio.digest:
            copies[s.audio.digest].append(s)
    for same in copies.values():
        for s in same[1:]:
            yield from _copy(same, s)
        texts = [normalization.plain(s.utterance.text) for s in same]
        if len(set(texts)) > 1:
            for s, text in zip(same, texts, strict=True):
                other = same[next(i for i, another in enumerate(texts) if another != text)].utterance
                found = f"{quoted(s.utterance.text)}; the same audio is {other.utt_id}: {quoted(other.text)}"
                yield s.finding("two-texts", found)
    yield from _overlaps(seen)


def _copy(same: list[Seen], s: Seen) -> Iterator[Finding]:
    first = next((o for o in same if o.split != s.split), same[0])
    where = f"{first.utterance.utt_id} in {first.split}"
    if first.split != s.split:
        yield s.finding("audio-leak", f"the same audio is {where}")
    elif (
        normalization.plain(first.utterance.text) == normalization.plain(s.utterance.text)
        and first.utterance.utt_id != s.utterance.utt_id
    ):
        yield s.finding("doubled-audio", f"the same audio and text are {where}")


def _overlaps(seen: Iterable[Seen]) -> Iterator[Finding]:
    """Segments of one channel that share more than a rounded end with one of another split, found by its audio."""
    files = {audio: os.path.realpath(audio) for audio in {s.utterance.audio for s in seen}}
    recordings = defaultdict(list)
    for s in seen:
        if s.audio.digest:
            recordings[files[s.utterance.audio], s.utterance.offset, s.utterance.channel].append(s)
    for segments in recordings.values():
        segments.sort(key=lambda s: s.utterance.start)
        latest: dict[str, Seen] = {}  # of each split, the segment that ends last
        for s in segments:
            for other in latest.values():
                common = min(_end(other), _end(s)) - s.utterance.start
                if other.split != s.split and common > OVERLAP and other.audio.digest != s.audio.digest:
                    yield s.finding(
                        "audio-leak", f"shares {common:.2f} s with {other.utterance.utt_id} in {other.split}"
                    )
                    break
            if s.split not in latest or _end(s) > _end(latest[s.split]):
                latest[s.split] = s


def _end(s: Seen) -> float:
    """Where it ends, in seconds of the recording."""
    return s.utterance.start + s.audio.seconds


def of_speakers(seen: Iterable[Seen]) -> Iterator[Finding]:
    """Speakers of a training split that are also in a test split (a leak) or in dev (a note)."""
    heard: dict[str, Counter[str]] = defaultdict(Counter)
    for s in seen:
        if s.utterance.speaker:
            heard[s.split][unicodedata.normalize("NFC", s.utterance.speaker)] += 1
    trained = Counter({speaker: 0 for split in heard if is_train(split) for speaker in heard[split]})
    for split in heard:
        common = [speaker for speaker in heard[split] if speaker in trained]
        if not is_train(split) and common:
            shown = ", ".join(common[:5]) + (", ..." if len(common) > 5 else "")
            share = sum(heard[split][speaker] for speaker in common) / heard[split].total()
            kind = "shared-speakers" if is_dev(split) else "speaker-leak"
            found = f"{len(common)} of {len(heard[split])} speakers are in train too, with {share:.0%} of it: {shown}"
            yield Finding(kind, split, "", "", found)


def of_folders(utterances: Iterable[Utterance]) -> Iterator[Finding]:
    """Audio files that lie among those of the corpus and that no transcript names."""
    named = {u.audio for u in utterances}
    suffixes = {Path(audio).suffix.lower() for audio in named} - {""}
    for folder in sorted({os.path.dirname(audio) for audio in named}):
        listed = os.listdir(folder) if os.path.isdir(folder) and os.access(folder, os.R_OK) else []
        for path in sorted(listed):
            audio = os.path.join(folder, path)
            if audio not in named and Path(path).suffix.lower() in suffixes:
                yield Finding("no-transcript", "", "", audio, "no transcript names it")


def drops(finding: Finding, effects: dict[str, str]) -> bool:
    """Whether its utterance stays out of the manifest; `effects` is what each kind does in this run."""
    effect = effects[finding.kind]
    return effect == "drop" or (effect == "drop-train" and is_train(finding.split))


def is_train(split: str) -> bool:
    """train, train-clean-100, train_nodev; but ESPnet's train_dev is for validation."""
    return split.startswith("train") and not is_dev(split)


def is_dev(split: str) -> bool:
    return not {"dev", "valid", "cv"}.isdisjoint(re.split(r"[-_.]", split))
