"""How long `asrtts compare` takes for many systems on a large test set, and how much memory: invented decode outputs.

    python benchmarks/compare_many.py --systems 10 --utterances 10000

Prints the seconds of the clock and of the processor, and the largest resident memory (Linux) of the verb.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from asrtts import config
from asrtts.experiment import settings as experiment_settings

TOP = Path(__file__).resolve().parents[1]


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--systems", type=int, default=10)
    args.add_argument("--utterances", type=int, default=10000)
    args.add_argument("--words", type=int, default=18, help="mean of an utterance; LibriSpeech's test sets have 20")
    options = args.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        exps = invent(Path(folder), options.systems, options.utterances, options.words)
        began = time.monotonic()
        command = [sys.executable, "-m", "asrtts", "compare", *exps, "--test", "test"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = f"{seconds:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of a processor"
    print(f"{options.systems} systems, {options.utterances} utterances: {took}, {used.ru_maxrss / 1024:.0f} MB")


def invent(folder: Path, systems: int, utterances: int, words: int) -> list[str]:
    """A recipe's folder with decoded runs; word error rates from 3 to 20 percent."""
    rng = random.Random(1)
    lexicon = ["".join(rng.choice("etaoinshrdlu") for _ in range(rng.randint(1, 9))) for _ in range(2000)]
    texts = {f"u{n}": [rng.choice(lexicon) for _ in range(rng.randint(2, 2 * words - 2))] for n in range(utterances)}
    (folder / "data").mkdir()
    records = [
        {"utt_id": u, "audio": "a.wav", "text": " ".join(text), "speaker": f"s{n % 50}"}
        for n, (u, text) in enumerate(texts.items())
    ]
    write(folder / "data/test.jsonl", records)
    for number in range(systems):
        exp = folder / f"exp/system{number}"
        (exp / "decode").mkdir(parents=True)
        weight = 1 + number / 10  # another system, not another seed
        settings = experiment_settings.load(TOP / "egs/mini/asr/conf/ctc.yaml", [f"heads.ctc.weight={weight}"])
        config.dump(settings, exp / "config.yaml")
        (exp / "run.json").write_text("{}")
        rate = 0.03 + 0.17 * number / max(1, systems - 1)
        hyps = ({"utt_id": u, "hyp": " ".join(misheard(text, rate, lexicon, rng))} for u, text in texts.items())
        write(exp / "decode/test.jsonl", hyps)
    return [f"exp/system{number}" for number in range(systems)]


def misheard(text: list[str], rate: float, lexicon: list[str], rng: random.Random) -> list[str]:
    found = []
    for word in text:
        draw = rng.random() / rate
        found += [word[:-1] + rng.choice("aeiou")] if draw < 0.6 else [] if draw < 0.8 else [word]
        found += [rng.choice(lexicon)] if 0.8 <= draw < 1 else []
    return found


def write(path: Path, records: object) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
    main()
