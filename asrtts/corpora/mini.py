"""mini: household commands of 25 words, spoken by espeak-ng; 600 utterances made here in seconds, none recorded."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from asrtts import storage
from asrtts.data import audio
from asrtts.data.utterance import Utterance
from asrtts.data.worker import end_with_parent
from asrtts.registry import UserError, suggestion
from asrtts.storage import parse_json
from asrtts.text import espeak

SAMPLE_RATE = 16000
WAV_HEADER = 44  # bytes, before samples of 2 bytes
SEED = 1
VERSION = 1  # of what is spoken and how: another number makes the corpus anew
TABLE = "mini.json"  # written last, into a folder that is renamed last

# A grammar maps a name to its choices; {name} in a choice is one of that name's, drawn at random.
# Two digits, and twice as likely, so that every digit is heard often and no sentence is guessed from its beginning.
GRAMMARS = {
    "en": {
        "sentence": ["{command}", "{command}", "{command} please"],
        "command": [
            "turn the {thing} {state}",
            "turn the {room} {thing} {state}",
            "set the {level} to {digit}",
            "set the {level} to {digit} {digit}",
            "set the {level} to {digit} {digit}",
            "{move} the {entry}",
            "{move} the {room} {entry}",
        ],
        "thing": ["light", "radio"],
        "level": ["light", "radio", "volume"],
        "state": ["on", "off"],
        "move": ["open", "close"],
        "entry": ["door", "window"],
        "room": ["kitchen", "bedroom"],
        "digit": ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    },
    "zh": {
        "sentence": ["{command}", "{command}", "请{command}"],
        "command": ["{move}{thing}", "{move}{room}的{thing}", "把{level}调到{digit}{digit}"],
        "thing": ["灯", "门", "窗户"],
        "level": ["音量", "灯"],
        "move": ["打开", "关上"],
        "room": ["厨房", "卧室"],
        "digit": list("一二三四五六七八九"),
    },
}
ACCENTS = {"en": ("en-us", "en-gb"), "zh": ("cmn", "cmn")}

# Variants are espeak-ng's; one that is heard in dev or test is not in train. Every variant speaks each accent.
VARIANTS = {"train": ["f1", "f2", "f4", "m1", "m2", "m3", "m5", "m7"], "dev": ["f3", "m4"], "test": ["f5", "m6"]}
UTTERANCES = {"train": 30, "dev": 15, "test": 15}  # of each speaker

MARGIN = (0.10, 0.25)  # seconds of near silence before and after, drawn for each utterance
PEAK = (-12.0, -3.0)  # dBFS
NOISE = (-65.0, -50.0)  # dBFS RMS, white; a quiet room


@dataclass(frozen=True)
class Speaker:
    """One voice of one split."""

    name: str
    split: str
    voice: str
    pitch: int
    words_per_minute: int
    utterances: int


def download(root: Path, lang: str = "en", jobs: int | None = None) -> Path:
    """Speak the corpus into root/mini (for zh: root/mini-zh); the same samples each time. Returns the folder.

    A killed run, or one whose disk was full, resumes with the speaker where it stopped.

    Raises:
        UserError: an unknown language, espeak-ng is not installed, or the disk is full.
    """
    if lang not in GRAMMARS:
        raise UserError(f"mini is not spoken in '{lang}'{suggestion(lang, GRAMMARS)}")
    goal = Path(root) / ("mini" if lang == "en" else f"mini-{lang}")
    recipe = _recipe(lang)
    if _is_finished(goal, recipe):
        print(f"{goal}: finished before")
        return goal
    if goal.exists() and _recipe_of(goal) is None:
        raise UserError(f"{goal}: in the way and no mini corpus (no {TABLE}); move it")
    espeak.sample_rate()  # here, so that a missing library is one line and not one for each process
    beside = goal.with_name(f".{goal.name}-{recipe}.part")
    try:
        with storage.held(beside):
            if _is_finished(goal, recipe):  # by another process, meanwhile
                print(f"{goal}: finished before")
                return goal
            speakers = _speakers(lang)
            spoken = _speak_all(speakers, lang, beside, jobs or os.cpu_count() or 1)
            table = {"recipe": recipe, "lang": lang, "speakers": [asdict(speaker) for speaker in speakers]}
            table["utterances"] = [utterance for utterances in spoken for utterance in utterances]
            storage.write_json(beside / TABLE, table)
            if not _is_finished(beside, recipe):
                raise UserError(f"{beside}: files are missing that were just written; give the same command again")
            if goal.exists():
                shutil.rmtree(goal)
            os.replace(beside, goal)
    except OSError as error:
        raise storage.storage_error(Path(error.filename or beside), error) from None
    except BrokenProcessPool:
        raise UserError("a process died while speaking (memory?); the same command resumes, or with --jobs 1") from None
    seconds = sum(utterance["seconds"] for utterance in table["utterances"])
    print(f"{goal}: {len(table['utterances'])} utterances of {len(speakers)} voices, {seconds / 60:.0f} minutes")
    return goal


def utterances(root: Path) -> dict[str, list[Utterance]]:
    """Train (480), dev (60) and test (60) of root, root/mini or root/mini-zh.

    Raises:
        UserError: none of them is a finished corpus, or both languages are there and `root` names neither.
    """
    root = Path(root)
    places = [root] if (root / TABLE).is_file() else [p for p in (root / "mini", root / "mini-zh") if p.is_dir()]
    places = [folder for folder in places if (folder / TABLE).is_file()]
    if not places:
        raise UserError(
            f"{root}: no mini corpus here (looked for mini/{TABLE}); make it with `asrtts download mini {root}`"
        )
    if len(places) > 1:
        raise UserError(f"{root}: mini is there in two languages; name one folder: {places[0]} or {places[1]}")
    folder = places[0]
    try:
        table = parse_json((folder / TABLE).read_text(encoding="utf-8"))
        splits = {speaker["name"]: speaker["split"] for speaker in table["speakers"]}
        listed: dict[str, list[Utterance]] = {split: [] for split in UTTERANCES}
        for record in table["utterances"]:
            path = os.path.abspath(folder / "wav" / record["speaker"] / f"{record['utt_id']}.wav")
            listed[splits[record["speaker"]]].append(Utterance(audio=path, **record))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder / TABLE}: damaged; remove {folder} and make it again (stage 0)") from None
    return listed


def _speakers(lang: str) -> list[Speaker]:
    """16 of train, 4 of dev, 4 of test; height and speed of a voice are drawn."""
    random = Random(f"{SEED} {lang}")
    listed = []
    for split, variants in VARIANTS.items():
        for variant in variants:
            for number, accent in enumerate(ACCENTS[lang], 1):
                pitch, speed = random.randrange(30, 71), random.randrange(145, 196)
                voice = f"{accent}+{variant}"
                listed.append(Speaker(f"{variant}-{number}", split, voice, pitch, speed, UTTERANCES[split]))
    return listed


def _sentence(grammar: dict[str, list[str]], random: Random, name: str = "sentence") -> str:
    """A sentence of the grammar, every choice as likely as its neighbours."""
    parts = random.choice(grammar[name]).replace("}", "{").split("{")  # every second part is a name
    return "".join(_sentence(grammar, random, part) if i % 2 else part for i, part in enumerate(parts))


def _speak_all(speakers: list[Speaker], lang: str, folder: Path, jobs: int) -> list[list[dict[str, Any]]]:
    """`_speak` for each speaker, in a process of his own.

    The library carries state from one utterance to the next: so neither the number of processes nor a resumed run
    changes a sample.
    """
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, fresh, end_with_parent, max_tasks_per_child=1) as pool:
        # Processes inherit what is blocked: Ctrl-C then stops this one, and the others end with their speaker
        # instead of each printing a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            spoken = pool.map(_speak, speakers, [lang] * len(speakers), [folder] * len(speakers))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return list(spoken)


def _speak(speaker: Speaker, lang: str, folder: Path) -> list[dict[str, Any]]:
    """One speaker's utterances as wav files below `folder`, and what the manifest wants to know of them."""
    import soundfile

    random = Random(f"{SEED} {lang} {speaker.name}")
    texts = [_sentence(GRAMMARS[lang], random) for _ in range(speaker.utterances)]
    goal = folder / "wav" / speaker.name
    names = [f"{speaker.name}-{number:03}" for number in range(1, len(texts) + 1)]
    if not all((goal / f"{name}.wav").is_file() for name in names):
        shutil.rmtree(goal, ignore_errors=True)
        with storage.staged(folder / speaker.name) as stage:
            for name, text in zip(names, texts, strict=True):
                spoken = espeak.speak(text, speaker.voice, speaker.pitch, speaker.words_per_minute)
                samples = audio.resample(spoken.astype(np.float32) / 32768, espeak.sample_rate(), SAMPLE_RATE)
                file = io.BytesIO()
                soundfile.write(file, _in_a_room(samples, random), SAMPLE_RATE, format="WAV", subtype="PCM_16")
                (stage / f"{name}.wav").write_bytes(file.getvalue())
            goal.parent.mkdir(exist_ok=True)
            os.replace(stage, goal)
    return [
        {
            "utt_id": name,
            "text": text,
            "speaker": speaker.name,
            "seconds": soundfile.info(goal / f"{name}.wav").duration,
            "sample_rate": SAMPLE_RATE,
        }
        for name, text in zip(names, texts, strict=True)
    ]


