"""Kaldi and ESPnet data folders, as they come from other people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrtts.corpora import kaldi
from asrtts.registry import UserError


def sound(path: Path, seconds: float = 2.0) -> Path:
    soundfile.write(path, np.zeros(int(8000 * seconds), dtype="float32"), 8000)
    return path


def folder(path: Path, **files: str) -> Path:
    """A data folder; the recordings a.wav (2 s) and b.wav (2 s) lie in it."""
    path.mkdir(parents=True, exist_ok=True)
    sound(path / "a.wav"), sound(path / "b.wav")
    usual = {"wav.scp": f"u1 {path}/a.wav\nu2 {path}/b.wav\n", "text": "u1 HELLO YOU\nu2\n", "utt2spk": "u1 s\nu2 t\n"}
    for name, content in {**usual, **{k.replace("wav_scp", "wav.scp"): v for k, v in files.items()}}.items():
        (path / name).write_text(content)
    return path


SEGMENTS = {"text": "x1 ONE\nx2 TWO\n", "utt2spk": "x1 s\nx2 s\n"}


def test_a_folder_is_one_split_of_its_name(tmp_path: Path) -> None:
    root = folder(tmp_path / "eval")
    splits = kaldi.utterances(root)
    assert list(splits) == ["eval"]
    assert [(u.utt_id, u.text, u.speaker, u.audio) for u in splits["eval"]] == [
        ("u1", "HELLO YOU", "s", str(root / "a.wav")),
        ("u2", "", "t", str(root / "b.wav")),
    ]


def test_folders_below_are_the_splits(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        folder(tmp_path / split)
    (tmp_path / "local").mkdir()
    assert sorted(kaldi.utterances(tmp_path)) == ["dev", "test", "train"]


def long(path: Path, count: int) -> Path:
    """A folder with so many utterances."""
    ids = [f"{path.name}-{n}" for n in range(count)]
    lines = {"text": "WORD", "utt2spk": "s", "wav_scp": "a.wav"}
    return folder(path, **{name: "".join(f"{i} {value}\n" for i in ids) for name, value in lines.items()})


def counted(splits: dict) -> dict[str, int]:
    return {split: len(utterances) for split, utterances in splits.items()}


def test_a_folder_that_stands_alone_is_train_and_every_tenth_utterance_dev(tmp_path: Path, capsys) -> None:
    root = long(tmp_path / "recordings", 25)
    for given in (root, tmp_path):
        splits = kaldi.utterances(given)
        assert counted(splits) == {"train": 23, "dev": 2}
        assert [u.utt_id for u in splits["dev"]] == ["recordings-9", "recordings-19"]
        assert f"{given} has no dev: every tenth training utterance is dev, 2 of 25" in capsys.readouterr().err
    assert counted(kaldi.utterances(root, test=["recordings"])) == {"test": 25}
    assert counted(kaldi.utterances(root, train=["recordings"])) == {"train": 23, "dev": 2}


def test_espnets_train_is_the_sum_of_train_nodev_and_train_dev(tmp_path: Path) -> None:
    for name, count in {"train": 8, "train_nodev": 6, "train_dev": 2, "test": 3}.items():
        long(tmp_path / name, count)
    assert counted(kaldi.utterances(tmp_path)) == {"train": 6, "dev": 2, "test": 3}
    long(tmp_path / "dev", 1)  # then the names are somebody's own
    assert counted(kaldi.utterances(tmp_path)) == {"train": 8, "train_nodev": 6, "train_dev": 2, "test": 3, "dev": 1}


def test_splits_are_chosen_by_name(tmp_path: Path, capsys) -> None:
    for name, count in {"si84": 12, "si200": 20, "dev93": 3, "eval92": 4, "eval93": 5, "test_own": 1, "old": 9}.items():
        long(tmp_path / name, count)
    found = kaldi.utterances(tmp_path, train=["si84", "si200"], dev=["dev93"], test=["eval92"])
    assert counted(found) == {"train": 32, "dev": 3, "test": 4}
    assert "left out, as only some were named: eval93, old, test_own" in capsys.readouterr().err
    found = kaldi.utterances(tmp_path, train=["si84"], test=["eval92", "eval93", "test_own"])
    assert counted(found) == {"train": 11, "dev": 1, "test_eval92": 4, "test_eval93": 5, "test_own": 1}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"train": ["trian"]},
            r"--train trian: .* holds no such data folder; did you mean 'train'\? .*choices: eval, test_eval, train",
        ),
        ({"train": ["train"], "dev": ["train"]}, "--dev train: the folder is named twice"),
        ({"test": ["eval", "test_eval"]}, "--test test_eval: it and eval would both be test_eval"),
    ],
)
def test_a_wrong_name_of_a_folder_is_one_line(tmp_path: Path, given: dict, said: str) -> None:
    for name in ("train", "eval", "test_eval"):
        folder(tmp_path / name)
    with pytest.raises(UserError, match=said) as error:
        kaldi.utterances(tmp_path, **given)
    assert "\n" not in str(error.value)


def test_links_to_folders_of_one_name_stay_two_splits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        (tmp_path / "data" / split).symlink_to(folder(tmp_path / split / "corpus"))
    assert sorted(kaldi.utterances(tmp_path / "data")) == ["test", "train"]


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000])
def test_a_path_that_no_file_can_have_is_left_to_prepare(tmp_path: Path, name: str) -> None:
    root = folder(tmp_path / "s", wav_scp=f"u1 {name}.wav\nu2 b.wav\n")
    assert kaldi.utterances(root)["train"][0].audio.endswith(f"{name}.wav")


def test_a_recording_that_is_gone_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "s", wav_scp="r gone.wav\n", segments="x1 r 0 1\nx2 r 1 2\n", **SEGMENTS)
    with pytest.raises(UserError, match=r"wav.scp:1: .*gone.wav: no such file"):
        kaldi.utterances(root)


def test_a_recording_without_a_header_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "s", wav_scp="r r.raw\n", segments="x1 r 0 1\nx2 r 1 2\n", **SEGMENTS)
    (root / "r.raw").write_bytes(b"\1\2" * 32000)
    with pytest.raises(UserError, match=r"wav.scp:1: .*r.raw cannot be read \(samples without a header"):
        kaldi.utterances(root)


def test_relative_paths_start_here_or_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "data" / "train", wav_scp="u1 data/train/a.wav\nu2 b.wav\n")
    monkeypatch.chdir(tmp_path)
    assert [u.audio for u in kaldi.utterances(root)["train"]] == [str(root / "a.wav"), str(root / "b.wav")]


def test_files_of_a_windows_editor_read_as_any_other(tmp_path: Path) -> None:
    root, plain = folder(tmp_path / "windows" / "s"), folder(tmp_path / "plain" / "s")
    for name in ("wav.scp", "text", "utt2spk"):
        content = (plain / name).read_text().replace("\n", "\r\n\r\n")  # and an empty line, which is no entry
        (root / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert kaldi.utterances(root) == kaldi.utterances(plain)


def test_files_of_a_windows_editor_may_be_joined(tmp_path: Path) -> None:
    root = folder(tmp_path / "s", text="\ufeffu1 HELLO YOU\r\n\ufeffu2\r\n")
    assert [(u.utt_id, u.text) for u in kaldi.utterances(root)["train"]] == [("u1", "HELLO YOU"), ("u2", "")]


def test_a_rare_character_ends_no_line(tmp_path: Path) -> None:
    root = folder(tmp_path / "s", text="u1 HELLO\u2028YOU \x85 \x0c \U0001f600\nu2 X\n")
    assert [u.text for u in kaldi.utterances(root)["train"]] == ["HELLO\u2028YOU \x85 \x0c \U0001f600", "X"]


def test_segments_are_stretches_of_recordings(tmp_path: Path) -> None:
    root = folder(tmp_path / "s", segments="x1 u1 0.5 1.25\nx2 u1 1.5 -1\n", **SEGMENTS)
    found = kaldi.utterances(root)["train"]
    assert [(u.utt_id, u.start, u.seconds) for u in found] == [("x1", 0.5, 0.75), ("x2", 1.5, 0.5)]
    assert {u.audio for u in found} == {str(root / "a.wav")}


def test_a_segment_may_name_its_channel(tmp_path: Path) -> None:
    root = folder(tmp_path / "s", segments="x1 u1 0 1 1\nx2 u1 1 2\n", **SEGMENTS)
    soundfile.write(root / "a.wav", np.zeros((16000, 2), dtype="float32"), 8000)
    assert [(u.utt_id, u.channel) for u in kaldi.utterances(root)["train"]] == [("x1", 1), ("x2", 0)]


def test_a_segment_may_end_half_a_second_late_and_is_cut(tmp_path: Path) -> None:
    root = folder(tmp_path / "s", segments="x1 u1 0.5 2.4\nx2 u2 0 1\n", **SEGMENTS)
    assert kaldi.utterances(root)["train"][0].seconds == 1.5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x2 u1 0.5 2.6", "x2 ends at 2.6 s, u1 lasts 2.00 s"),
        ("x2 u1 2.1 2.2", "x2 ends at 2.2 s, u1 lasts 2.00 s"),
        ("x2 u1 1.5 0.5", "x2 goes from 1.5 s to 0.5 s"),
        ("x2 u1 -1 0.5", "x2 goes from -1 s"),
        ("x2 u1 nan 1", "x2 goes from nan s"),
        ("x2 u1 zero 1", "wanted `utterance recording start end`"),
        ("x2 u1 0", "wanted `utterance recording start end`"),
        ("x2 u7 0 1", "recording u7 of x2 is not in"),
        ("x2 u1 0 1 A", "wanted `utterance recording start end`, .* perhaps the channel"),
        ("x2 u1 0 1 -1", "wanted one channel from 0 on behind the times, found -1"),
        ("x2 u1 0 1 0 1", "wanted one channel from 0 on behind the times, found 0 1"),
        ("x2 u1 0 1e-9", "x2 begins at 0 s and has no length"),
        ("x2 u1 2.5 -1", "x2 begins at 2.5 s and has no length, u1 lasts 2.00 s"),
    ],
)
def test_a_bad_segment_is_named_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    root = folder(tmp_path / "s", segments=f"x1 u1 0 1\n{line}\n", **SEGMENTS)
    with pytest.raises(UserError, match=f"segments:2: {said}"):
        kaldi.utterances(root)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text", "u1 A\nu2 B\nu1 C\n", "text:3: u1 is here twice, first on line 1"),
        ("wav_scp", "u1 a.wav\nu1 b.wav\n", "wav.scp:2: u1 is here twice"),
        ("utt2spk", "u1 s\nu2\n", "utt2spk:2: u2 stands without a value"),
        ("utt2spk", "u1 s\n", "text:2: utterance u2 is not in .*utt2spk"),
        ("text", "u1 A\nu3 B\n", "text:2: utterance u3 is not in .*wav.scp"),
        ("text", "", "text: the file is empty"),
        ("text", "u1 A\nu2 B\0\n", "text:2: a zero byte; the file is damaged, or UTF-16"),
        (
            "text",
            "u1 A\nｕ2 B\n",
            r"text:2: .*wav.scp, which has 'u2' where this is '\\uff552'; write both in one form",
        ),
        ("text", "u1 A\nu2\u200b B\n", r"text:2: .*wav.scp, which has 'u2' where this is 'u2\\u200b'"),
        ("wav_scp", "u1 feats.ark:17\nu2 b.wav\n", "wav.scp:1: the audio of u1 lies within an ark"),
        ("wav_scp", "u1 a.wav\nu2 sph2pipe b.sph |\n", "wav.scp:2: the audio of u2 is a command .*--allow-pipes"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    root = folder(tmp_path / "s", **{name: content})
    with pytest.raises(UserError, match=said):
        kaldi.utterances(root)


def test_names_in_two_forms_of_unicode_are_the_same(tmp_path: Path) -> None:
    """The same letters, composed in one file and decomposed in the next, as those that came through macOS are."""
    one, other = "\u00fc", "u\u0308"
    root = folder(
        tmp_path / "a", text=f"{one}1 A\n{other}2 B\n", utt2spk=f"{other}1 s\n{one}2 t\n",
        wav_scp=f"{other}1 {one}.wav\n{one}2 b.wav\n",
    )  # fmt: skip
    sound(root / f"{other}.wav")
    found = kaldi.utterances(root)["train"]
    assert [(u.utt_id, u.speaker) for u in found] == [(f"{one}1", "s"), (f"{other}2", "t")]
    assert found[0].audio == str(root / f"{other}.wav")
    (root / "segments").write_text(f"{one}1 {one}r 0 1\n{other}2 {one}r 1 2\n")
    (root / "wav.scp").write_text(f"{other}r a.wav\n")
    assert [(u.utt_id, u.start) for u in kaldi.utterances(root)["train"]] == [(f"{one}1", 0), (f"{other}2", 1)]


def test_a_command_that_fails_is_quoted_with_escapes(tmp_path: Path) -> None:
    root = folder(tmp_path / "s", wav_scp="u1 printf 'a\\033[2Jb\\n\\n' >&2; false |\nu2 b.wav\n")
    with pytest.raises(UserError, match=r"wav.scp:1: the command failed with status 1 \('a\\x1b\[2Jb'\)"):
        kaldi.utterances(root, allow_pipes=True, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["text", "utt2spk"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (folder(tmp_path / "s") / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        kaldi.utterances(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Kaldi data folder"):
        kaldi.utterances(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        kaldi.utterances(tmp_path / "gone")


def test_audio_without_text_is_left_out_with_a_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "s", text="u1 HELLO\n")
    assert len(kaldi.utterances(root)["train"]) == 1
    assert "1 utterances are not in text and left out, e.g. u2" in capsys.readouterr().err


def test_a_pipe_that_is_not_allowed_does_not_run(tmp_path: Path) -> None:
    root = folder(tmp_path / "s", wav_scp=f"u1 touch {tmp_path}/ran; cat {tmp_path}/s/a.wav |\nu2 b.wav\n")
    with pytest.raises(UserError):
        kaldi.utterances(root, cache=tmp_path / "cache")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "cache").exists()


def test_an_allowed_pipe_runs_once_and_its_sound_is_kept(tmp_path: Path) -> None:
    pipe = f"u/1 echo ran >>{tmp_path}/ran; cat {tmp_path}/s/a.wav | cat |\nu2 {tmp_path}/s/b.wav\n"
    root = folder(tmp_path / "s", wav_scp=pipe, text="u/1 HELLO\nu2 YOU\n", utt2spk="u/1 s\nu2 s\n")
    for _ in range(2):
        found = kaldi.utterances(root, allow_pipes=True, cache=tmp_path / "cache")["train"]
    assert soundfile.info(found[0].audio).duration == 2.0
    assert Path(found[0].audio).parent == tmp_path / "cache"
    assert (tmp_path / "ran").read_text() == "ran\n"


@pytest.mark.parametrize("command", ["false | cat", "no-such-program x", "true"])
def test_a_pipe_that_fails_is_named_and_leaves_nothing(tmp_path: Path, command: str) -> None:
    root = folder(tmp_path / "s", wav_scp=f"u1 {tmp_path}/s/a.wav\nu2 {command} |\n")
    with pytest.raises(UserError, match="wav.scp:2: the command failed"):
        kaldi.utterances(root, allow_pipes=True, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_there_is_nothing_to_download(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data folder of your own"):
        kaldi.download(tmp_path)
