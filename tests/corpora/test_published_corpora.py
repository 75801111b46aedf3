"""AN4, LibriSpeech, AISHELL and yesno: from small trees in their form, and from the real ones where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import soundfile

from asrtts.corpora import aishell, an4, librispeech, yesno
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def ids(utterances: list[Utterance]) -> list[str]:
    return [u.utt_id for u in utterances]


def an4_tree(tree: Path) -> Path:
    """103 training items of two speakers, in another order than their ids."""
    lines = [f"<s> WORD {i} </s> (an{i}-mbbb-b)\n" for i in range(200, 297)]
    lines += ["<s> YES </s> (cen10-faaa-b)\n", "\n", "<s> NO </s> (cen1-faaa-b)\n"]
    lines += [f"<s> GO </s> (an{i}-faaa-b)\n" for i in (9, 10, 100, 1)]
    write(tree / "etc" / "an4_train.transcription", "".join(lines))
    write(tree / "etc" / "an4_test.transcription", "ERASE C (an7-fzzz-b)\n")
    return tree


@pytest.mark.parametrize("below", ["", "an4", "an4/an4"])
def test_an4_is_found_from_its_folder_its_parent_and_the_folder_above(tmp_path: Path, below: str) -> None:
    an4_tree(tmp_path / below)
    splits = an4.utterances(tmp_path)
    assert {split: len(found) for split, found in splits.items()} == {"train": 3, "dev": 100, "test": 1}
    audio = tmp_path / below / "wav/an4test_clstk/fzzz/an7-fzzz-b.sph"
    assert splits["test"] == [Utterance("fzzz-an7-b", os.path.abspath(audio), "ERASE C", "fzzz")]


def test_an4_is_cut_in_the_c_order_of_speaker_first_ids(tmp_path: Path) -> None:
    splits = an4.utterances(an4_tree(tmp_path))
    first = ["faaa-an1-b", "faaa-an10-b", "faaa-an100-b", "faaa-an9-b", "faaa-cen1-b", "faaa-cen10-b", "mbbb-an200-b"]
    assert ids(splits["dev"])[:7] == first
    assert ids(splits["train"]) == ["mbbb-an294-b", "mbbb-an295-b", "mbbb-an296-b"]
    assert [u.text for u in splits["dev"][4:7]] == ["NO", "YES", "WORD 200"]


def test_an4_names_a_line_of_another_form(tmp_path: Path) -> None:
    path = an4_tree(tmp_path) / "etc" / "an4_test.transcription"
    path.write_text("YES (an7-fzzz-b)\nNO an8-fzzz-b\n")
    with pytest.raises(UserError, match=r"an4_test.transcription:2: wanted .* found 'NO an8-fzzz-b'"):
        an4.utterances(tmp_path)


def test_yesno_reads_the_file_names_and_keeps_the_splits_apart(tmp_path: Path) -> None:
    names = sorted(f"{i:08b}"[::-1] for i in range(0, 240, 4))
    for name in names:
        write(tmp_path / "waves_yesno" / ("_".join(name) + ".wav"))
    write(tmp_path / "waves_yesno" / "README")
    splits = yesno.utterances(tmp_path)
    assert {split: len(found) for split, found in splits.items()} == {"train": 25, "dev": 5, "test": 30}
    assert len({u.utt_id for found in splits.values() for u in found}) == 60
    assert ids(splits["test"]) == ["_".join(name) for name in names[1::2]]
    for u in splits["dev"]:
        assert u.text.split() == ["YES" if digit == "1" else "NO" for digit in u.utt_id.split("_")]


def test_yesno_names_a_file_that_says_something_else(tmp_path: Path) -> None:
    write(tmp_path / "0_0_0_0_1_1_1_1.wav")
    write(tmp_path / "0_0_0_0_1_1_1_2.wav")
    with pytest.raises(UserError, match=r"0_0_0_0_1_1_1_2\.wav: wanted a name of eight"):
        yesno.utterances(tmp_path)


def chapter(tree: Path, subset: str, speaker: int, count: int) -> None:
    folder = tree / subset / str(speaker) / "77"
    names = [f"{speaker}-77-{i:04d}" for i in range(count)]
    write(folder / f"{speaker}-77.trans.txt", "".join(f"{name} SAID {i}\n" for i, name in enumerate(names)))
    for name in names:
        write(folder / f"{name}.flac")


@pytest.mark.parametrize("below", ["", "LibriSpeech", "librispeech", "librispeech/LibriSpeech"])
def test_librispeech_joins_train_and_dev_and_keeps_each_test_set(tmp_path: Path, below: str) -> None:
    subsets = ("train-clean-100", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")
    for speaker, subset in enumerate(subsets):
        chapter(tmp_path / below, subset, 10 + speaker, 2)
    splits = librispeech.utterances(tmp_path)
    found = {split: ids(utterances) for split, utterances in splits.items()}
    assert found["train"] == ["10-77-0000", "10-77-0001", "11-77-0000", "11-77-0001"]
    assert found["dev"] == ["12-77-0000", "12-77-0001", "13-77-0000", "13-77-0001"]
    assert found["test-clean"] == ["14-77-0000", "14-77-0001"] and list(found)[-1] == "test-other"
    assert splits["train"][1].text == "SAID 1" and splits["train"][1].speaker == "10"
    assert Path(splits["train"][1].audio).is_file()


def test_librispeech_without_dev_holds_out_the_same_tenth_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chapter(tmp_path, "train-clean-100", 5, 25)
    splits = librispeech.utterances(tmp_path)
    assert ids(splits["dev"]) == ["5-77-0009", "5-77-0019"] and len(splits["train"]) == 23
    assert "has no dev: every tenth training utterance is dev" in capsys.readouterr().err
    assert librispeech.utterances(tmp_path) == splits


def test_librispeech_counts_audio_without_transcript(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chapter(tmp_path, "test-clean", 5, 3)
    write(tmp_path / "test-clean/5/77/5-77-0099.flac")
    assert len(librispeech.utterances(tmp_path)["test-clean"]) == 3
    assert "1 audio files without transcript are left out, e.g. 5-77-0099" in capsys.readouterr().err


def test_what_macos_keeps_beside_a_file_is_no_file_of_a_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chapter(tmp_path, "test-clean", 5, 2)
    aishell_tree(tmp_path)
    write(tmp_path / "yesno/1_1_1_1_0_0_0_0.wav"), write(tmp_path / "yesno/0_1_1_1_0_0_0_0.wav")
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.with_name("._" + path.name).write_bytes(b"\0\5\x16\7\xff")
    assert len(librispeech.utterances(tmp_path)["test-clean"]) == 2
    assert aishell.utterances(tmp_path)["train"] and yesno.utterances(tmp_path / "yesno")["test"]
    assert "._" not in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".FLAC", ".wav", ".WAV"])
def test_endings_may_be_in_upper_case_and_librispeech_wav(tmp_path: Path, ending: str) -> None:
    chapter(tmp_path, "test-clean", 5, 2)
    aishell_tree(tmp_path, "flac")
    for path in list(tmp_path.rglob("*.flac")):
        path.rename(path.with_suffix(ending))
    found = [*librispeech.utterances(tmp_path)["test-clean"], *aishell.utterances(tmp_path)["train"]]
    assert len(found) > 2 and all(Path(u.audio).is_file() for u in found)


def test_librispeech_names_a_line_of_another_form(tmp_path: Path) -> None:
    chapter(tmp_path, "test-clean", 5, 1)
    write(tmp_path / "test-clean/5/77/5-77.trans.txt", "5-77-0000 HELLO\n6-77-0001 HELLO\n")
    with pytest.raises(UserError, match=r"5-77\.trans\.txt:2: wanted .* found '6-77-0001 HELLO'"):
        librispeech.utterances(tmp_path)


def test_librispeech_counts_a_chapter_that_lost_its_transcript(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chapter(tmp_path, "test-clean", 5, 3)
    write(tmp_path / "test-clean/5/78/5-78-0000.flac")
    assert len(librispeech.utterances(tmp_path)["test-clean"]) == 3
    assert "1 audio files without transcript are left out, e.g. 5-78-0000" in capsys.readouterr().err


def test_librispeech_reads_transcripts_with_tabs_and_empty_lines(tmp_path: Path) -> None:
    chapter(tmp_path, "test-clean", 5, 2)
    write(tmp_path / "test-clean/5/77/5-77.trans.txt", " 5-77-0000\tHELLO  YOU \n\n5-77-0001 HELLO\n\n")
    assert [u.text for u in librispeech.utterances(tmp_path)["test-clean"]] == ["HELLO  YOU", "HELLO"]


def test_librispeech_names_the_subsets_where_a_folder_has_another_name(tmp_path: Path) -> None:
    chapter(tmp_path, "train-mine", 5, 2)
    with pytest.raises(UserError, match=r"none of its folders is named as a subset \(choices: train-clean-100"):
        librispeech.utterances(tmp_path)


def aishell_tree(tree: Path, kind: str = "wav") -> Path:
    write(tree / "transcript/aishell_transcript_v0.8.txt", "U1 甚至 出现\nU2 好\nU3 今天\nU9 没有 声音\n")
    for split, utt_id in (("train", "U1"), ("train", "U4"), ("dev", "U2"), ("test", "U3")):
        write(tree / "wav" / split / f"S{split}" / f"{utt_id}.{kind}")
    return tree


@pytest.mark.parametrize("below", ["", "data_aishell", "aishell/data_aishell"])
@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_aishell_joins_the_words_and_counts_what_has_no_transcript(
    tmp_path: Path, below: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    aishell_tree(tmp_path / below, kind)
    splits = aishell.utterances(tmp_path)
    assert {split: [(u.utt_id, u.text, u.speaker) for u in found] for split, found in splits.items()} == {
        "train": [("U1", "甚至出现", "Strain")],
        "dev": [("U2", "好", "Sdev")],
        "test": [("U3", "今天", "Stest")],
    }
    assert splits["train"][0].audio.endswith(f"U1.{kind}")
    said = capsys.readouterr().err
    assert "1 recordings without transcript are left out, e.g. U4" in said
    assert "1 of 4 transcripts have no recording, e.g. U9" in said


def test_aishell_reads_a_transcript_with_tabs_and_empty_lines(tmp_path: Path) -> None:
    transcript = aishell_tree(tmp_path) / "transcript/aishell_transcript_v0.8.txt"
    write(transcript, "U1\t甚至 出现 \n\n U2 好\nU3 今天\n\n")
    assert [u.text for us in aishell.utterances(tmp_path).values() for u in us] == ["甚至出现", "好", "今天"]


@pytest.mark.parametrize("encoding", ["gbk", "utf-16"])
def test_a_transcript_that_is_not_utf8_is_named_with_its_line_and_what_to_do(tmp_path: Path, encoding: str) -> None:
    transcript = aishell_tree(tmp_path) / "transcript/aishell_transcript_v0.8.txt"
    transcript.write_bytes("U1 好\n".encode(encoding))
    with pytest.raises(UserError, match=f"_v0.8.txt:1: not UTF-8; convert the file, e.g. `iconv -f {encoding} -t"):
        aishell.utterances(tmp_path)


def test_aishell_takes_wav_where_both_are_there(tmp_path: Path) -> None:
    aishell_tree(aishell_tree(tmp_path, "flac"), "wav")
    assert [u.audio[-4:] for u in aishell.utterances(tmp_path)["train"]] == [".wav"]


def test_aishell_says_that_the_speakers_are_still_packed(tmp_path: Path) -> None:
    write(tmp_path / "transcript/aishell_transcript_v0.8.txt", "U1 好\n")
    write(tmp_path / "wav/S0002.tar.gz")
    with pytest.raises(UserError, match="still packed"):
        aishell.utterances(tmp_path)


@pytest.mark.parametrize(("lines", "what"), [("U1 好\nU2\n", "wanted `id text`"), ("U1 好\nU1 好\n", "U1 has a")])
def test_aishell_names_a_bad_transcript_line(tmp_path: Path, lines: str, what: str) -> None:
    write(tmp_path / "transcript/aishell_transcript_v0.8.txt", lines)
    with pytest.raises(UserError, match=f"aishell_transcript_v0.8.txt:2: {what}"):
        aishell.utterances(tmp_path)


@pytest.mark.parametrize("corpus", [an4, yesno, librispeech, aishell])
def test_a_missing_corpus_says_what_was_looked_for_and_how_to_get_it(tmp_path: Path, corpus: object) -> None:
    name = corpus.__name__.rpartition(".")[2]
    with pytest.raises(UserError, match=rf"no {name} here \(looked for .*`asrtts download {name} "):
        corpus.utterances(tmp_path)
    with pytest.raises(UserError, match=rf"gone: no such folder.*`asrtts download {name} "):
        corpus.utterances(tmp_path / "gone")


def sounds(utterances: list[Utterance]) -> set[int]:
    """The sample rates of all the files, each of which opens."""
    return {soundfile.info(u.audio).samplerate for u in utterances}


def test_real_an4_has_the_split_of_espnet(corpora: Path, tmp_path: Path) -> None:
    an4.download(tmp_path, source=corpora)
    splits = an4.utterances(tmp_path)
    assert {split: len(found) for split, found in splits.items()} == {"train": 848, "dev": 100, "test": 130}
    assert (splits["dev"][0].utt_id, splits["dev"][0].text) == ("fash-an251-b", "YES")
    assert (splits["dev"][-1].utt_id, splits["train"][0].utt_id) == ("fjmd-cen8-b", "fkai-an311-b")
    assert splits["test"][0].text == "RUBOUT G M E F THREE NINE"
    speakers = [{u.speaker for u in found} for found in splits.values()]
    assert [len(s) for s in speakers] == [66, 8, 10] and len(set.union(*speakers)) == 84
    assert {c for found in splits.values() for u in found for c in u.text} == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    assert sounds([u for found in splits.values() for u in found]) == {16000}


def test_real_yesno_is_read(corpora: Path, tmp_path: Path) -> None:
    yesno.download(tmp_path, source=corpora / "yesno")
    splits = yesno.utterances(tmp_path)
    assert {split: len(found) for split, found in splits.items()} == {"train": 25, "dev": 5, "test": 30}
    assert sounds([u for found in splits.values() for u in found]) == {8000}


def test_real_librispeech_is_used_in_place(corpora: Path, tmp_path: Path) -> None:
    librispeech.download(tmp_path, source=corpora)
    assert (tmp_path / "librispeech").is_symlink()
    splits = librispeech.utterances(tmp_path)
    assert all(splits.values()) and {"train", "dev"} < splits.keys()
    assert sounds([found[0] for found in splits.values()]) == {16000}
    assert all(u.text == u.text.upper() for found in splits.values() for u in found)


def test_real_aishell_is_used_in_place(corpora: Path, tmp_path: Path) -> None:
    aishell.download(tmp_path, source=corpora)
    splits = aishell.utterances(tmp_path)
    assert list(splits) == ["train", "dev", "test"]
    assert sounds([found[0] for found in splits.values()]) == {16000}
    assert not any(" " in u.text for found in splits.values() for u in found)