def _in_a_room(samples: np.ndarray, random: Random) -> np.ndarray:
    """Speech (S,) float32 as int16 with other silence around it, another level, and noise under it."""
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    before, after = (round(random.uniform(*MARGIN) * SAMPLE_RATE) for _ in range(2))
    speech = np.pad(samples[loud[0] : loud[-1] + 1], (before, after))
    speech *= _amplitude(random.uniform(*PEAK)) / np.abs(speech).max()
    # RandomState and not default_rng: its numbers are promised to stay the same in later numpy versions.
    noise = np.random.RandomState(random.getrandbits(32)).standard_normal(len(speech))
    noise *= _amplitude(random.uniform(*NOISE))
    return np.round((speech + noise) * 32767).astype(np.int16)


def _amplitude(dbfs: float) -> float:
    return 10 ** (dbfs / 20)


def _recipe(lang: str) -> str:
    """A hash of all that decides the samples."""
    decides = [VERSION, SEED, SAMPLE_RATE, GRAMMARS[lang], ACCENTS[lang], VARIANTS, UTTERANCES, MARGIN, PEAK, NOISE]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]


def _is_finished(folder: Path, recipe: str) -> bool:
    """Whether a folder holds the corpus of this recipe with every file in its whole length."""
    if _recipe_of(folder) != recipe:
        return False
    try:
        for utterances_of_split in utterances(folder).values():
            for u in utterances_of_split:
                if os.path.getsize(u.audio) != WAV_HEADER + 2 * round(u.seconds * u.sample_rate):
                    return False
    except (OSError, UserError):
        return False
    return True


def _recipe_of(folder: Path) -> str | None:
    """The recipe that a folder was made by; None where there is no mini corpus."""
    try:
        return parse_json((folder / TABLE).read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
