"""fbank against kaldi-native-fbank and torchaudio's compliance layer, and the whole way from FLAC to features.

64 utterances of noise, as long as those of AISHELL. kaldi-native-fbank is given arrays and asked frame by frame, which
is the only way it has in Python; both sides end with one array an utterance.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from _common import Row, interleaved, main, peer, ratio, version

from asrtts.data import audio, features
from asrtts.data.utterance import Utterance

CONFIG = features.Config()
REAL_TIME = 1500  # times real time that a core is to reach from FLAC on


def rows(repeat: int = 5) -> Iterator[Row]:
    waves = utterances(64)
    seconds = sum(map(len, waves)) / CONFIG.sample_rate
    case = f"{len(waves)} utterances, {seconds:.0f} s, 80 bins"
    peers = {"kaldi-native-fbank": (kaldi, "kaldi_native_fbank", 1 / 8), "torchaudio": (torchaudio, "torchaudio", None)}
    for name, (way, module, goal) in peers.items():
        ways = {"ours": lambda: features.fbank(CONFIG, waves)}
        if peer(module) is not None:
            ways["theirs"] = lambda way=way: [way(wave) for wave in waves]
        times = {key: np.array(values) for key, values in interleaved(ways, repeat).items()}
        ours = float(np.median(times["ours"]))
        if "theirs" not in ways:
            yield Row("fbank", case, ours, name, goal=goal, note=f"{seconds / ours:,.0f} x real time")
            continue
        mine, others = features.fbank(CONFIG, waves)[0], [way(wave) for wave in waves]
        apart = max(float(np.abs(m[: len(o)].numpy() - o).max()) for m, o in zip(mine, others, strict=True))
        note = f"{seconds / ours:,.0f} x real time; {apart:.1e} apart in log"
        theirs = float(np.median(times["theirs"]))
        yield Row("fbank", case, ours, version(name), theirs, ratio(times, "ours", "theirs"), goal, note=note)
    yield whole_way(waves, seconds, repeat)


def whole_way(waves: list[np.ndarray], seconds: float, repeat: int) -> Row:
    """From FLAC files to features; the goal is a speed, so that the "peer" is real time at that speed."""
    with tempfile.TemporaryDirectory() as folder:
        listed = []
        for number, wave in enumerate(waves):
            path = Path(folder) / f"{number}.flac"
            soundfile.write(path, wave, CONFIG.sample_rate)
            listed.append(Utterance(str(number), str(path), "", seconds=len(wave) / CONFIG.sample_rate))
        ways = {"ours": lambda: features.fbank(CONFIG, [audio.read(u, CONFIG.sample_rate) for u in listed])}
        ours = float(np.median(interleaved(ways, repeat)["ours"]))
    wanted = seconds / REAL_TIME
    note = f"{seconds / ours:,.0f} x real time; noise, which FLAC packs and unpacks worst"
    case = f"{len(waves)} files, {seconds:.0f} s"
    return Row("FLAC to fbank", case, ours, f"{REAL_TIME:,} x real time", wanted, ours / wanted, 1.0, note=note)


def utterances(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(4.5) - 0.3**2 / 2, 0.3, count)
    return [(0.1 * rng.standard_normal(int(16000 * length))).astype(np.float32) for length in lengths]


def kaldi(wave: np.ndarray) -> np.ndarray:
    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    options.frame_opts.dither, options.frame_opts.snip_edges, options.mel_opts.num_bins = 0.0, False, 80
    theirs = knf.OnlineFbank(options)
    theirs.accept_waveform(16000, wave * 32768)
    theirs.input_finished()
    return np.array([theirs.get_frame(i) for i in range(theirs.num_frames_ready)])


def torchaudio(wave: np.ndarray) -> np.ndarray:
    from torchaudio.compliance import kaldi as compliance

    samples = torch.from_numpy(wave * np.float32(32768))[None]
    return compliance.fbank(samples, num_mel_bins=80, dither=0.0, snip_edges=False, energy_floor=0.0).numpy()


if __name__ == "__main__":
    main(__doc__, rows)
