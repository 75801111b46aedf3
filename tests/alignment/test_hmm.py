"""The built-in aligner on recordings whose boundaries are known."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

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


def test_at_11025_hz_a_frame_is_a_little_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "RATE", 11025)
    utterances, spoken, _ = corpus(tmp_path, 40)
    wave = np.concatenate([soundfile.read(u.audio)[0] for u in utterances])
    soundfile.write(tmp_path / "all.wav", wave, RATE)
    text, seconds = " ".join(u.text for u in utterances), len(wave) / RATE
    whole = Utterance("whole", str(tmp_path / "all.wav"), text, "s0", seconds=seconds, sample_rate=RATE)
    starts = np.cumsum([0.0] + [u.seconds for u in utterances])
    ends = [end + at for u, at in zip(utterances, starts, strict=False) for _, _, end in spoken[u.utt_id]]
    hmm.train(utterances, LEXICON, tmp_path, quiet)
    (found,) = hmm.align([whole], LEXICON, tmp_path, quiet)
    assert isinstance(found, Alignment)
    assert abs(np.median(np.array([word.end for word in found.words]) - ends)) <= 0.02


def test_the_order_of_the_manifest_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmm, "GROUP", 2)  # of a speaker, whose mean is taken together
    utterances, _, _ = corpus(tmp_path, 12)
    one = aligned(utterances, LEXICON, tmp_path / "one")
    assert aligned(utterances[3:] + utterances[:3], LEXICON, tmp_path / "two") == one


def test_the_samples_of_a_speaker_are_not_held_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances, _, _ = corpus(tmp_path, 6)
    group = [replace(u, speaker="s") for u in utterances]
    read, waves = hmm.audio.read, list[weakref.ref[np.ndarray]]()

    def tracked(utterance: Utterance, rate: int) -> np.ndarray:
        assert sum(wave() is not None for wave in waves) <= 1
        wave = read(utterance, rate)
        waves.append(weakref.ref(wave))
        return wave

    monkeypatch.setattr(hmm.audio, "read", tracked)
    assert len(hmm.hear(group, RATE)) == 6 == len(waves)


def test_a_phone_with_the_name_of_the_pause_is_a_phone(tmp_path: Path) -> None:
    utterances, spoken, _ = corpus(tmp_path, 40)
    found = aligned(utterances, {**LEXICON, "bout": [("b", "u", "<pause>")], "ebb": [("<pause>",)]}, tmp_path / "model")
    for utt_id, words in spoken.items():
        assert [word.label for word in found[utt_id].words] == [word for word, _, _ in words]


def test_what_nothing_can_be_learnt_from_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances, _, _ = corpus(tmp_path, 4)
    with pytest.raises(UserError, match="utterance 'u1' has sample_rate 8 in its manifest; wanted 1000 Hz at least"):
        hmm.train([utterances[0], replace(utterances[1], sample_rate=8)], LEXICON, tmp_path, quiet)
    monkeypatch.setattr(hmm, "LARGEST", 10)
    with pytest.raises(UserError, match=r"u0: \d+ s and \d words in one piece; cut it up, and no other"):
        hmm.train(utterances[:1], LEXICON, tmp_path, quiet)


def test_digital_silence_and_one_utterance_do_no_harm(tmp_path: Path) -> None:
    utterances, _, _ = corpus(tmp_path, 1)
    soundfile.write(tmp_path / "zero.wav", np.zeros(RATE), RATE)
    zero = Utterance("zero", str(tmp_path / "zero.wav"), "dodo", seconds=1.0, sample_rate=RATE)
    for these in ([zero], [utterances[0]], [zero, utterances[0]]):
        found = aligned(these, LEXICON, tmp_path / "model")
        assert all(np.isfinite([word[1:] for word in each.words]).all() for each in found.values())
        with np.load(tmp_path / "model" / hmm.MODEL) as model:
            assert all(np.isfinite(model[name]).all() for name in ("weights", "means", "variances", "log_stay"))


def test_a_full_disk_is_one_line_and_nothing_is_left_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances, _, _ = corpus(tmp_path, 4)

    def full(file: IO[bytes], **_: object) -> None:
        file.write(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match=r"hmm.npz: the disk is full; free some space and give the same command"):
        hmm.train(utterances, LEXICON, tmp_path / "model", quiet)
    assert list((tmp_path / "model").iterdir()) == []
