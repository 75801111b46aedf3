"""yesno (OpenSLR 1): one man says eight times "yes" or "no" in Hebrew; 60 files of 8 kHz, named by what they say."""

from __future__ import annotations

import re
from pathlib import Path

from asrtts.corpora._layout import locate
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

HOMEPAGE = "https://www.openslr.org/1/"

_WORDS = {"0": "NO", "1": "YES"}
_NAME = re.compile(r"[01](_[01]){7}")


def utterances(root: Path) -> dict[str, list[Utterance]]:
    """Train (25), dev (5) and test (30), below `root`, `root/waves_yesno` or `root/yesno/waves_yesno`.

    Of the sorted files every second one is test, as in icefall, whose score is the reference here (Kaldi cuts in the
    middle instead: there all files that begin with two yes-es are test). Neither has a dev set: every sixth of the
    other half is ours.

    Raises:
        UserError: the corpus is not there, or a file name is not eight times 0 or 1.
    """
    tree = locate(root, "yesno", ["waves_yesno", ""], "[01]_*.wav", "waves_yesno.tar.gz")
    found = []
    for path in sorted(tree.glob("*.wav")):
        if not _NAME.fullmatch(path.stem):
            raise UserError(f"{path}: wanted a name of eight 0 or 1, such as 0_1_1_0_0_1_0_1.wav; move the file away")
        text = " ".join(_WORDS[digit] for digit in path.stem.split("_"))
        found.append(Utterance(path.stem, str(path), text, "man"))
    training = found[::2]
    return {
        "train": [u for i, u in enumerate(training) if i % 6 != 3],
        "dev": training[3::6],
        "test": found[1::2],
    }
