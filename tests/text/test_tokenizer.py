"""Text to token ids and back."""

import errno
import json
import os
import re
import shutil

import pytest

from asrtts.registry import UserError
from asrtts.text import tokenizer
from asrtts.text.tokenizer import Tokenizer

ENGLISH = ["turn the light on", "turn the radio off", "set the volume to seven", "don't open the window"] * 3
CHINESE = ["打开厨房的灯", "关上窗户", "把音量调到七"] * 3
LEXICON = {
    "turn": [("T", "ER", "N")],
    "the": [("DH", "AH"), ("DH", "IY")],
    "two": [("T", "UW")],
    "to": [("T", "UW")],
    "light": [("L", "AY", "T")],
}


def make(kind, texts):
    size = {"bpe": 34, "unigram": 20 if texts is CHINESE else 24}.get(kind)
    if kind == "phone":
        lexicon = {word: [tuple(word)] for text in texts for word in tokenizer.normalization.words(text)}
        return tokenizer.make(texts, kind, lexicon=lexicon)
    return tokenizer.make(texts, kind, size)


@pytest.mark.parametrize("texts", [ENGLISH, CHINESE], ids=["english", "chinese"])
@pytest.mark.parametrize("kind", tokenizer.KINDS)
def test_decoding_what_was_encoded_gives_the_text_back(kind, texts):
    tokens = make(kind, texts)
    for text in texts:
        ids = tokens.encode(text)
        assert tokens.decode(ids) == text
        assert all(1 < i < tokens.vocab_size for i in ids)  # no blank, no unknown
        assert tokens.uncovered(text) == set()


@pytest.mark.parametrize("kind", tokenizer.KINDS)
def test_the_same_text_gives_the_same_tokens(kind):
    assert make(kind, ENGLISH).pieces == make(kind, ENGLISH).pieces
    assert make(kind, ENGLISH).fingerprint() == make(kind, ENGLISH).fingerprint()


@pytest.mark.parametrize("kind", tokenizer.KINDS)
def test_loading_gives_what_was_saved(kind, tmp_path):
    made = make(kind, ENGLISH)
    made.save(tmp_path / "tokens", {"size": 7})
    read = Tokenizer.load(tmp_path / "tokens")
    assert (read.kind, read.pieces, read.fingerprint()) == (kind, made.pieces, made.fingerprint())
    assert [read.encode(text) for text in ENGLISH] == [made.encode(text) for text in ENGLISH]
    assert tokenizer.settings_of(tmp_path / "tokens") == {"size": 7}
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_blank_is_0_and_unknown_is_1():
    for kind in tokenizer.KINDS:
        assert make(kind, ENGLISH).pieces[:2] == ["<blank>", "<unk>"]


def test_the_size_counts_every_token():
    for kind, size in (("char", 12), ("bpe", 40), ("unigram", 24)):
        assert tokenizer.make(ENGLISH, kind, size).vocab_size == size


def test_the_token_list_is_a_piece_and_its_id_a_line(tmp_path):
    make("char", ["b a"]).save(tmp_path / "tokens")
    assert (tmp_path / "tokens" / "tokens.txt").read_text() == "<blank> 0\n<unk> 1\na 2\nb 3\n▁ 4\n"


def test_chinese_characters_need_no_space_token():
    assert "▁" not in make("char", CHINESE).pieces


def test_a_smaller_char_list_keeps_the_most_frequent():
    tokens = tokenizer.make(["aaa bb c"], "char", 5)
    assert tokens.pieces[2:] == ["a", "b", "▁"]
    assert tokens.uncovered("abc") == {"c"}


def test_what_is_not_covered_is_named_and_becomes_unknown():
    for kind in ("char", "bpe", "unigram"):
        tokens = make(kind, ENGLISH)
        assert tokens.uncovered("turn Ω off") == {"Ω"}
        assert 1 in tokens.encode("Ω")
        assert tokens.decode(tokens.encode("turn Ω off")) == "turn ⁇ off"


def test_blanks_are_left_out_of_the_text():
    tokens = make("char", ENGLISH)
    on = tokens.encode("on")
    assert tokens.decode([0, on[0], 0, 0, on[1], 0]) == "on"


def test_phones_are_read_back_as_the_more_frequent_of_two_words():
    tokens = tokenizer.make(["to to two"], "phone", lexicon=LEXICON)
    assert tokens.decode(tokens.encode("turn the light two")) == "turn the light to"


