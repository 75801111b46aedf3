"""yesno (OpenSLR 1): one man says eight times "yes" or "no" in Hebrew; 60 files of 8 kHz, named by what they say."""

from __future__ import annotations

import re
from pathlib import Path

from asrtts.data.corpus_layout import find, missing
from asrtts.data.fetching import Archive
from asrtts.data.obtaining import obtain, openslr
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

HOMEPAGE = "https://www.openslr.org/1/"
ARCHIVE = Archive(
    "waves_yesno.tar.gz",
    openslr(1),
    (  # packed twice with the same files
        "sha256:c3f49e0cca421f96b75b41640749167b52118f232498667ca7a5f9416aef8e73",
        "sha256:30301975fd8c5cac4040c261c0852f57cfa8adbbad2ce78e77e4986957445f27",
    ),
)

_WORDS = {"0": "NO", "1": "YES"}
_NAME = re.compile(r"[01](_[01]){7}")


def download(root: Path, *, source: Path | None = None, trust: str = "") -> Path:
    """Get the corpus (5 MB) into `root/yesno`, or use `source`; returns where it lies."""
    return obtain(root, "yesno", {"yesno": ARCHIVE}, lambda folder, part: _find(folder), source=source, trust=trust)


def utterances(root: Path) -> dict[str, list[Utterance]]:
    """Train (25), dev (5) and test (30), below `root`, `root/waves_yesno` or `root/yesno/waves_yesno`.

    Of the sorted files every second one is test, as in icefall, whose score is the reference here. Kaldi cuts in the
    middle, so that all its training files begin with a no. Neither has a dev set: ours is every sixth of the rest.

    Raises:
        UserError: the corpus is not there, or a file name is not eight times 0 or 1.
    """
    tree = _find(root) or missing(root, "yesno", "waves_yesno/[01]_*.wav", [ARCHIVE])
    found = []
    for path in sorted(tree.glob("[!.]*.wav")):
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


def _find(root: Path) -> Path | None:
    return find(root, "yesno", ["waves_yesno", ""], "[01]_*.wav")
