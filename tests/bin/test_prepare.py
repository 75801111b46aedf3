"""The doctor: every kind of fault is found, does what it should, and good data comes through whole."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from asrtts import cli
from asrtts.bin import prepare
from asrtts.data import audio, diagnosis, manifest, survey
from asrtts.data.diagnosis import KINDS
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError
from asrtts.text import tokenizer

RATE = 16000
DOCS = Path(__file__).resolve().parents[2] / "docs"


class Corpus:
    """An invented corpus: noise, with the same text for everybody."""

    def __init__(self, folder: Path) -> None:
        self.root, self.data = folder / "corpus", folder / "data"
        self.root.mkdir()
        self.splits: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
        for split, count in (("train", 6), ("dev", 2), ("test", 2)):
            for i in range(count):
                self.add(split, f"{split}{i}", speaker=f"{split}-{i % 2}")

    def add(self, split: str, utt_id: str, seconds: float = 1.0, text: str = "HELLO THERE", **more) -> Utterance:
        rate = more.pop("rate", RATE)
        samples = more.pop("samples", None)
        if samples is None:
            samples = 0.1 * np.random.default_rng(len(list(self.root.iterdir()))).standard_normal(round(seconds * rate))
        path = self.root / f"{split}-{utt_id}-{len(self.splits[split])}.wav"
        soundfile.write(path, np.clip(samples, -1, 1), rate, subtype="FLOAT")
        utterance = Utterance(utt_id, str(path), text, more.pop("speaker", ""), **more)
        self.splits[split].append(utterance)
        return utterance

    def again(self, split: str, utterance: Utterance, **changed) -> Utterance:
        """The same audio in another place."""
        copy = self.root / f"copy-{split}-{len(self.splits[split])}.wav"
        copy.write_bytes(Path(utterance.audio).read_bytes())
        self.splits[split].append(replace(utterance, **{"audio": str(copy), **changed}))
        return self.splits[split][-1]

    def prepare(self, *options: str) -> list[dict]:
        """Run the verb; returns the findings."""
        if "--max-dropped" not in options:
            options += ("--max-dropped", "0.5")
        prepare.main(["invented", str(self.root), str(self.data), *options])
        return self.findings()

    def findings(self) -> list[dict]:
        return [json.loads(line) for line in (self.data / "checks.jsonl").read_text().splitlines()]

    def kept(self, split: str) -> list[str]:
        return [u.utt_id for u in manifest.read(self.data / split)]


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Corpus:
    made = Corpus(tmp_path)
    module = SimpleNamespace(utterances=lambda root: made.splits)
    monkeypatch.setattr(prepare.registry, "find", lambda package, name: module)
    monkeypatch.delenv("ASRTTS_CORPORA", raising=False)
    return made


def test_texts_are_as_the_corpus_has_them_unless_one_form_is_asked_for(corpus):
    for split in corpus.splits:
        corpus.splits[split] = [replace(u, text="It\u2019s  3.5, \uff4fK?") for u in corpus.splits[split]]
    texts = {}
    for options in ((), ("--case", "upper", "--no-punctuation")):
        corpus.prepare(*options)
        (texts[options],) = {u.text for u in manifest.read(corpus.data / "train")}
    assert list(texts.values()) == ["It\u2019s  3.5, \uff4fK?", "IT'S 3.5 OK"]


def missing(corpus: Corpus, split: str) -> None:
    Path(corpus.add(split, "bad").audio).unlink()


def unreadable(corpus: Corpus, split: str) -> None:
    Path(corpus.add(split, "bad").audio).write_bytes(b"<html>not found</html>")


def truncated(corpus: Corpus, split: str) -> None:
    path = Path(corpus.add(split, "bad").audio)
    path.write_bytes(path.read_bytes()[:-20000])


def unread(corpus: Corpus, split: str) -> None:
    """What a header does not promise follows the audio."""
    with open(corpus.add(split, "bad").audio, "ab") as file:
        file.write(b"\x81" * 20000)


def integers(corpus: Corpus, split: str) -> None:
    """16-bit samples, written as floats as they are."""
    path = corpus.add(split, "bad").audio
    soundfile.write(path, 32768 * soundfile.read(path)[0], RATE, subtype="FLOAT")


def loud(seconds: float = 1.0) -> np.ndarray:
    return np.random.default_rng(9).standard_normal(round(seconds * RATE))


def half_empty() -> np.ndarray:
    return np.where(np.arange(RATE) < 0.6 * RATE, 0, 0.05 * loud())


# kind -> what makes it in a split
FAULTS = {
    "missing-audio": missing,
    "unreadable": unreadable,
    "empty": lambda c, split: c.add(split, "bad", seconds=0),
    "truncated": truncated,
    "unread": unread,
    "not-finite": lambda c, split: c.add(split, "bad", samples=np.full(RATE, np.nan)),
    "not-scaled": integers,
    "empty-text": lambda c, split: c.add(split, "bad", text=" . "),
    "invisible": lambda c, split: c.add(split, "bad", text="HELLO\u200b THERE"),
    "silent": lambda c, split: c.add(split, "bad", samples=np.zeros(RATE)),
    "too-short": lambda c, split: c.add(split, "bad", seconds=0.05, text="A"),
    "too-long": lambda c, split: c.add(split, "bad", seconds=50, text="A" * 500),
    "ctc-short": lambda c, split: c.add(split, "bad", seconds=0.4, text="TELL THE THREE"),
    "uncovered": lambda c, split: c.add(split, "bad", text="HELLO ÜBER"),
    "speaking-rate": lambda c, split: c.add(split, "bad", text="HELLO THERE " * 5),
    "clipped": lambda c, split: c.add(split, "bad", samples=loud()),
    "zeros": lambda c, split: c.add(split, "bad", samples=half_empty()),
    "odd-rate": lambda c, split: c.add(split, "bad", rate=8000),
    "channels": lambda c, split: c.add(split, "bad", samples=0.1 * loud(2).reshape(-1, 2)),
}
# what needs more than one bad utterance has a test of its own below
OTHERS = {"nothing-left", "no-train", "many-dropped", "audio-leak", "wrong-tokens", "doubled-id", "two-texts"}
OTHERS |= {"speaker-leak", "shared-speakers", "shared-id", "doubled-audio", "upsampled", "resampled", "no-transcript"}


def tokens(corpus: Corpus, text: str = "HELLO THERE") -> list[str]:
    tokenizer.make([text], "char").save(corpus.root.parent / "tokens")
    return ["--tokens", str(corpus.root.parent / "tokens")]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found_alone_and_does_what_its_kind_says(corpus, kind, split):
    FAULTS[kind](corpus, split)
    given = tokens(corpus) if kind in ("ctc-short", "uncovered") else []
    found = corpus.prepare(*given)
    assert [(f["kind"], f["split"], f["utt_id"]) for f in found] == [(kind, split, "bad")]
    assert found[0]["fix"] and found[0]["found"] and found[0]["audio"].endswith(".wav")
    effect = KINDS[kind].effect
    dropped = effect == "drop" or (effect == "drop-train" and split == "train")
    assert ("bad" in corpus.kept(split)) is not dropped


def test_every_kind_has_a_test_and_a_word_in_the_docs():
    assert set(FAULTS) | OTHERS == set(KINDS)
    words = (DOCS / "data_checks.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in words] == []


@pytest.mark.parametrize("options", [(), ("--case", "lower"), ("--no-punctuation",)])
def test_marks_that_nobody_sees_are_left_out_with_a_note(corpus, options):
    written = "\ufeffHELLO\u200b  THE\u00adRE\u200e \u0645\u06cc\u200c\u062e <s>"
    corpus.add("train", "bad", text=written)
    (finding,) = corpus.prepare(*options)
    assert finding["kind"] == "invisible" and finding["found"] == (
        "U+FEFF ZERO WIDTH NO-BREAK SPACE, U+200B ZERO WIDTH SPACE, U+00AD SOFT HYPHEN, U+200E LEFT-TO-RIGHT MARK, <s>"
    )
    text = next(u.text for u in manifest.read(corpus.data / "train") if u.utt_id == "bad")
    assert text.upper() == "HELLO THERE \u0645\u06cc\u200c\u062e"


@pytest.mark.parametrize("text", ["HELLO\tTHERE", "HELLO\u3000THERE ", "<unk> HELLO\u00a0THERE", "HELLO▁THERE"])
def test_tokens_of_a_text_cover_it_however_its_blanks_are_written(corpus, text):
    corpus.splits["train"] = [replace(u, text=text) for u in corpus.splits["train"]]
    for kind, size in (("char", None), ("bpe", 12)):
        tokenizer.make([u.text for u in corpus.splits["train"]], kind, size).save(corpus.root.parent / "tokens")
        assert corpus.prepare("--tokens", str(corpus.root.parent / "tokens")) == []
    assert {u.text for u in manifest.read(corpus.data / "train")} == {text}


def test_a_decomposed_text_is_composed_and_otherwise_as_the_corpus_has_it(corpus):
    corpus.add("test", "t", text="Cafe\u0301,  \uff4fk")
    corpus.prepare()
    assert next(u.text for u in manifest.read(corpus.data / "test") if u.utt_id == "t") == "Caf\u00e9,  \uff4fk"


def test_an_empty_reference_of_a_test_set_stays_and_one_of_train_can_be_allowed(corpus, capsys):
    for split in corpus.splits:
        corpus.add(split, f"{split}-empty", text="")
    corpus.prepare()
    kept = {split: f"{split}-empty" in corpus.kept(split) for split in corpus.splits}
    assert kept == {"train": False, "dev": True, "test": True}
    assert "left out" not in capsys.readouterr().err
    corpus.prepare("--allow", "empty-text")
    assert "train-empty" in corpus.kept("train")


def test_a_speaker_in_two_forms_of_unicode_is_one(corpus):
    corpus.add("train", "a", speaker="Jos\u00e9")
    corpus.add("test", "b", speaker="Jose\u0301")
    assert [(f["kind"], f["split"]) for f in corpus.prepare()] == [("speaker-leak", "test")]


def test_texts_that_differ_in_their_blanks_are_no_two_texts(corpus):
    corpus.again("train", corpus.splits["train"][0], utt_id="twin", text="HELLO\u00a0 THERE")
    assert [(f["kind"], f["utt_id"]) for f in corpus.prepare()] == [("doubled-audio", "twin")]


def test_a_leak_is_found_behind_a_short_segment_and_through_a_link(corpus):
    recording = Path(corpus.add("train", "a", seconds=8).audio)
    link = corpus.root / "link.wav"
    link.symlink_to(recording)
    corpus.splits["train"][-1] = Utterance("a", str(recording), "HELLO THERE", "x", 0.0, 7.0)
    corpus.splits["train"].append(Utterance("b", str(recording), "HELLO THERE", "x", 1.0, 1.0))
    corpus.splits["test"].append(Utterance("c", str(link), "HELLO THERE", "y", 3.0, 2.0))
    with pytest.raises(UserError, match="audio-leak: test c: shares 2.00 s with a in train"):
        corpus.prepare()


def test_the_folder_of_a_run_that_was_killed_is_swept(corpus, monkeypatch):
    corpus.data.mkdir()
    rest = corpus.data / ".manifests.0123456789ab.part"
    rest.mkdir()
    (rest / "train.jsonl").write_text("half a li")
    corpus.prepare()
    assert sorted(p.name for p in corpus.data.iterdir()) == [
        ".inspected", "checks.jsonl", "dev.jsonl", "prepare.json", "test.jsonl", "train.jsonl"
    ]  # fmt: skip


def test_a_manifest_that_was_changed_is_made_again(corpus, capsys):
    corpus.prepare()
    written = (corpus.data / "dev.jsonl").read_bytes()
    (corpus.data / "dev.jsonl").write_bytes(written.replace(b"HELLO", b"JELLO"))
    corpus.prepare()
    assert (corpus.data / "dev.jsonl").read_bytes() == written


def test_a_link_to_a_folder_that_is_not_there_yet_is_written_through(corpus):
    corpus.data.symlink_to(corpus.root.parent / "large" / "data")
    corpus.prepare()
    assert corpus.data.is_symlink() and (corpus.root.parent / "large/data/train.jsonl").is_file()


def test_a_working_directory_that_was_deleted_is_one_line(corpus, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises(UserError, match="data: the folder you are in was deleted"):
        prepare.main(["invented", str(corpus.root), "data"])


def test_good_data_has_no_finding_and_exact_durations(corpus, capsys):
    corpus.add("train", "long", seconds=2.34567, speaker="train-0")
    assert corpus.prepare() == []
    assert "nothing found" in capsys.readouterr().out
    for split, utterances in corpus.splits.items():
        written = list(manifest.read(corpus.data / split))
        assert [u.utt_id for u in written] == [u.utt_id for u in utterances]
        for u in written:
            assert u.seconds == soundfile.info(u.audio).duration and u.sample_rate == RATE
            assert len(audio.read(u, RATE)) == soundfile.info(u.audio).frames


@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_same_audio_in_two_splits_stops_and_writes_no_manifest(corpus, split):
    leaked = corpus.again(split, corpus.splits["train"][1], utt_id="other", speaker="new")
    with pytest.raises(UserError) as stopped:
        corpus.prepare()
    assert all(part in str(stopped.value) for part in (f"{split} other", "train1", "--allow audio-leak"))
    assert "\n" not in str(stopped.value)
    assert sorted(p.name for p in corpus.data.iterdir()) == [".inspected", "checks.jsonl"]
    assert [f["audio"] for f in corpus.findings() if f["kind"] == "audio-leak"] == [leaked.audio]
    corpus.prepare("--allow", "audio-leak")
    assert "other" in corpus.kept(split)
    corpus.prepare("--keep-going")
    assert "other" in corpus.kept(split)


def test_silence_in_two_splits_is_no_leak(corpus):
    for split in ("train", "test"):
        corpus.add(split, f"{split}-silent", samples=np.zeros(RATE))
    assert {f["kind"] for f in corpus.prepare()} == {"silent"}


def test_segments_of_one_recording_leak_where_they_overlap(corpus):
    recording = corpus.add("train", "a", seconds=6).audio
    corpus.splits["train"][-1] = Utterance("a", recording, "HELLO THERE", "x", 0.0, 2.0)
    corpus.splits["test"].append(Utterance("b", recording, "HELLO THERE", "y", 2.05, 2.0))
    assert corpus.prepare() == []
    corpus.splits["test"][-1] = Utterance("b", recording, "HELLO THERE", "y", 1.5, 2.0)
    with pytest.raises(UserError, match="audio-leak: test b: shares 0.50 s with a in train"):
        corpus.prepare()


def test_copies_within_a_split_are_noted_and_a_second_text_is_not_trained_on(corpus):
    corpus.again("train", corpus.splits["train"][0], utt_id="twin")
    assert [(f["kind"], f["utt_id"]) for f in corpus.prepare()] == [("doubled-audio", "twin")]
    corpus.again("train", corpus.splits["train"][1], utt_id="liar", text="GOOD BYE")
    found = [(f["kind"], f["utt_id"]) for f in corpus.prepare()]
    assert found == [("two-texts", "train1"), ("two-texts", "liar"), ("doubled-audio", "twin")]
    assert {"train1", "liar"}.isdisjoint(corpus.kept("train"))


def test_of_two_utterances_with_one_id_the_first_is_kept(corpus):
    corpus.add("train", "train0", text="ANOTHER ONE", speaker="train-0")
    corpus.add("dev", "test0", speaker="dev-0")
    found = corpus.prepare()
    assert [(f["kind"], f["split"], f["utt_id"]) for f in found] == [
        ("doubled-id", "train", "train0"),
        ("shared-id", "test", "test0"),
    ]
    kept = list(manifest.read(corpus.data / "train"))
    assert [u.text for u in kept if u.utt_id == "train0"] == ["HELLO THERE"]
    assert "test0" in corpus.kept("test") and "test0" in corpus.kept("dev")


def test_speakers_of_train_are_a_loud_note_in_test_and_a_note_in_dev(corpus, capsys):
    corpus.add("test", "t", speaker="train-0")
    corpus.add("dev", "d", speaker="train-1")
    found = corpus.prepare()
    assert [(f["kind"], f["split"]) for f in found] == [("speaker-leak", "test"), ("shared-speakers", "dev")]
    assert "1 of 3 speakers" in found[0]["found"] and "train-0" in found[0]["found"]
    assert "speakers heard in" in capsys.readouterr().out
    with pytest.raises(UserError, match="speaker-leak"):
        corpus.prepare("--stop", "speaker-leak")


@pytest.mark.parametrize("split, dev, train", [("train_nodev", False, True), ("train_dev", True, False)])
def test_espnets_names_of_splits_mean_what_they_mean_there(split, dev, train):
    assert (diagnosis.is_dev(split), diagnosis.is_train(split)) == (dev, train)


@pytest.mark.parametrize("wanted, kind", [(8000, "resampled"), (48000, "upsampled")])
def test_a_whole_corpus_of_another_rate_is_noted(corpus, wanted, kind):
    found = corpus.prepare("--sample-rate", str(wanted))
    assert [f["kind"] for f in found] == [kind] * 10


def test_audio_that_no_transcript_names_is_noted(corpus):
    left = corpus.splits["train"].pop()
    (corpus.root / "README.txt").touch()
    assert [(f["kind"], f["audio"]) for f in corpus.prepare()] == [("no-transcript", left.audio)]


def test_audio_in_a_folder_that_may_not_be_entered_is_unreadable(corpus, tmp_path):
    moved = corpus.splits["train"].pop()
    locked = tmp_path / "locked"
    locked.mkdir()
    Path(moved.audio).rename(locked / "a.wav")
    corpus.splits["train"].append(replace(moved, audio=str(locked / "a.wav")))
    locked.chmod(0)
    try:
        if os.access(locked, os.R_OK):
            pytest.skip("the superuser may enter any folder")
        found = corpus.prepare()
    finally:
        locked.chmod(0o700)
    assert [(f["kind"], f["found"]) for f in found] == [("unreadable", "permission denied")]


def test_names_that_are_not_utf8_are_found_and_listed(corpus):
    Path(os.fsdecode(os.fsencode(corpus.root) + b"/gr\xfc\xdf.wav")).write_bytes(b"")
    assert [finding["kind"] for finding in corpus.prepare()] == ["no-transcript"]


def test_tokens_of_another_corpus_stop(corpus):
    given = tokens(corpus, "你好")
    with pytest.raises(UserError, match="wrong-tokens: train: 6 of 6 texts.*asrtts tokenize"):
        corpus.prepare(*given)


def test_tokens_that_are_not_there_are_named_before_any_audio_is_read(corpus):
    with pytest.raises(UserError, match="no tokens there"):
        corpus.prepare("--tokens", str(corpus.root / "none"))
    assert not corpus.data.exists()


def test_a_split_that_lost_too_much_stops(corpus, capsys):
    missing(corpus, "test")
    with pytest.raises(UserError, match="many-dropped: test: 1 of 3 are left out"):
        corpus.prepare("--max-dropped", "0.3")
    capsys.readouterr()
    corpus.prepare("--max-dropped", "0.4")
    assert "1 of 3 test utterances are left out" in capsys.readouterr().err


def test_no_training_data_stops_unless_only_a_test_set_was_wanted(corpus):
    corpus.splits = {"test": corpus.splits["test"]}
    with pytest.raises(UserError, match="no-train"):
        corpus.prepare()
    corpus.prepare("--allow", "no-train", "--allow", "no-transcript")
    assert len(corpus.kept("test")) == 2


def test_nothing_readable_stops_and_cannot_be_allowed(corpus):
    for path in corpus.root.iterdir():
        path.write_bytes(b"?")
    with pytest.raises(UserError, match="nothing-left"):
        corpus.prepare("--keep-going")
    with pytest.raises(UserError, match="nothing to train on"):
        corpus.prepare("--allow", "unreadable")


def test_a_kind_that_is_allowed_is_kept(corpus):
    FAULTS["too-long"](corpus, "train")
    assert [f["kind"] for f in corpus.prepare("--allow", "too-long")] == ["too-long"]
    assert "bad" in corpus.kept("train")
    corpus.prepare("--max-seconds", "60")
    assert corpus.findings() == []


@pytest.mark.parametrize(
    "options, said",
    [
        (["--allow", "audio-leaks"], "did you mean 'audio-leak'"),
        (["--min-seconds", "3", "--max-seconds", "2"], "--min-seconds 3 is not below --max-seconds 2"),
        (["--jobs", "0"], "--jobs: found '0', wanted a whole number from 1 to 1024"),
        (["--max-dropped", "5"], "--max-dropped 5: wanted a share from 0 to 1, e.g. 0.05 for 5 percent"),
        (["--max-dropped", "nan"], "--max-dropped nan: wanted a share"),
        (["--allow-pipes"], "--allow-pipes is for Kaldi data folders"),
        (["--train", "a", "b"], "--train is for Kaldi data folders"),
    ],
)
def test_a_wrong_option_is_named(corpus, options, said):
    with pytest.raises(UserError, match=said):
        corpus.prepare(*options)
    assert not corpus.data.exists()


def test_finished_data_is_a_finished_stage(corpus, capsys, monkeypatch):
    corpus.prepare()
    monkeypatch.setattr(prepare.survey, "survey", None)  # nothing may be read
    capsys.readouterr()
    corpus.prepare()
    assert "nothing changed: train 6, dev 2, test 2" in capsys.readouterr().out


def test_a_change_is_seen_and_only_what_changed_is_read_again(corpus, monkeypatch):
    corpus.prepare()
    read = []
    look = survey.inspect
    monkeypatch.setattr(survey, "inspect", lambda u, limits: read.append(u.utt_id) or look(u, limits))
    (corpus.data / "dev.jsonl").unlink()
    corpus.prepare()
    assert (read, len(corpus.kept("dev"))) == ([], 2)
    soundfile.write(corpus.splits["train"][3].audio, 0.1 * loud(1.5), RATE)
    corpus.prepare()
    assert read == ["train3"]
    assert list(manifest.read(corpus.data / "train"))[3].seconds == 1.5
    corpus.prepare("--force")
    assert len(read) == 11


def test_what_a_killed_run_has_read_is_not_read_again(corpus, monkeypatch):
    read = []
    look = survey.inspect

    def killed(utterance, limits):
        if len(read) == 4:
            raise KeyboardInterrupt
        read.append(utterance.utt_id)
        return look(utterance, limits)

    monkeypatch.setattr(survey, "inspect", killed)
    with pytest.raises(KeyboardInterrupt):
        corpus.prepare()
    assert [p.name for p in corpus.data.iterdir()] == [".inspected"]
    with open(corpus.data / ".inspected", "a") as memory:
        memory.write('{"key": "torn')
    monkeypatch.setattr(survey, "inspect", lambda u, limits: read.append(u.utt_id) or look(u, limits))
    corpus.prepare()
    corpus.prepare("--stop", "clipped")
    assert read == [u.utt_id for utterances in corpus.splits.values() for u in utterances]


def test_the_number_of_processes_changes_nothing(corpus, monkeypatch):
    for kind in ("clipped", "truncated", "silent", "odd-rate"):
        FAULTS[kind](corpus, "train")
        corpus.splits["train"][-1] = replace(corpus.splits["train"][-1], utt_id=kind)
    corpus.prepare("--jobs", "1")
    names = ("train.jsonl", "dev.jsonl", "test.jsonl", "checks.jsonl", ".inspected")
    alone = [(corpus.data / name).read_bytes() for name in names]
    monkeypatch.setattr(survey, "FEW", 0)
    corpus.prepare("--jobs", "2", "--force")
    assert [(corpus.data / name).read_bytes() for name in names] == alone


def test_a_full_disk_leaves_the_old_manifests(corpus, monkeypatch):
    corpus.prepare()
    before = {p.name: p.read_bytes() for p in corpus.data.iterdir() if p.name != ".inspected"}
    corpus.add("train", "new")

    def full(path, utterances):
        Path(path).write_text("half a li")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifest, "write", full)
    with pytest.raises(UserError, match="the disk is full"):
        corpus.prepare()
    assert {p.name: p.read_bytes() for p in corpus.data.iterdir() if p.name != ".inspected"} == before


def test_a_place_that_cannot_be_written_is_named(corpus):
    corpus.data.write_text("a file where a folder should be")
    with pytest.raises(UserError, match="data: cannot be written"):
        corpus.prepare()


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    """The executor's own workers would wait for ever."""
    script = tmp_path / "run.py"
    script.write_text(WAITING)
    here = {**os.environ, "PYTHONPATH": str(DOCS.parent)}
    with subprocess.Popen([sys.executable, script], env=here, stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(worker)


WAITING = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from asrtts.data.worker import end_with_parent
if __name__ == "__main__":
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def _runs(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_a_run_that_stops_leaves_the_old_manifests(corpus):
    corpus.prepare()
    corpus.again("test", corpus.splits["train"][0], utt_id="leak")
    with pytest.raises(UserError):
        corpus.prepare()
    assert corpus.kept("test") == ["test0", "test1"]
    with pytest.raises(UserError, match="audio-leak"):  # and the data do not count as finished
        corpus.prepare()


@pytest.mark.parametrize("factor", [4, 6])
def test_the_frames_for_ctc_are_the_encoders(factor):
    subsampling, features = pytest.importorskip("asrtts.nn.subsampling"), pytest.importorskip("asrtts.data.features")
    for samples in range(2000, 9000, 37):
        frames = features.num_frames(features.Config(), samples)
        expected = max(subsampling.subsampled(frames, factor), 0)
        assert diagnosis.encoder_frames(samples / RATE, factor) == expected


def test_doubled_tokens_need_a_frame_more(corpus):
    seconds = next(t / 100 for t in range(100) if diagnosis.encoder_frames(t / 100, 4) == 6)
    corpus.add("train", "bad", seconds=seconds, text="LLOLLO")  # 6 tokens and 2 doubles
    corpus.add("train", "good", seconds=seconds, text="LOLOLO")
    found = corpus.prepare(*tokens(corpus))
    assert [(f["kind"], f["utt_id"]) for f in found] == [("ctc-short", "bad")]
    assert "6 encoder frames" in found[0]["found"] and "need 8" in found[0]["found"]


def test_markup_in_a_text_is_shown_as_it_is(corpus, capsys):
    corpus.again("train", corpus.splits["train"][1], utt_id="liar", text="[/red] NO")
    corpus.prepare()
    assert "[/red]" in capsys.readouterr().out


def test_a_corpus_is_found_where_it_is_there_already(tmp_path, corpora, capsys, monkeypatch):
    monkeypatch.setenv("ASRTTS_CORPORA", str(corpora))
    if not (corpora / "aishell").is_dir():
        pytest.skip("no aishell")
    prepare.main(["aishell", str(tmp_path / "downloads"), str(tmp_path / "data"), "--jobs", "1"])
    found = [json.loads(line)["kind"] for line in (tmp_path / "data" / "checks.jsonl").read_text().splitlines()]
    counts = {split: sum(1 for _ in manifest.read(tmp_path / "data" / split)) for split in ("train", "dev", "test")}
    if counts["train"] == 320:  # the sample of two speakers, who are in all three parts
        assert counts == {"train": 320, "dev": 40, "test": 40}
        assert found == ["speaker-leak", "shared-speakers"]


def test_librispeech_is_healthy(tmp_path, corpora):
    if not (corpora / "librispeech").is_dir():
        pytest.skip("no librispeech")
    command = ["librispeech", str(tmp_path), str(tmp_path / "data"), "--corpus", str(corpora), "--jobs", "1"]
    prepare.main(command)
    lines = (tmp_path / "data" / "checks.jsonl").read_text().splitlines()
    assert {json.loads(line)["kind"] for line in lines} <= {"shared-speakers"}


def test_an4_is_healthy(tmp_path, corpora):
    packed = corpora / "an4" / "an4_sphere.tar.gz"
    if not packed.is_file():
        pytest.skip("no an4")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    prepare.main(["an4", str(tmp_path), str(tmp_path / "data"), "--jobs", "1"])
    assert (tmp_path / "data" / "checks.jsonl").read_text() == ""
    counts = {split: sum(1 for _ in manifest.read(tmp_path / "data" / split)) for split in ("train", "dev", "test")}
    assert counts == {"train": 848, "dev": 100, "test": 130}


def test_a_missing_corpus_is_one_line_without_a_trace(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ASRTTS_CORPORA", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main(["prepare", "an4", str(tmp_path / "nowhere"), str(tmp_path / "data")])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and "asrtts download an4" in said
    assert not (tmp_path / "data").exists()


def test_prepare_loads_no_torch():
    code = "import sys, asrtts.bin.prepare; sys.exit('torch' in sys.modules or 'soundfile' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
