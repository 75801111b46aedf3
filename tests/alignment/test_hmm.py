"""The built-in aligner on recordings whose boundaries are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asrtts.alignment.aligners import hmm
from asrtts.alignment.intervals import Alignment, Unaligned
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError
from asrtts.text.phones import Lexicon, spelled_lexicon

RATE = 8000
PITCH = {phone: 300.0 * 1.45**n for n, phone in enumerate("abdeiou")}  # Hz, middle of a band of noise
LEXICON: Lexicon = {
    "abba": [tuple("aba")],
    "dodo": [tuple("dodo")],
    "idea": [tuple("idea"), tuple("ide")],
    "ebb": [tuple("eb")],
    "bout": [tuple("buo")],
}
Spoken = dict[str, list[tuple[str, float, float]]]


def quiet(these: Any, _: str) -> Any:
    return these


def hiss(rng: np.random.Generator, middle: float, samples: int) -> np.ndarray:
    """Noise in a narrow band."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hertz = np.fft.rfftfreq(samples, 1 / RATE)
    wave = np.fft.irfft(spectrum * np.exp(-(((hertz - middle) / 80) ** 2)), samples)
    return 0.1 * wave / wave.std()


def corpus(
    folder: Path, count: int, words_of: Sequence[str] = tuple(LEXICON), pauses: float = 0.4
) -> tuple[list[Utterance], Spoken, dict[str, list[tuple[str, ...]]]]:
    """Utterances whose phones are bands of noise; when their words are spoken, and how they are pronounced."""
    rng = np.random.default_rng(0)
    utterances, spoken, chosen = [], {}, {}
    for number in range(count):
        waves, at, words, ways = [], 0, [], []

        def add(wave: np.ndarray, waves: list[np.ndarray] = waves) -> int:
            waves.append(wave)
            return len(wave)

        at += add(np.zeros(rng.integers(400, 1600)))
        for word in rng.choice(list(words_of), rng.integers(1, 5)):
            way = LEXICON[word][rng.integers(len(LEXICON[word]))]
            start = at
            for phone in way:
                at += add(hiss(rng, PITCH[phone], rng.integers(480, 1000)))
            words.append((str(word), start / RATE, at / RATE))
            ways.append(way)
            if rng.random() < pauses:
                at += add(np.zeros(rng.integers(400, 1600)))
        at += add(np.zeros(rng.integers(400, 1600)))
        wave = np.concatenate(waves) + 0.001 * rng.standard_normal(at)
        utt_id, path = f"u{number}", folder / f"u{number}.wav"
        soundfile.write(path, wave, RATE)
        text = " ".join(word for word, _, _ in words)
        utterances.append(Utterance(utt_id, str(path), text, f"s{number % 3}", seconds=at / RATE, sample_rate=RATE))
        spoken[utt_id], chosen[utt_id] = words, ways
    return utterances, spoken, chosen


def aligned(utterances: list[Utterance], lexicon: Lexicon, folder: Path) -> dict[str, Alignment]:
    hmm.train(utterances, lexicon, folder, quiet)
    found = list(hmm.align(utterances, lexicon, folder, quiet))
    assert all(isinstance(each, Alignment) for each in found)
    return {each.utt_id: each for each in found if isinstance(each, Alignment)}


def errors(found: dict[str, Alignment], spoken: Spoken) -> np.ndarray:
    """(words, 2): seconds by which beginnings and ends are late."""
    rows = []
    for utt_id, words in spoken.items():
        assert [word.label for word in found[utt_id].words] == [word for word, _, _ in words]
        rows += [(w.start - start, w.end - end) for w, (_, start, end) in zip(found[utt_id].words, words, strict=True)]
    return np.array(rows)


def test_words_are_found_where_they_were_put_in_the_way_they_were_said(tmp_path: Path) -> None:
    utterances, spoken, chosen = corpus(tmp_path, 60)
    found = aligned(utterances, LEXICON, tmp_path / "model")
    off = np.abs(errors(found, spoken))
    assert np.quantile(off, 0.5) <= 0.015 and np.quantile(off, 0.95) <= 0.05
    said = [[phone.label for phone in found[u].phones] == [p for way in chosen[u] for p in way] for u in spoken]
    assert np.mean(said) > 0.9
    for each in found.values():  # in order, within the recording, words around their phones
        edges = [edge for phone in each.phones for edge in phone[1:]]
        assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= each.seconds
        assert {word.start for word in each.words} <= {phone.start for phone in each.phones}


def test_a_pause_behind_every_word_is_not_taken_for_its_last_sound(tmp_path: Path) -> None:
    utterances, spoken, _ = corpus(tmp_path, 6, ["ebb"], pauses=1.0)
    off = errors(aligned(utterances, LEXICON, tmp_path / "model"), spoken)
    assert np.quantile(np.abs(off), 0.9) <= 0.04


