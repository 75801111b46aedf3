"""Fixtures that several tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Tests share two cores with each other: many small tensors gain nothing from more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora, from ASRTTS_CORPORA or beside the checkout; the test skips where there is none.

    In continuous integration a missing folder skips too, but a folder that exists and is not used is a failure.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ["ASRTTS_CORPORA"]) if os.environ.get("ASRTTS_CORPORA") else beside
    if not root.is_dir():
        pytest.skip(f"no real corpora: set ASRTTS_CORPORA (looked for {root.name})")
    return root


class Verbs:
    """Verbs in processes of their own, which begin at the same moment."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def ready(self, verb: str, argv: list[str]) -> subprocess.Popen[str]:
        """A process that has loaded a verb and waits to begin."""
        code = (
            f"import sys; from asrtts.bin import {verb} as verb; from asrtts.registry import UserError\n"
            "print('ready', flush=True); sys.stdin.readline()\n"
            "try: verb.main(sys.argv[1:])\n"
            "except UserError as error: sys.exit(f'refused: {error}')"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.started.append(subprocess.Popen([sys.executable, "-c", code, *argv], text=True, **pipes))
        return self.started[-1]

    def begin(self, *processes: subprocess.Popen[str]) -> None:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def at_once(self, verb: str, *argvs: list[str]) -> list[tuple[int, str]]:
        """Run a verb once for each list of arguments, all within a millisecond; (exit status, what it said)."""
        processes = [self.ready(verb, argv) for argv in argvs]
        self.begin(*processes)
        said = [process.communicate(timeout=60) for process in processes]
        return [(process.returncode, out + error) for process, (out, error) in zip(processes, said, strict=True)]


@pytest.fixture
def verbs() -> Iterator[Verbs]:
    running = Verbs()
    yield running
    for process in running.started:
        if process.poll() is None:
            process.kill()
            process.communicate()


LETTERS = "ABCDE"  # a tone of its own each


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe's folder with a tiny corpus: words of letters, each letter a tone of its own pitch.

    data/{train,dev,test}.jsonl, data/tokens, and conf/{ctc,transducer,attention,hybrid}.yaml for an encoder so small
    that an update takes milliseconds. Tests may read it; they train into folders of their own.
    """
    import numpy as np
    import soundfile
    import yaml

    from asrtts.data import manifest
    from asrtts.data.utterance import Utterance
    from asrtts.text import tokenizer

    root, rate, rng = tmp_path_factory.mktemp("tones"), 8000, np.random.default_rng(0)
    (root / "wav").mkdir()
    time = np.arange(round(0.16 * rate)) / rate
    texts: dict[str, list[str]] = {}
    for split, count in (("train", 12), ("dev", 3), ("test", 4)):
        texts[split] = ["".join(rng.choice(list(LETTERS), rng.integers(3, 6))) for _ in range(count)]
        utterances = []
        for number, text in enumerate(texts[split]):
            waves = [0.3 * np.sin(2 * np.pi * 400 * (1 + LETTERS.index(letter)) * time) for letter in text]
            wave = np.concatenate(waves) + 0.001 * rng.standard_normal(len(waves) * len(time))
            path = root / "wav" / f"{split}-{number}.wav"
            soundfile.write(path, wave, rate)
            seconds = len(wave) / rate
            speaker = f"s{number % 2}"
            utterances.append(
                Utterance(f"{split}-{number}", str(path), text, speaker=speaker, seconds=seconds, sample_rate=rate)
            )
        manifest.write(root / "data" / f"{split}.jsonl", utterances)
    tokenizer.make(texts["train"], "char").save(root / "data" / "tokens")

    shared = {
        "data": {"train": str(root / "data/train"), "dev": str(root / "data/dev"), "tokens": str(root / "data/tokens")},
        "features": {"sample_rate": rate, "num_bins": 20},
        "augmentation": {
            "speed": [0.95, 1.0, 1.05],
            "spec_augment": {"time_mask_frames": 5, "freq_mask_bins": 4},
        },
        "encoder": {"name": "conformer", "dim": 16, "layers": 1, "attention_heads": 2, "feedforward": 32, "kernel": 5},
        "batching": {"seconds": 2.5},
        "training": {
            **{"updates": 12, "validate_every": 4, "log_every": 1, "tensorboard": False, "threads": 1, "workers": 0},
            **{"precision": "float32", "optimizer": {"lr": 1e-3, "warmup_updates": 4}},
        },
    }
    decoder = {"layers": 1, "attention_heads": 2, "feedforward": 32}
    heads = {
        "ctc": {"ctc": 1.0},
        "transducer": {"transducer": {"predictor_dim": 16, "joiner_dim": 16}},
        "attention": {"attention": decoder},
        "hybrid": {"ctc": 0.3, "attention": {"weight": 0.7, **decoder}},
    }
    (root / "conf").mkdir()
    for name, head in heads.items():
        (root / "conf" / f"{name}.yaml").write_text(yaml.safe_dump({**shared, "heads": head}, sort_keys=False))
    return root


@pytest.fixture(scope="session")
def trained(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a run of conf/<head>.yaml on `tones`, trained once and averaged; tests may only read it."""
    from asrtts.bin import average, train

    folder, done = tmp_path_factory.mktemp("trained"), set()

    def run(head: str) -> Path:
        if head not in done:
            train.main([str(tones / f"conf/{head}.yaml"), str(folder / head)])
            average.main([str(folder / head)])
            done.add(head)
        return folder / head

    return run
