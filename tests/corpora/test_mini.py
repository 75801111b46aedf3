"""The invented corpus: spoken here, the same each time, and fit to train on."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile

from asrtts import storage
from asrtts.corpora import mini
from asrtts.registry import UserError

pytest.importorskip("espeakng_loader")


@pytest.fixture
def small(monkeypatch):
    """Three voices; the processes get them as arguments, so that the patch reaches them."""
    monkeypatch.setattr(mini, "ACCENTS", {"en": ("en-us",), "zh": ("cmn",)})
    monkeypatch.setattr(mini, "VARIANTS", {"train": ["f2"], "dev": ["m4"], "test": ["f5"]})
    monkeypatch.setattr(mini, "UTTERANCES", {"train": 3, "dev": 2, "test": 2})


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_whole_grammar_has_25_words_and_the_splits_share_no_voice():
    speakers = mini._speakers("en")
    variants = {split: {s.voice.split("+")[1] for s in speakers if s.split == split} for split in mini.UTTERANCES}
    assert Counter(s.split for s in speakers) == {"train": 16, "dev": 4, "test": 4}
    assert sum(s.utterances for s in speakers) == 600
    assert not variants["train"] & (variants["dev"] | variants["test"]) and not variants["dev"] & variants["test"]
    rules = mini.GRAMMARS["en"]
    words = {w for choices in rules.values() for c in choices for w in c.split() if not w.startswith("{")}
    assert len(words) == 25


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_made_corpus_is_speech_with_its_text(lang, small, tmp_path):
    place = mini.download(tmp_path, lang, jobs=1)
    splits = mini.utterances(tmp_path)
    assert splits == mini.utterances(place)
    assert {split: len(found) for split, found in splits.items()} == {"train": 3, "dev": 2, "test": 2}
    for utterance in (u for found in splits.values() for u in found):
        samples, rate = soundfile.read(utterance.audio)
        assert rate == 16000 == utterance.sample_rate
        assert len(samples) / rate == utterance.seconds
        assert 0.8 < utterance.seconds < 3.5
        assert 0.2 < np.abs(samples).max() < 0.8  # neither silent nor clipped
        assert np.sqrt(np.mean(samples[:1600] ** 2)) < 0.1 * np.sqrt(np.mean(samples**2))  # begins with silence
        assert utterance.text and (" " in utterance.text) == (lang == "en")


def test_the_same_bytes_come_each_time_and_after_a_kill(small, tmp_path):
    whole = mini.download(tmp_path / "a", jobs=2)
    again = mini.download(tmp_path / "b", jobs=1)
    assert contents(again) == contents(whole)
    # As a kill leaves it: one voice is finished, one half spoken, nothing has its final name.
    beside = again.with_name(f".mini-{mini._recipe('en')}.part")
    again.rename(beside)
    (beside / mini.TABLE).unlink()
    half = beside / ".m4-1.0123456789ab.part"
    (beside / "wav" / "m4-1").rename(half)
    (half / "m4-1-002.wav").unlink()
    finished = (beside / "wav" / "f2-1" / "f2-1-001.wav").stat().st_mtime_ns
    with pytest.raises(UserError, match="no mini corpus here"):
        mini.utterances(tmp_path / "b")
    assert contents(mini.download(tmp_path / "b", jobs=1)) == contents(whole)
    assert (again / "wav" / "f2-1" / "f2-1-001.wav").stat().st_mtime_ns == finished
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["mini"]


def test_a_finished_corpus_is_left_alone_and_another_recipe_makes_it_anew(small, tmp_path, monkeypatch, capsys):
    place = mini.download(tmp_path, jobs=1)
    made = (place / mini.TABLE).stat().st_mtime_ns
    mini.download(tmp_path, jobs=1)
    assert "finished before" in capsys.readouterr().out
    assert (place / mini.TABLE).stat().st_mtime_ns == made
    monkeypatch.setattr(mini, "UTTERANCES", {"train": 1, "dev": 1, "test": 1})
    mini.download(tmp_path, jobs=1)
    assert {split: len(found) for split, found in mini.utterances(tmp_path).items()} == dict.fromkeys(
        ["train", "dev", "test"], 1
    )


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_corpus_that_lost_a_file_is_made_again(small, tmp_path, capsys, damage):
    place = mini.download(tmp_path, jobs=1)
    whole = contents(place)
    path = place / "wav" / "m4-1" / "m4-1-002.wav"
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-100])
    capsys.readouterr()
    mini.download(tmp_path, jobs=1)
    assert "finished before" not in capsys.readouterr().out and contents(place) == whole


def test_of_two_that_speak_the_same_corpus_one_is_told_to_wait(small, tmp_path):
    beside = tmp_path / f".mini-{mini._recipe('en')}.part"
    with storage.held(beside), pytest.raises(UserError, match="another process.* is working here; wait for it"):
        mini.download(tmp_path, jobs=1)
    assert mini.utterances(mini.download(tmp_path, jobs=1))


def test_what_is_in_the_way_is_not_removed(tmp_path):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="in the way"):
        mini.download(tmp_path)
    assert (tmp_path / "mini" / "thesis.tex").exists()


def test_mistakes_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"mini-\w+.part: cannot be written \(Not a directory\)"):
        mini.download(tmp_path / "file")
    with pytest.raises(UserError, match="not spoken in 'eng'; did you mean 'en'"):
        mini.download(tmp_path, "eng")
    with pytest.raises(UserError, match="asrtts download mini"):
        mini.utterances(tmp_path)
    for name in ("mini", "mini-zh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / mini.TABLE).write_text(json.dumps({"speakers": [], "utterances": []}))
    with pytest.raises(UserError, match="two languages; name one folder"):
        mini.utterances(tmp_path)
    (tmp_path / "mini" / mini.TABLE).write_text('{"speakers": [')
    with pytest.raises(UserError, match="mini.json: damaged"):
        mini.utterances(tmp_path / "mini")


def test_without_espeak_the_line_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['espeakng_loader'] = None; from asrtts.cli import main; "
        f"main(['download', 'mini', {str(tmp_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "pip install" in done.stderr and "[mini]" in done.stderr
    assert list(tmp_path.iterdir()) == []
