"""Any data folder of Kaldi or ESPnet: wav.scp, text, utt2spk and, for long recordings, segments."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from asrtts.config import warn
from asrtts.data import sound_files
from asrtts.data.audio import stored
from asrtts.data.corpus_layout import read_lines, with_dev
from asrtts.data.diagnosis import is_dev, is_train
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError, quoted, shortened, suggestion
from asrtts.storage import behind_links, lines
from asrtts.text import normalization

HOMEPAGE = "https://kaldi-asr.org/doc/data_prep.html"

OVERSHOOT = 0.5  # seconds that a segment may end behind its recording: extract-segments cuts those and refuses others


@dataclass(frozen=True)
class _Table:
    """A file of `key value` lines."""

    path: Path
    values: dict[str, str]
    lines: dict[str, int]

    def at(self, key: str) -> str:
        return f"{self.path}:{self.lines[key]}"

    def spelled_as(self, keys: Iterable[str]) -> _Table:
        """With keys spelled as these where they differ in the form of Unicode alone, NFC or NFD."""
        own = set(keys)
        composed = {unicodedata.normalize("NFC", key): key for key in own}
        new = {key: composed.get(unicodedata.normalize("NFC", key), key) for key in self.values if key not in own}
        new = {key: other for key, other in new.items() if other != key and other not in self.values}
        if not new:
            return self
        values, lines = ({new.get(k, k): v for k, v in table.items()} for table in (self.values, self.lines))
        return _Table(self.path, values, lines)


def download(root: Path) -> Path:
    """There is nothing to get: the folder is the user's own."""
    raise UserError(f"kaldi is a data folder of your own: give it to `asrtts prepare kaldi DIR data`, not to {root}")


