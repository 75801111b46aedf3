"""AN4 (CMU, 1991): 948 + 130 spelled and spoken items of census data, 16 kHz, under an hour. ESPnet's split."""

from __future__ import annotations

import re
from pathlib import Path

from asrtts.corpora._layout import locate, read_lines
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

HOMEPAGE = "http://www.speech.cs.cmu.edu/databases/an4/"

# ESPnet takes the first 100 training utterances, sorted in C order by ids of the form speaker-item-microphone.
# They end at a speaker's last utterance, so no dev speaker is in train (8 speakers dev, 66 train).
DEV_UTTERANCES = 100

FOLDERS = {"train": "an4_clstk", "test": "an4test_clstk"}
_LINE = re.compile(r"^(?:<s> )?(?P<text>.*?)(?: </s>)? \((?P<item>[^()-]+)-(?P<speaker>[^()-]+)-(?P<mic>[^()-]+)\)$")


def utterances(root: Path) -> dict[str, list[Utterance]]:
    """Train (848), dev (100) and test (130), below `root`, `root/an4` or `root/an4/an4`.

    Raises:
        UserError: the corpus is not there or a transcript line has another form.
    """
    tree = locate(root, "an4", ["", "an4"], "etc/an4_train.transcription", "an4_sphere.tar.gz")
    train, test = _read(tree, "train"), _read(tree, "test")
    return {"train": train[DEV_UTTERANCES:], "dev": train[:DEV_UTTERANCES], "test": test}


def _read(tree: Path, part: str) -> list[Utterance]:
    """One transcription file, sorted by utterance id."""
    path = tree / "etc" / f"an4_{part}.transcription"
    found = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        match = _LINE.match(line.strip())
        if match is None:
            raise UserError(f"{path}:{number}: wanted `WORDS (item-speaker-b)`, found {line.strip()[:60]!r}")
        text, item, speaker, mic = match["text"], match["item"], match["speaker"], match["mic"]
        audio = tree / "wav" / FOLDERS[part] / speaker / f"{item}-{speaker}-{mic}.sph"
        found.append(Utterance(f"{speaker}-{item}-{mic}", str(audio), text, speaker))
    return sorted(found, key=lambda u: u.utt_id.encode())