def test_the_same_call_gives_the_same_bits_and_an_utterance_alone_the_same_times(tmp_path: Path) -> None:
    utterances, _, _ = corpus(tmp_path, 12)
    one, two = (aligned(utterances, LEXICON, tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert (tmp_path / "one" / hmm.MODEL).read_bytes() == (tmp_path / "two" / hmm.MODEL).read_bytes()
    shuffled = [utterances[i] for i in np.random.default_rng(0).permutation(len(utterances))]
    assert {a.utt_id: a for a in hmm.align(shuffled, LEXICON, tmp_path / "one", quiet)} == one


def test_words_without_pronunciation_are_aligned_as_noise(tmp_path: Path) -> None:
    utterances, spoken, _ = corpus(tmp_path, 40)
    found = aligned(utterances, {word: said for word, said in LEXICON.items() if word != "ebb"}, tmp_path / "model")
    assert np.quantile(np.abs(errors(found, spoken)), 0.9) <= 0.06
    noise = {p.label for u in utterances for p in found[u.utt_id].phones if "ebb" in u.text} - set(PITCH)
    assert noise == {hmm.SPOKEN_NOISE}


def test_what_is_too_short_or_silent_of_words_is_left_out_and_the_rest_aligned(tmp_path: Path) -> None:
    utterances, _, _ = corpus(tmp_path, 20)
    short = Utterance("short", utterances[0].audio, "dodo dodo dodo", start=0.0, seconds=0.05, sample_rate=RATE)
    empty = Utterance("empty", utterances[0].audio, "", start=0.0, seconds=0.3, sample_rate=RATE)
    hmm.train([*utterances, short, empty], LEXICON, tmp_path, quiet)
    found = {each.utt_id: each for each in hmm.align([*utterances, short, empty], LEXICON, tmp_path, quiet)}
    assert found["short"] == Unaligned("short", "0.05 s are too short for its 3 words")
    assert found["empty"] == Alignment("empty", 0.3, [], [])
    assert sum(isinstance(each, Alignment) for each in found.values()) == 21
    with pytest.raises(UserError, match="none of 1 utterances, e.g. short, is long enough for its words"):
        hmm.train([short], LEXICON, tmp_path, quiet)
    with pytest.raises(UserError, match="no utterance has words"):
        hmm.train([empty], LEXICON, tmp_path, quiet)


def test_audio_without_a_frame_or_without_numbers_does_no_harm(tmp_path: Path) -> None:
    utterances, _, _ = corpus(tmp_path, 12)
    wave = np.zeros(20)
    soundfile.write(tmp_path / "tiny.wav", wave, RATE)
    tiny = Utterance("tiny", str(tmp_path / "tiny.wav"), "dodo", seconds=20 / RATE, sample_rate=RATE)
    hmm.train([*utterances, tiny], LEXICON, tmp_path, quiet)
    found = {each.utt_id: each for each in hmm.align([*utterances, tiny], LEXICON, tmp_path, quiet)}
    assert isinstance(found["tiny"], Unaligned) and len(found) == 13
    wave[3] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, RATE, "FLOAT")
    nan = Utterance("nan", str(tmp_path / "nan.wav"), "dodo", seconds=20 / RATE, sample_rate=RATE)
    with pytest.raises(UserError, match="nan.wav: the audio of nan has samples that are no numbers"):
        hmm.train([*utterances, nan], LEXICON, tmp_path, quiet)


def test_a_recording_too_long_for_a_search_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances, _, _ = corpus(tmp_path, 12)
    longest = max(utterances, key=lambda u: u.seconds * len(u.text))
    frames, states = round(longest.seconds * 100), 3 * sum(len(LEXICON[w][0]) + 1 for w in longest.text.split())
    monkeypatch.setattr(hmm, "LARGEST", frames * states - 1)
    hmm.train(utterances, LEXICON, tmp_path, quiet)
    found = {each.utt_id: each for each in hmm.align(utterances, LEXICON, tmp_path, quiet)}
    left_out = [each for each in found.values() if isinstance(each, Unaligned)]
    assert longest.utt_id in {each.utt_id for each in left_out} and len(left_out) < 6
    assert all(each.why.endswith("in one piece; cut it up") for each in left_out)


def test_a_damaged_model_is_one_line(tmp_path: Path) -> None:
    utterances, _, _ = corpus(tmp_path, 4)
    for damaged in (b"", b"PK\x03\x04 and nothing", b"hello"):
        (tmp_path / hmm.MODEL).write_bytes(damaged)
        with pytest.raises(UserError, match=r"hmm.npz: cannot be read .* delete .* and align again"):
            next(hmm.align(utterances, LEXICON, tmp_path, quiet))


def test_spoken_digits_end_where_their_recordings_end(
    corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real speech, words as their letters."""
    if not (corpora / "fsdd").is_dir():
        pytest.skip("no fsdd among the real corpora")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import aligning

    utterances, spoken = aligning.strings(corpora / "fsdd", tmp_path, 120)
    late = aligning.late(utterances, spoken, spelled_lexicon(aligning.DIGITS), tmp_path)[:, 1]
    assert abs(np.median(late)) <= 0.02
    assert np.quantile(np.abs(late), 0.5) <= 0.03 and np.quantile(np.abs(late), 0.9) <= 0.06
