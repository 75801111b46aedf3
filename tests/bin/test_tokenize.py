"""asrtts tokenize: a manifest's text as a folder of tokens."""

import subprocess
import sys

import pytest

from asrtts.bin import tokenize
from asrtts.data import manifest
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError
from asrtts.text.tokenizer import Tokenizer

TEXTS = ["turn the light on", "turn the radio off", "set the volume to seven"]


@pytest.fixture
def train(tmp_path):
    manifest.write(tmp_path / "train.jsonl", [Utterance(f"u{i}", "a.wav", text) for i, text in enumerate(TEXTS)])
    return str(tmp_path / "train")


def test_a_summary_line_tells_what_was_made(train, tmp_path, capsys):
    tokenize.main([train, str(tmp_path / "tokens"), "--kind", "char"])
    line = capsys.readouterr().out
    assert "19 char tokens; most frequent ▁ 10, t 8, e 7; least " in line
    assert "; 9 seen fewer than 3 times" in line
    assert line.count("\n") == 1
    assert Tokenizer.load(tmp_path / "tokens").vocab_size == 19


def test_finished_tokens_are_left_alone(train, tmp_path, capsys):
    tokenize.main([train, str(tmp_path / "tokens")])
    before = (tmp_path / "tokens" / "tokens.txt").stat().st_mtime_ns
    tokenize.main([train, str(tmp_path / "tokens")])
    assert "finished before" in capsys.readouterr().out
    assert (tmp_path / "tokens" / "tokens.txt").stat().st_mtime_ns == before


def test_other_settings_other_text_or_damage_make_them_anew(train, tmp_path):
    folder = tmp_path / "tokens"
    tokenize.main([train, str(folder)])
    tokenize.main([train, str(folder), "--kind", "bpe", "--size", "30"])
    assert Tokenizer.load(folder).kind == "bpe"
    tokenize.main([train, str(folder), "--size", "10"])
    assert Tokenizer.load(folder).vocab_size == 10
    assert not (folder / "sentencepiece.model").exists()
    manifest.write(tmp_path / "train.jsonl", [Utterance("u", "a.wav", "a b c")])
    tokenize.main([train, str(folder), "--size", "10"])
    assert Tokenizer.load(folder).pieces[2:] == ["a", "b", "c", "▁"]
    (folder / "tokens.txt").write_text("<blank> 0\n")
    tokenize.main([train, str(folder), "--size", "10"])
    assert Tokenizer.load(folder).vocab_size == 6


def test_phones_come_from_a_lexicon(train, tmp_path, capsys):
    words = {word for text in TEXTS for word in text.split()} - {"radio"}
    (tmp_path / "lexicon.txt").write_text("".join(f"{word} {' '.join(word)}\n" for word in sorted(words)))
    tokenize.main([train, str(tmp_path / "tokens"), "--kind", "phone", "--lexicon", str(tmp_path / "lexicon.txt")])
    assert "<unk> 1 times" in capsys.readouterr().out
    assert Tokenizer.load(tmp_path / "tokens").uncovered(TEXTS[1]) == {"radio"}


def test_a_lexicon_in_other_letters_is_refused_with_the_way_out(train, tmp_path):
    words = {word for text in TEXTS for word in text.split()}
    (tmp_path / "lexicon.txt").write_text("".join(f"{word.upper()} {' '.join(word)}\n" for word in sorted(words)))
    given = [train, str(tmp_path / "tokens"), "--kind", "phone", "--lexicon", str(tmp_path / "lexicon.txt")]
    said = (
        "train: 100% of its tokens are unknown to the phone tokens, e.g. .*; write it in capital letters.*--case upper"
    )
    with pytest.raises(UserError, match=said):
        tokenize.main(given)
    (tmp_path / "lexicon.txt").write_text("other O\n")
    with pytest.raises(UserError, match="name a lexicon that has these words"):
        tokenize.main(given)
    assert not (tmp_path / "tokens").exists()


def test_phones_come_from_espeak(train, tmp_path):
    pytest.importorskip("espeakng_loader")
    tokenize.main([train, str(tmp_path / "tokens"), "--kind", "phone", "--lang", "en-us"])
    tokens = Tokenizer.load(tmp_path / "tokens")
    assert [tokens.decode(tokens.encode(text)) for text in TEXTS] == TEXTS


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--kind", "chra"], "did you mean 'char'"),
        (["--kind", "bpe"], "bpe tokens need --size"),
        (["--kind", "char", "--lang", "en"], "--lang are for --kind phone, not for char"),
        (["--kind", "phone"], "--lexicon FILE"),
        (["--sise", "4"], "did you mean '--size'"),
        (["--size", "many"], "--size"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(more, line, train, tmp_path):
    with pytest.raises(UserError, match=line) as error:
        tokenize.main([train, str(tmp_path / "tokens"), *more])
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


@pytest.mark.parametrize(("place", "held"), [("", "holds train.jsonl"), ("train.jsonl", "is a file")])
def test_tokens_replace_nothing_but_tokens(place, held, train, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")  # that of somebody else
    before = (tmp_path / "train.jsonl").read_bytes()
    with pytest.raises(UserError, match=f"{held}, which tokens would replace; name a folder"):
        tokenize.main([train, str(tmp_path / place)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "train.jsonl"]
    assert (tmp_path / "train.jsonl").read_bytes() == before


def test_the_folder_we_are_in_is_not_replaced(train, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="is the folder you are in, which tokens would replace"):
        tokenize.main([train, "."])


def test_tokens_that_were_put_by_stay(train, tmp_path):
    tokenize.main([train, str(tmp_path / "tokens.old"), "--size", "9"])
    for size in ("8", "10"):
        tokenize.main([train, str(tmp_path / "tokens"), "--size", size])
    assert Tokenizer.load(tmp_path / "tokens.old").vocab_size == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokens", "tokens.old", "train.jsonl"]


def test_making_tokens_needs_no_torch(train, tmp_path):
    code = f"import sys; from asrtts.bin import tokenize; tokenize.main([{train!r}, {str(tmp_path / 'tokens')!r}]);"
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


def test_a_working_directory_that_was_deleted_is_no_traceback(train, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    tokenize.main([train, str(tmp_path / "tokens")])
    assert Tokenizer.load(tmp_path / "tokens").vocab_size == 19
    with pytest.raises(UserError, match="deleted") as error:
        tokenize.main([train, "tokens"])
    assert "\n" not in str(error.value)
