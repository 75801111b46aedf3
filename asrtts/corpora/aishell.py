"""AISHELL-1 (OpenSLR 33): Mandarin, 400 speakers, 178 hours, 16 kHz; wav as published, or flac."""

from __future__ import annotations

from pathlib import Path

from asrtts.config import warn
from asrtts.data.corpus_layout import find, missing, read_lines, recordings
from asrtts.data.fetching import Archive
from asrtts.data.obtaining import obtain, openslr
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

HOMEPAGE = "https://www.openslr.org/33/"
ARCHIVE = Archive(
    "data_aishell.tgz", openslr(33), ("md5:2f494334227864a8a8fec932999db9d8",), size=15582913665, unpacked=2.4
)
_TRANSCRIPT = "transcript/aishell_transcript_v0.8.txt"


def download(root: Path, *, source: Path | None = None, trust: str = "") -> Path:
    """Get the corpus (15.6 GB packed) into `root/aishell`, or use `source`; returns where it lies."""
    return obtain(
        root,
        "aishell",
        {"aishell": ARCHIVE},
        lambda folder, part: _find(folder),
        source=source,
        trust=trust,
        inner="data_aishell/wav/*.tar.gz",  # one archive for each speaker
    )


def utterances(root: Path) -> dict[str, list[Utterance]]:
    """Train (120098), dev (14326) and test (7176) of the whole corpus; the text without spaces, as CER wants it.

    A few hundred recordings have no transcript: they are left out, with a count. Every transcript has its recording.

    Raises:
        UserError: the corpus is not there, or a transcript line is no `id text`, or comes twice.
    """
    tree = _find(root) or missing(root, "aishell", f"data_aishell/{_TRANSCRIPT}", [ARCHIVE])
    texts = _read_texts(tree / _TRANSCRIPT)
    splits = {split: _read(tree / "wav" / split, texts) for split in ("train", "dev", "test")}
    if not any(splits.values()):
        packed = next((tree / "wav").glob("*.tar.gz"), None)
        state = "the speakers are still packed (tar xzf each wav/*.tar.gz)" if packed else "it holds no wav or flac"
        raise UserError(f"{tree / 'wav'}: no train/<speaker>/*.wav; {state}")
    if unheard := sorted(texts.keys() - {u.utt_id for found in splits.values() for u in found}):
        warn(
            f"{tree / 'wav'}: {len(unheard)} of {len(texts)} transcripts have no recording, e.g. {unheard[0]}; "
            "the corpus is not complete"
        )
    return {split: found for split, found in splits.items() if found}


def _find(root: Path) -> Path | None:
    return find(root, "aishell", ["data_aishell", ""], _TRANSCRIPT)


def _read_texts(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in read_lines(path):
        utt_id, *words = line.split()
        if not words:
            raise UserError(f"{path}:{number}: wanted `id text`, found {line!r}")
        if utt_id in texts:
            raise UserError(f"{path}:{number}: {utt_id} has a transcript already, on an earlier line; take one out")
        texts[utt_id] = "".join(words)
    return texts


def _read(folder: Path, texts: dict[str, str]) -> list[Utterance]:
    """One split: a folder for each speaker."""
    audio = recordings(folder, "*/*")
    silent = sorted(audio.keys() - texts.keys())
    if silent:
        warn(f"{folder}: {len(silent)} recordings without transcript are left out, e.g. {silent[0]}")
    return [Utterance(i, str(audio[i]), texts[i], audio[i].parent.name) for i in sorted(audio.keys() & texts.keys())]