def test_every_pronunciation_is_read_back_and_other_phones_are_shown():
    tokens = tokenizer.make(["turn the light"], "phone", lexicon=LEXICON)
    ids = {piece: i for i, piece in enumerate(tokens.pieces)}
    assert tokens.decode([ids[p] for p in ["DH", "IY", "▁", "L", "AY", "▁", "T", "ER", "N"]]) == "the L AY turn"


def test_a_word_without_phones_is_uncovered_and_one_unknown():
    tokens = tokenizer.make(["turn the light"], "phone", lexicon=LEXICON)
    assert tokens.uncovered("turn the radio") == {"radio"}
    assert tokens.encode("radio") == [1]


def test_the_fingerprint_knows_the_lexicon(tmp_path):
    other = LEXICON | {"light": [("T", "AY", "L")]}
    one, two = (tokenizer.make(["light"], "phone", lexicon=lexicon) for lexicon in (LEXICON, other))
    assert one.pieces == two.pieces
    assert one.fingerprint() != two.fingerprint()


@pytest.mark.parametrize("kind", ["char", "bpe", "phone"])
def test_files_of_two_runs_are_refused(kind, tmp_path):
    make(kind, ENGLISH).save(tmp_path / "a")
    make(kind, ["turn it down and stop"]).save(tmp_path / "b") if kind != "bpe" else tokenizer.make(
        ENGLISH, "bpe", 36
    ).save(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "tokens.txt", tmp_path / "a" / "tokens.txt")
    with pytest.raises(UserError, match=r"a: damaged, or files of two runs.*asrtts tokenize"):
        Tokenizer.load(tmp_path / "a")


@pytest.mark.parametrize("where", ["pathlib.Path.write_bytes", "asrtts.text.tokenizer.os.replace"])
def test_a_full_disk_is_one_line_and_leaves_the_old_tokens(tmp_path, monkeypatch, where):
    make("char", ENGLISH).save(tmp_path / "tokens")
    before = Tokenizer.load(tmp_path / "tokens").fingerprint()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(UserError, match="tokens: the disk is full"):
            make("char", ["XYZ"]).save(tmp_path / "tokens")
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]
    assert Tokenizer.load(tmp_path / "tokens").fingerprint() == before


def test_damaged_tokens_are_refused_by_name(tmp_path):
    def saved():
        shutil.rmtree(tmp_path / "t", ignore_errors=True)
        make("bpe", ENGLISH).save(tmp_path / "t")
        return tmp_path / "t"

    about = json.loads((saved() / "tokenizer.json").read_text())
    with pytest.raises(UserError, match="no tokens there"):
        Tokenizer.load(tmp_path / "nowhere")
    (saved() / "tokenizer.json").write_text("[" * 99999)
    with pytest.raises(UserError, match="tokenizer.json: damaged; make them again"):
        Tokenizer.load(tmp_path / "t")
    (saved() / "sentencepiece.model").unlink()
    with pytest.raises(UserError, match="sentencepiece.model is missing"):
        Tokenizer.load(tmp_path / "t")
    (saved() / "sentencepiece.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.load(tmp_path / "t")
    for text in ("{", "[]", json.dumps(about | {"kind": "word"}), json.dumps({"version": 1})):
        (saved() / "tokenizer.json").write_text(text)
        with pytest.raises(UserError, match="tokenizer.json: "):
            Tokenizer.load(tmp_path / "t")


@pytest.mark.parametrize(
    ("kind", "size", "line"),
    [
        ("chra", None, "did you mean 'char'"),
        ("bpe", None, "need --size"),
        ("bpe", 9, r"--size 9 is too small.* 2\d bpe tokens"),
        ("unigram", 9, "--size 9 is too small"),
        ("bpe", 5000, r"--size 5000 is too large.*at most \d+ bpe"),
        ("unigram", 5000, r"--size 5000 is too large.*at most \d+ unigram"),
        ("char", 2, "too small"),
        ("phone", None, "--lexicon FILE"),
    ],
)
def test_what_cannot_be_made_is_one_line_with_the_way_out(kind, size, line):
    with pytest.raises(UserError, match=line) as error:
        tokenizer.make(ENGLISH, kind, size)
    assert "\n" not in str(error.value)


def test_the_size_that_an_error_allows_is_allowed():
    for kind in ("bpe", "unigram"):
        for size in (5000, 9):
            with pytest.raises(UserError) as error:
                tokenizer.make(ENGLISH, kind, size)
            allowed = int(re.search(r"(\d+) \w+ tokens$", str(error.value))[1])
            assert tokenizer.make(ENGLISH, kind, allowed).vocab_size == allowed
    with pytest.raises(UserError, match="every transcript is empty"):
        tokenizer.make(["", " "], "char")
