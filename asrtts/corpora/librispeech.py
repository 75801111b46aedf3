"""LibriSpeech (OpenSLR 12): English audio books, 16 kHz, 1000 hours in seven subsets; any of them may be absent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asrtts.config import warn
from asrtts.data.corpus_layout import find, missing, read_lines, recordings, with_dev
from asrtts.data.fetching import Archive
from asrtts.data.obtaining import obtain, openslr
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError, suggestion

HOMEPAGE = "https://www.openslr.org/12/"
_PUBLISHED = {  # subset: (bytes, sha256)
    "train-clean-100": (6387309499, "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"),
    "train-clean-360": (23049477885, "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"),
    "train-other-500": (30593501606, "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"),
    "dev-clean": (337926286, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"),
    "dev-other": (314305928, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"),
    "test-clean": (346663984, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"),
    "test-other": (328757843, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"),
}
ARCHIVES = {
    subset: Archive(f"{subset}.tar.gz", openslr(12), (f"sha256:{sha}",), size, unpacked=1.05)
    for subset, (size, sha) in _PUBLISHED.items()
}
SMALL = ("train-clean-100", "dev-clean", "dev-other", "test-clean", "test-other")


def download(root: Path, *, source: Path | None = None, subset: Sequence[str] = (), trust: str = "") -> Path:
    """Get subsets into `root/librispeech` (default: the 100 hours, dev and test; 8 GB), or use those in `source`."""
    for name in subset:
        if name not in ARCHIVES:
            raise UserError(f"librispeech has no subset '{name}'{suggestion(name, ARCHIVES)}")
    parts = {name: ARCHIVES[name] for name in subset or SMALL}
    return obtain(root, "librispeech", parts, _find, source=source, trust=trust, every=bool(subset))


def utterances(root: Path) -> dict[str, list[Utterance]]:
    """The subsets present: all train-* together as train, all dev-* as dev, and every test-* by its own name.

    A part of the corpus without dev subset still gives a dev split, of training utterances (and says so).

    Raises:
        UserError: no subset is there, or a transcript line has another form.
    """
    tree = _find(root, "*-*") or missing(root, "librispeech", "LibriSpeech/train-*", ARCHIVES.values())
    splits: dict[str, list[Utterance]] = {}
    subsets = sorted(path for path in tree.iterdir() if path.name in ARCHIVES)
    if not subsets:
        raise UserError(f"{tree}: none of its folders is named as a subset (choices: {', '.join(ARCHIVES)})")
    for subset in subsets:
        split = subset.name if subset.name.startswith("test-") else subset.name.partition("-")[0]
        splits.setdefault(split, []).extend(_read(subset))
    splits = with_dev(splits, tree)
    order = ("train", "dev", "test-clean", "test-other")
    return {split: splits[split] for split in order if split in splits}


def _find(root: Path, subset: str) -> Path | None:
    return find(root, "librispeech", ["LibriSpeech", ""], f"{subset}/[0-9]*/[0-9]*/*.trans.txt")


def _read(subset: Path) -> list[Utterance]:
    """<speaker>/<chapter>/<speaker>-<chapter>.trans.txt has the lines of the audio files beside it."""
    found, unheard = [], []
    for chapter in sorted(subset.glob("[0-9]*/[0-9]*")):
        audio, named = recordings(chapter), set()
        for transcript in sorted(chapter.glob("[0-9]*.trans.txt")):
            for number, line in read_lines(transcript):
                utt_id, *text = line.split(maxsplit=1)
                if not utt_id.startswith(f"{chapter.parent.name}-{chapter.name}-") or not text:
                    raise UserError(f"{transcript}:{number}: wanted `speaker-chapter-number TEXT`, found {line[:60]!r}")
                path = audio.get(utt_id, chapter / f"{utt_id}.flac")
                found.append(Utterance(utt_id, str(path), text[0], chapter.parent.name))
                named.add(utt_id)
        unheard += sorted(audio.keys() - named)
    if unheard:
        warn(f"{subset}: {len(unheard)} audio files without transcript are left out, e.g. {unheard[0]}")
    return found
