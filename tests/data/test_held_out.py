"""The dev split of a corpus that has none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asrtts.corpora import kaldi
from asrtts.data import held_out
from asrtts.data.utterance import Utterance


def files(count: int) -> list[Utterance]:
    return [Utterance(f"u{i}", f"/none/{i}.wav", "A", f"s{i % 4}") for i in range(count)]


def segments(recording: str, count: int, speaker: str, overlap: float = 0.0, start: float = 0.0) -> list[Utterance]:
    """Segments of 2 s; neighbours share so many seconds."""
    step = 2 - overlap
    return [
        Utterance(f"{recording}-{speaker}-{i}", f"/none/{recording}.wav", "A", speaker, start + i * step, 2.0)
        for i in range(count)
    ]


def ids(utterances: list[Utterance]) -> set[str]:
    return {u.utt_id for u in utterances}


def shares_audio(parts: held_out.HeldOut) -> bool:
    return any(
        a.audio == b.audio and min(a.start + a.seconds, b.start + b.seconds) - max(a.start, b.start) > 0.1
        for a in parts.train
        for b in parts.dev
    )


def test_files_and_segments_without_overlap_are_every_tenth():
    for utterances in (files(25), segments("r", 25, "s"), segments("r", 25, "s", overlap=0.05)):
        parts = held_out.take(utterances)
        assert parts.dev == [utterances[9], utterances[19]] and len(parts.train) == 23
        assert parts.how == "every tenth training utterance is dev"


def test_whole_speakers_are_taken_where_segments_overlap():
    corpus = [u for n in range(30) for u in segments(f"r{n}", 5, f"s{n // 2}", overlap=0.5)]
    parts = held_out.take(corpus)
    assert "whole speakers" in parts.how and 8 <= len(parts.dev) <= 30
    assert len(parts.dev) + len(parts.train) == len(corpus) and not shares_audio(parts)
    assert not {u.speaker for u in parts.dev} & {u.speaker for u in parts.train}
    assert held_out.take(corpus) == parts


def test_whole_recordings_are_taken_where_speakers_are_in_all():
    corpus = [u for n in range(20) for u in segments(f"r{n}", 5, "a") + segments(f"r{n}", 5, "b", start=1.0)]
    parts = held_out.take(corpus)
    assert "whole recordings" in parts.how and 10 <= len(parts.dev) <= 40 and not shares_audio(parts)
    assert not {u.audio for u in parts.dev} & {u.audio for u in parts.train}


def test_of_one_recording_the_end_is_taken_without_what_overlaps():
    corpus = segments("r", 20, "a", overlap=0.2) + segments("r", 20, "b", overlap=0.2, start=1.0)
    parts = held_out.take(corpus)
    assert "the last segments" in parts.how and len(parts.dev) == 4 and not shares_audio(parts)
    assert 34 <= len(parts.train) < 36


def test_a_few_that_share_audio_stay_in_train():
    corpus = files(40)
    corpus[9] = replace(corpus[3], utt_id="again")  # would be dev, and is train's
    parts = held_out.take(corpus)
    assert ids(parts.dev) == {"u19", "u29", "u39"} and "again" in ids(parts.train)
    assert "every tenth training utterance is dev but those that share audio" in parts.how


def test_a_copy_under_another_name_is_the_same_audio(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"RIFF" + (name if name == "c" else "x").encode())
    corpus = files(40)
    corpus[3], corpus[9] = (replace(corpus[i], audio=str(tmp_path / name)) for i, name in ((3, "a"), (9, "b")))
    corpus[4] = replace(corpus[4], audio=str(tmp_path / "c"))
    assert "u9" not in ids(held_out.take(corpus).dev)
    corpus[3] = replace(corpus[3], audio=str(tmp_path / "c"))
    assert "u9" in ids(held_out.take(corpus).dev)


def test_channels_are_different_audio():
    corpus = [replace(u, channel=c) for c in (0, 1) for u in segments("r", 10, f"s{c}")]
    assert [u.utt_id for u in held_out.take(corpus).dev] == ["r-s0-9", "r-s1-9"]


def test_the_split_of_kaldi_tells_what_is_left_out(tmp_path, capsys):
    import numpy as np
    import soundfile

    root = tmp_path / "k"
    root.mkdir()
    soundfile.write(root / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 8000 * 41), 8000)
    names = [f"u{i:02}" for i in range(20)]
    (root / "wav.scp").write_text("a a.wav\n")
    (root / "text").write_text("".join(f"{name} HELLO\n" for name in names))
    (root / "utt2spk").write_text("".join(f"{name} s\n" for name in names))
    (root / "segments").write_text("".join(f"{name} a {2 * i} {2 * i + 2.5}\n" for i, name in enumerate(names)))
    splits = kaldi.utterances(root)
    assert [u.utt_id for u in splits["dev"]] == names[-2:] and [u.utt_id for u in splits["train"]] == names[:-3]
    said = "the last segments are dev, since segments overlap, 2 of 20; 1 training utterances that overlap with it are"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("count", [10, 11])
def test_utterances_of_one_file_are_left_for_prepare_to_refuse(count):
    parts = held_out.take([Utterance(f"u{i}", "/none/a.wav", "A") for i in range(count)])
    assert ids(parts.dev) == {"u9"} and len(parts.train) == count - 1