def utterances(
    root: Path,
    *,
    train: Sequence[str] = (),
    dev: Sequence[str] = (),
    test: Sequence[str] = (),
    allow_pipes: bool = False,
    cache: Path = Path("data/audio"),
) -> dict[str, list[Utterance]]:
    """The splits of `root`: of itself if it is a data folder, else of those in it.

    Without names every folder is a split of its own name, but that a folder that stands alone is `train` (unless it is
    called dev, test or eval), and that of ESPnet's train, train_nodev and train_dev the first is the sum of the others,
    which become `train` and `dev`. Where there is no dev, it is taken from the training utterances.

    Args:
        train, dev: names of folders, which together become the split. Where any folder is named, only those are read.
        test: the same, but each is a split; one alone is called `test`, else its own name, made to begin with `test`.
        allow_pipes: run the shell commands in wav.scp ("sph2pipe ... |"), once, and keep what they print in `cache`.
            A data folder from somebody else can then do all that you can.

    Raises:
        UserError: a name is of no folder, or is given twice; a file is missing; a key is doubled or not in the file it
            should be in; an entry is a pipe (without `allow_pipes`) or an offset into an ark; a segment ends behind its
            recording. File and line are named.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name a Kaldi data folder, or the folder of train, dev and test")
    folders = [root] if (root / "wav.scp").is_file() else sorted(path.parent for path in root.glob("*/wav.scp"))
    if not folders:
        raise UserError(f"{root}: no Kaldi data folder (looked for wav.scp in it and in the folders below)")
    there = {os.path.basename(os.path.abspath(folder)): folder for folder in folders}
    named = {"train": train, "dev": dev, "test": test}
    chosen = _named(named, there, root) if any(named.values()) else _usual(list(there))
    splits = {
        split: [u for name in names for u in _read(there[name], allow_pipes, cache)] for split, names in chosen.items()
    }
    return with_dev(splits, root)


def _named(named: dict[str, Sequence[str]], there: dict[str, Path], root: Path) -> dict[str, list[str]]:
    """The folders of each split, as they were named."""
    taken: list[str] = []
    for option, names in named.items():
        for name in names:
            if name not in there:
                raise UserError(f"--{option} {name}: {root} holds no such data folder{suggestion(name, there)}")
            if name in taken:
                raise UserError(f"--{option} {name}: the folder is named twice; a split has its own utterances")
            taken.append(name)
    if left := [name for name in there if name not in taken]:
        warn(f"{root}: left out, as only some were named: {', '.join(left)}")
    chosen = {split: list(named[split]) for split in ("train", "dev") if named[split]}
    for name in named["test"]:
        split = "test" if len(named["test"]) == 1 else name if name.startswith("test") else f"test_{name}"
        if split in chosen:
            raise UserError(f"--test {name}: it and {chosen[split][0]} would both be {split}; prepare them one by one")
        chosen[split] = [name]
    return chosen


def _usual(there: list[str]) -> dict[str, list[str]]:
    """The folders of each split, by what they are called."""
    if len(there) == 1 and not is_train(there[0]):
        kept = is_dev(there[0]) or there[0].startswith(("test", "eval"))
        return {there[0] if kept else "train": there}
    if {"train_nodev", "train_dev"} <= set(there) and "dev" not in there:
        pair = {"train_nodev": "train", "train_dev": "dev"}
        return {pair.get(name, name): [name] for name in there if name != "train"}
    return {name: [name] for name in there}


def _read(folder: Path, allow_pipes: bool, cache: Path) -> list[Utterance]:
    """One data folder, in the order of its text file."""
    if not (folder / "utt2spk").is_file():
        raise UserError(
            f"{folder / 'utt2spk'}: no such file; each of its lines names an utterance and its speaker. Where speakers "
            "are not known, name each utterance's as itself: awk '{print $1, $1}' text > utt2spk"
        )
    text = _table(folder / "text", may_be_empty=True)
    speakers = _table(folder / "utt2spk").spelled_as(text.values)
    recordings, segments = _table(folder / "wav.scp"), None
    if (folder / "segments").is_file():
        segments = _table(folder / "segments").spelled_as(text.values)
        recordings = recordings.spelled_as(line.split()[0] for line in segments.values.values())
    else:
        recordings = recordings.spelled_as(text.values)
    origin = segments or recordings
    for utt_id in text.values:
        if utt_id not in origin.values:
            raise UserError(
                f"{text.at(utt_id)}: utterance {shortened(utt_id)} is not in {origin.path}{_alike(utt_id, origin)}"
            )
        if utt_id not in speakers.values:
            raise UserError(
                f"{text.at(utt_id)}: utterance {shortened(utt_id)} is not in {speakers.path}{_alike(utt_id, speakers)}"
            )
    unwritten = [utt_id for utt_id in origin.values if utt_id not in text.values]
    if unwritten:
        warn(f"{origin.path}: {len(unwritten)} utterances are not in text and left out, e.g. {unwritten[0]}")
    cuts = {utt_id: _cut(segments, utt_id, recordings) for utt_id in text.values} if segments else {}
    wanted = dict.fromkeys(cuts[utt_id][0] if segments else utt_id for utt_id in text.values)
    audio = _audio(recordings, list(wanted), allow_pipes, cache)
    if not segments:
        return [Utterance(i, audio[i], words, speakers.values[i]) for i, words in text.values.items()]
    lengths = {recording: _length(audio[recording], recordings.at(recording)) for recording in wanted}
    cut_out = []
    for utt_id, words in text.values.items():
        recording, start, end, channel = cuts[utt_id]
        length = lengths[recording]
        seconds = round((length if end < 0 else min(end, length)) - start, 6)
        if end - OVERSHOOT >= length or seconds <= 0:  # 0 seconds would be the whole recording
            what = f"ends at {end:g} s" if end >= length else f"begins at {start:g} s and has no length"
            raise UserError(f"{segments.at(utt_id)}: {utt_id} {what}, {recording} lasts {length:.2f} s")
        place = {"start": start, "seconds": seconds, "channel": channel}
        cut_out.append(Utterance(utt_id, audio[recording], words, speakers.values[utt_id], **place))
    return cut_out


def _table(path: Path, may_be_empty: bool = False) -> _Table:
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in read_lines(path):
        key, *rest = line.split(maxsplit=1)
        if not rest and not may_be_empty:
            raise UserError(f"{path}:{number}: {shortened(key)} stands without a value")
        if key in values:
            raise UserError(f"{path}:{number}: {shortened(key)} is here twice, first on line {lines[key]}")
        values[key], lines[key] = rest[0] if rest else "", number
    if not values:
        raise UserError(f"{path}: the file is empty")
    return _Table(path, values, lines)


def _alike(key: str, table: _Table) -> str:
    """The tail of an error line about a key that a table lacks: the key that looks like it, or the way out."""
    same = next((other for other in table.values if _seen(other) == _seen(key)), None)
    if same is None:
        return "; add it there, or take this line out"
    return f", which has {same!a} where this is {key!a}; write both in one form of Unicode (NFKC)"


def _seen(key: str) -> str:
    """What a reader sees of it: without zero-width characters, in plain letters."""
    return unicodedata.normalize("NFKC", normalization.without_invisible(key))


def _cut(segments: _Table, utt_id: str, recordings: _Table) -> tuple[str, float, float, int]:
    """A line of segments: recording, start and end in seconds (-1: the recording's end), and perhaps the channel."""
    fields = segments.values[utt_id].split()
    try:
        recording, start, end = fields[0], float(fields[1]), float(fields[2])
        channel = int(fields[3]) if len(fields) > 3 else 0
    except (IndexError, ValueError):
        wanted = "`utterance recording start end`, times in seconds, and perhaps the channel, a number from 0 on"
        raise UserError(f"{segments.at(utt_id)}: wanted {wanted}") from None
    if channel < 0 or len(fields) > 4:
        found = " ".join(fields[3:])
        raise UserError(
            f"{segments.at(utt_id)}: wanted one channel from 0 on behind the times, found {shortened(found)}"
        )
    if not (start >= 0 and (end > start or end == -1)):  # not a number fails here too
        raise UserError(f"{segments.at(utt_id)}: {utt_id} goes from {start:g} s to {end:g} s")
    if recording not in recordings.values:
        what = f"recording {shortened(recording)} of {shortened(utt_id)}"
        raise UserError(f"{segments.at(utt_id)}: {what} is not in {recordings.path}{_alike(recording, recordings)}")
    return recording, start, end, channel


def _audio(recordings: _Table, wanted: list[str], allow_pipes: bool, cache: Path) -> dict[str, str]:
    """The audio file of each recording. Relative paths start, as in Kaldi, from here, else from the data folder."""
    audio, pipes = {}, {}
    for recording in wanted:
        entry, at = recordings.values[recording], recordings.at(recording)
        if entry.endswith("|"):
            if not allow_pipes:
                raise UserError(
                    f"{at}: the audio of {recording} is a command ({quoted(entry, 200)}); --allow-pipes runs it"
                )
            readable = re.sub(r"[^\w.-]", "_", recording)
            name = f"{readable}-{hashlib.sha256(entry.encode()).hexdigest()[:8]}.wav"
            pipes[recording] = Path(os.path.abspath(cache / name))
            audio[recording] = str(pipes[recording])
        elif re.search(r"\.ark:\d+$", entry):
            raise UserError(f"{at}: the audio of {recording} lies within an ark, which is not read; write wav or flac")
        else:
            places = [place for path in (entry, recordings.path.parent / entry) for place in _spellings(str(path))]
            audio[recording] = os.path.abspath(next(filter(os.path.exists, places), entry))
    if pipes:
        behind_links(cache).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # the commands are processes of their own
            list(pool.map(lambda r: _run(recordings.values[r], pipes[r], recordings.at(r)), pipes))
    return audio


def _spellings(path: str) -> list[str]:
    """The path as it is written, and in both forms of Unicode: through macOS files get another than lists have."""
    return list(dict.fromkeys([path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))]))


def _run(entry: str, goal: Path, at: str) -> None:
    """Keep what a command prints, once: a file that is there is a command that went well."""
    if goal.is_file():
        return
    part = goal.with_suffix(".part")
    with open(part, "wb") as out:
        command = ["bash", "-o", "pipefail", "-c", entry.rstrip().removesuffix("|")]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, check=False)
    if done.returncode or not part.stat().st_size:
        last = [line for line in lines(done.stderr.decode(errors="replace")) if line.strip()][-1:]
        reason = quoted(last[0].strip(), 200) if last else "it printed nothing"
        part.unlink()
        raise UserError(f"{at}: the command failed with status {done.returncode} ({reason}): {quoted(entry, 200)}")
    os.replace(part, goal)


def _length(audio: str, at: str) -> float:
    """Seconds of a recording."""
    import soundfile

    try:
        with sound_files.opened(stored(Utterance("", audio, ""))) as sound:
            return sound.frames / sound.samplerate
    except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
        if not os.path.exists(audio):
            raise UserError(f"{at}: {audio}: no such file; correct the path, or get the file") from None
        raise UserError(f"{at}: {audio} cannot be read ({error})") from None
