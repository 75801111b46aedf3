"""asrtts align: from manifests to CTM files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asrtts.alignment import textgrid
from asrtts.alignment.aligners import hmm
from asrtts.alignment.pronunciations import pronunciations
from asrtts.bin import align
from asrtts.data import manifest
from asrtts.data.utterance import Utterance
from asrtts.metrics import emission
from asrtts.registry import UserError

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with manifests of words that are letters, each letter a tone; the cwd is there."""
    monkeypatch.chdir(tmp_path)
    for name in ("train", "test"):
        manifest.write(tmp_path / "data" / f"{name}.jsonl", manifest.read(tones / "data" / name))
    return tmp_path


def test_every_word_of_every_manifest_is_in_its_ctm(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    align.main(["data/train", "data/test", "--textgrid"])
    assert (
        "data/alignment/test.ctm: 4 words in 4 utterances; TextGrids in data/alignment/test" in capsys.readouterr().err
    )
    spoken = emission.read_ctm(recipe / "data/alignment/test.ctm")
    texts = {u.utt_id: u for u in manifest.read("data/test")}
    assert list(spoken) == list(texts)
    for utt_id, words in spoken.items():  # one word each, from beginning to end
        assert [word for word, _ in words] == [texts[utt_id].text]
        assert words[0][1] == pytest.approx(texts[utt_id].seconds, abs=0.05)
    assert textgrid.read_words(recipe / "data/alignment/test") == {
        u: [(word, pytest.approx(end, abs=1e-3)) for word, end in words] for u, words in spoken.items()
    }
    phones = textgrid.parse(Path("data/alignment/test/test-0.TextGrid").read_text(), "")["phones"]
    assert "".join(label for label, _, _ in phones) == texts["test-0"].text.lower()


def test_what_is_finished_is_left_alone_and_what_was_broken_off_goes_on(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    align.main(["data/train", "data/test"])
    whole = Path("data/alignment/test.ctm").read_text()
    monkeypatch.setattr(hmm, "train", lambda *_: pytest.fail("trained again"))
    align.main(["data/train", "data/test"])
    assert capsys.readouterr().err.count("finished before") == 2
    Path("data/alignment/test.ctm").unlink()
    align.main(["data/train", "data/test", "--textgrid"])
    assert Path("data/alignment/test.ctm").read_text() == whole
    assert Path("data/alignment/train").is_dir()


def test_recordings_to_learn_from_are_not_aligned(recipe: Path) -> None:
    align.main(["data/train", "data/test"])
    align.main(["data/test", "--learn", "data/train", "--out", "alone"])
    assert Path("alone/test.ctm").read_text() == Path("data/alignment/test.ctm").read_text()  # the same model
    assert not Path("alone/train.ctm").exists()
    again = ["--learn", str(recipe / "data/test.jsonl"), "--learn", str(recipe / "data/train")]  # one is aligned anyway
    align.main(["data/test", "--learn", "data/train", *again, "--out", "alone"])
    with pytest.raises(UserError, match="alone: holds an alignment of other recordings to learn from"):
        align.main(["data/test", "--out", "alone"])


def test_a_folder_of_other_recordings_is_refused(recipe: Path) -> None:
    align.main(["data/train", "data/test"])
    with pytest.raises(
        UserError, match="data/alignment: holds an alignment of other recordings or texts; delete it, or name"
    ):
        align.main(["data/train"])
    Path("words.txt").write_text("".join(f"{u.text} x y\n" for u in manifest.read("data/train")))
    with pytest.raises(UserError, match="holds an alignment of other pronunciations"):
        align.main(["data/train", "data/test", "--lexicon", "words.txt"])
    Path("data/alignment/align.json").write_text("{")
    with pytest.raises(UserError, match="align.json: not JSON .* delete the folder"):
        align.main(["data/train", "data/test"])


def test_a_lexicon_may_be_of_other_case_and_its_gaps_are_told(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [u.text for name in ("train", "test") for u in manifest.read(f"data/{name}")]
    Path("lexicon.txt").write_text("".join(f"{word.lower()} {' '.join(word)}\n" for word in words[1:]))
    align.main(["data/train", "data/test", "--lexicon", "lexicon.txt"])
    assert (
        f"lexicon.txt: 1 words (1 times) are missing and aligned as noise, e.g. {words[0]}" in capsys.readouterr().err
    )
    Path("lexicon.txt").write_text("other o t h\n")
    with pytest.raises(UserError, match=r"lexicon.txt: has none of the \d+ words, e.g. .*; is it of this corpus?"):
        align.main(["data/train", "data/test", "--lexicon", "lexicon.txt", "--out", "other"])
    assert not Path("other").exists()


def test_mistakes_are_one_line(recipe: Path) -> None:
    with pytest.raises(UserError, match="--lexicon and --lang both say"):
        align.main(["data/train", "--lexicon", "a", "--lang", "en-us"])
    with pytest.raises(UserError, match="no aligner is named 'hmn'; did you mean 'hmm'?"):
        align.main(["data/train", "--aligner", "hmn"])
    with pytest.raises(UserError, match="no such manifest"):
        align.main(["data/trian"])
    with pytest.raises(UserError, match="two of the manifests have one name"):
        align.main(["data/train", "data/train.jsonl"])
    lines = [json.loads(line) for line in Path("data/test.jsonl").read_text().splitlines()]
    lines[1]["audio"] = "gone.wav"
    Path("data/test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="gone.wav: the audio of test-1 is gone"):
        align.main(["data/test"])
    assert not Path("data/alignment/align.json").exists()


def test_what_cannot_be_aligned_is_left_out_and_told(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in Path("data/test.jsonl").read_text().splitlines()]
    lines[1]["text"] = "ABCDEABCDE" * 20
    Path("data/test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    align.main(["data/train", "data/test"])
    told = " ".join(capsys.readouterr().err.split())
    assert "test: 1 of 4 utterances are left out, e.g. test-1: " in told and "s are too short for its 1 words" in told
    assert [line.split()[0] for line in Path("data/alignment/test.ctm").read_text().splitlines()] == [
        "test-0",
        "test-2",
        "test-3",
    ]


def rewritten(name: str, **changes: list[object]) -> None:
    """A manifest whose first lines have other values."""
    lines = [json.loads(line) for line in Path(f"data/{name}.jsonl").read_text().splitlines()]
    for key, values in changes.items():
        for line, value in zip(lines, values, strict=False):
            line[key] = value
    Path(f"data/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"utt_id": ["a", "a"]}, "test.jsonl: utterances 'a' and 'a' would have one name"),
        ({"utt_id": ["a b"]}, "test.jsonl: the utt_id 'a b' cannot stand in a CTM"),
        ({"utt_id": [""]}, "test.jsonl: the utt_id '' cannot stand in a CTM"),
        ({"utt_id": ["a\0b"]}, "test.jsonl: the utt_id 'a.x00b' cannot stand in a CTM"),
        ({"utt_id": [";;a"]}, "test.jsonl: the utt_id ';;a' cannot stand in a CTM"),
        ({"utt_id": ["a/b", "a_b"]}, "test.jsonl: utterances 'a/b' and 'a_b' would have one name"),
        ({"seconds": [0.0]}, "test.jsonl: utterance 'test-0' lasts 0 s; `asrtts prepare` .* fills that in"),
    ],
)
def test_utterances_that_an_alignment_could_not_tell_apart_or_time_are_refused(
    recipe: Path, changes: dict[str, list[object]], told: str
) -> None:
    rewritten("test", **changes)
    with pytest.raises(UserError, match=told):
        align.main(["data/test", "--learn", "data/train", "--textgrid"])
    assert not Path("data/alignment").exists()


def test_a_manifest_without_utterances_has_an_empty_alignment(recipe: Path) -> None:
    Path("data/none.jsonl").write_text("")
    align.main(["data/none", "--learn", "data/train", "--textgrid"])
    assert Path("data/alignment/none.ctm").read_text() == ""
    assert list(Path("data/alignment/none").iterdir()) == []


def test_what_others_left_in_the_folder_is_neither_taken_for_finished_nor_deleted(recipe: Path) -> None:
    Path("mfa").mkdir()
    Path("mfa/test.ctm").write_text("test-0 1 0.0 0.1 A\n")
    with pytest.raises(UserError, match="mfa/test.ctm: is there and not of this alignment; name another folder"):
        align.main(["data/test", "--learn", "data/train", "--out", "mfa"])
    Path("data/test").mkdir()
    Path("data/test/spoken.wav").write_text("recorded")
    call = ["data/test", "--learn", "data/train", "--out", "data"]
    with pytest.raises(UserError, match="data/test: is there and not of this alignment"):
        align.main([*call, "--textgrid"])
    align.main(call)
    with pytest.raises(UserError, match="data/test: is there and not of this alignment"):
        align.main([*call, "--textgrid"])
    assert Path("data/test/spoken.wav").read_text() == "recorded"


def killed(call: list[str], name: str, times: int) -> int:
    """What the system says of a process that is killed as it begins to write a file of this name once more."""
    code = """if True:
        import os, signal, sys
        from asrtts import storage
        from asrtts.bin import align
        write, (name, times), count = storage.write, sys.argv[1:3], 0
        def killing(goal, text):
            global count
            if goal.name == name:
                if count == int(times):
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
            write(goal, text)
        storage.write = killing
        align.main(sys.argv[3:])"""
    command = [sys.executable, "-c", code, name, str(times), *call]
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    return subprocess.run(command, check=False, capture_output=True, env=environment).returncode


def contents(folder: str) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): p.read_text() for p in Path(folder).rglob("*") if p.suffix != ".npz" and p.is_file()
    }


def test_a_process_that_is_killed_leaves_what_the_next_one_completes(recipe: Path) -> None:
    """Killed among its TextGrids, and then between the CTM and the record of it."""
    call = ["data/test", "--learn", "data/train", "--textgrid", "--out", "killed"]
    for name, times in (("test-2.TextGrid", 0), ("align.json", 1)):
        assert killed(call, name, times) == -signal.SIGKILL
    align.main(call)
    align.main([*call[:-1], "whole"])
    assert contents("killed") == contents("whole")
    assert not [path for path in Path("killed").iterdir() if path.name.endswith(".part")]


def test_a_second_process_is_told_to_wait(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = hmm.train

    def meanwhile(*given: object) -> list[Path]:
        with pytest.raises(UserError, match="data/alignment: another process .* wait for it, or name another folder"):
            align.main(["data/train", "data/test"])
        return train(*given)

    monkeypatch.setattr(hmm, "train", meanwhile)
    align.main(["data/train", "data/test"])
    assert Path("data/alignment/test.ctm").is_file()


def test_what_was_changed_is_kept_and_written_again(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["data/test", "--learn", "data/train", "--textgrid"]
    align.main(call)
    before, folder = contents("data/alignment"), Path("data/alignment")
    (folder / "test.ctm").write_text("test-0 1 0.0 0.1 A\n")
    with open(folder / "hmm.npz", "ab") as model:
        model.write(b"damaged")
    align.main(call)
    after = contents("data/alignment")
    assert after.pop("test.ctm.changed") == "test-0 1 0.0 0.1 A\n" and after == before
    (folder / "test/test-1.TextGrid").write_text("corrected in Praat")
    (folder / "test/notes.txt").write_text("mine")
    align.main(call)
    assert (folder / "test.changed/test-1.TextGrid").read_text() == "corrected in Praat"
    assert (folder / "test.changed/notes.txt").read_text() == "mine"
    assert (folder / "test/test-1.TextGrid").read_text() == before["test/test-1.TextGrid"]
    told = " ".join(capsys.readouterr().err.split())
    assert "is not as it was written; data/alignment/test is kept as test.changed and written again" in told
    (folder / "test/test-1.TextGrid").unlink()  # gone, not changed
    align.main(call)
    assert contents("data/alignment")["test/test-1.TextGrid"] == before["test/test-1.TextGrid"]
    (folder / "test/test-1.TextGrid").write_text("again")
    with pytest.raises(
        UserError, match=r"test-1.TextGrid: is not as it was written, and .*changed is there too; delete"
    ):
        align.main(call)


def test_a_ctm_that_others_left_meanwhile_is_not_taken_for_finished(recipe: Path) -> None:
    """The alignment has begun, but it did not come to that file."""
    align.main(["data/train", "data/test"])
    record = json.loads(Path("data/alignment/align.json").read_text())
    for key in ("own", "done"):
        record[key].remove("test.ctm")
    del record["files"]["test.ctm"]
    Path("data/alignment/align.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="data/alignment/test.ctm: is there and not of this alignment"):
        align.main(["data/train", "data/test"])


def test_the_folder_of_an_older_asrtts_is_refused(recipe: Path) -> None:
    Path("data/alignment").mkdir()
    Path("data/alignment/align.json").write_text('{"asrtts": "0.0.9", "aligner": "hmm"}')
    with pytest.raises(UserError, match="data/alignment: an older asrtts wrote it; delete it, or name another folder"):
        align.main(["data/test", "--learn", "data/train"])


def test_numbers_and_comments_of_a_lexicon_are_no_phones(recipe: Path) -> None:
    words = {u.text for name in ("train", "test") for u in manifest.read(f"data/{name}")}
    lines = {
        "plain": "{0} {1}\n",
        "mfa": "{0}\t0.99\t0.17\t1.7\t0.97\t{1}\n",
        "lexiconp": "{0} 1.0 {1}\n",
        "cmudict": "{0} {1} # word, english\n",
    }
    ctms = []
    for name, line in lines.items():
        Path(f"{name}.txt").write_text("".join(line.format(word.lower(), " ".join(word)) for word in sorted(words)))
        align.main(["data/test", "--learn", "data/train", "--lexicon", f"{name}.txt", "--out", name])
        ctms.append(Path(name, "test.ctm").read_text())
    assert ctms == ctms[:1] * len(lines)


def test_a_word_is_looked_up_in_other_case_and_without_its_punctuation(tmp_path: Path) -> None:
    (tmp_path / "lexicon.txt").write_text("HELLO h\nO'CLOCK o\nCAFE\u0301 c\n")
    said = [Utterance("u", "", "hello, o\u2019clock - caf\u00e9! <unk>")]
    known = pronunciations(tmp_path / "lexicon.txt", None, said)
    assert known == {"hello,": [("h",)], "o\u2019clock": [("o",)], "caf\u00e9!": [("c",)]}
    assert list(pronunciations(None, None, said)) == ["hello,", "o\u2019clock", "caf\u00e9!"]  # spelled
