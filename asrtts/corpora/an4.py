"""AN4 (CMU, 1991): 948 + 130 spelled and spoken items of census data, 16 kHz, under an hour. ESPnet's split."""

from __future__ import annotations

import re
from pathlib import Path

from asrtts.data.corpus_layout import find, missing, read_lines
from asrtts.data.fetching import Archive
from asrtts.data.obtaining import obtain
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

HOMEPAGE = "http://www.speech.cs.cmu.edu/databases/an4/"
ARCHIVE = Archive(
    "an4_sphere.tar.gz",
    (
        HOMEPAGE,  # often away since 2021; the two below are NeMo's and ESPnet's copies
        "https://dldata-public.s3.us-east-2.amazonaws.com/",
        "https://huggingface.co/datasets/espnet/an4/resolve/main/",
    ),
    # Of NeMo's copy; CMU publishes none. Should another copy be packed otherwise, --trust accepts it.
    ("sha256:a0525579493735d32b60fb6fa5975dd0eaacde087b0a4eeb7f13b7ef33077b12",),
    unpacked=1.6,
)

# ESPnet takes the first 100 training utterances, sorted in C order by ids of the form speaker-item-microphone.
# They end at a speaker's last utterance, so no dev speaker is in train (8 speakers dev, 66 train).
DEV_UTTERANCES = 100

FOLDERS = {"train": "an4_clstk", "test": "an4test_clstk"}
_LINE = re.compile(r"^(?:<s> )?(?P<text>.*?)(?: </s>)? \((?P<item>[^()-]+)-(?P<speaker>[^()-]+)-(?P<mic>[^()-]+)\)$")


def download(root: Path, *, source: Path | None = None, trust: str = "") -> Path:
    """Get the corpus (64 MB) into `root/an4`, or use `source`; returns where it lies."""
    return obtain(root, "an4", {"an4": ARCHIVE}, lambda folder, part: _find(folder), source=source, trust=trust)


def utterances(root: Path) -> dict[str, list[Utterance]]:
    """Train (848), dev (100) and test (130), below `root`, `root/an4` or `root/an4/an4`.

    Raises:
        UserError: the corpus is not there or a transcript line has another form.
    """
    tree = _find(root) or missing(root, "an4", "an4/etc/an4_train.transcription", [ARCHIVE])
    train, test = _read(tree, "train"), _read(tree, "test")
    return {"train": train[DEV_UTTERANCES:], "dev": train[:DEV_UTTERANCES], "test": test}


def _find(root: Path) -> Path | None:
    return find(root, "an4", ["", "an4"], "etc/an4_train.transcription")


def _read(tree: Path, part: str) -> list[Utterance]:
    """One transcription file, sorted by utterance id."""
    path = tree / "etc" / f"an4_{part}.transcription"
    found = []
    for number, line in read_lines(path):
        match = _LINE.match(line)
        if match is None:
            raise UserError(f"{path}:{number}: wanted `WORDS (item-speaker-b)`, found {line[:60]!r}")
        text, item, speaker, mic = match["text"], match["item"], match["speaker"], match["mic"]
        audio = tree / "wav" / FOLDERS[part] / speaker / f"{item}-{speaker}-{mic}.sph"
        found.append(Utterance(f"{speaker}-{item}-{mic}", str(audio), text, speaker))
    return sorted(found, key=lambda u: u.utt_id.encode())
