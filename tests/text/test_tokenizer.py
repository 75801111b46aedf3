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
        words = {word for text in texts for word in tokenizer.normalization.words(text)} - {"⁇"}
        lexicon = {word: [tuple(word)] for word in words}
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
    assert tokenizer.is_finished(tmp_path / "tokens", {"size": 7})
    assert not tokenizer.is_finished(tmp_path / "tokens", {"size": 8})
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


def test_chinese_with_blanks_between_its_words_is_the_same_text():
    tokens = make("char", CHINESE)
    assert tokens.encode("打开 厨房 的 灯") == tokens.encode("打开厨房的灯")
    assert tokens.uncovered("打开 厨房 的 灯") == set()


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


# One text, however its blanks and accents are written: tab, no-break, ideographic, line separator, next line, the
# token's own mark; composed and decomposed; with marks that nobody sees.
ONE_TEXT = ["turn the café light on", *["turn the radio off", "set the volume to seven"] * 3]
WRITTEN = [
    "turn\tthe\u00a0café\u3000light  on",
    " turn\u2028the\x85café\x0clight\x1con\n",
    "turn▁the▁café▁light▁on",
    "turn the cafe\u0301 light on",
    "\ufeffturn the\u200e caf\u00adé\u200b li\x07ght on\u2060",
    "<s> turn the café light on </s>",
]


@pytest.mark.parametrize("kind", tokenizer.KINDS)
@pytest.mark.parametrize("written", WRITTEN)
def test_a_text_is_one_text_however_it_is_written(kind, written):
    plain, other = make(kind, ONE_TEXT), make(kind, [written, *ONE_TEXT[1:]])
    assert other.fingerprint() == plain.fingerprint()
    assert plain.encode(written) == plain.encode(ONE_TEXT[0]) and 1 not in plain.encode(written)
    assert plain.decode(plain.encode(written)) == ONE_TEXT[0]
    assert plain.uncovered(written) == set()


@pytest.mark.parametrize("kind", tokenizer.KINDS)
@pytest.mark.parametrize("mark", ["<unk>", "<UNK>", "[unk]", "⁇"])
def test_an_unknown_word_of_a_transcript_is_one_unknown_token(kind, mark):
    plain, other = make(kind, ENGLISH), make(kind, [*ENGLISH, mark])
    assert other.pieces == plain.pieces  # no token is made of it
    for text in ("turn {} light on", "{} turn the light", "turn the {}", "{}"):
        ids = plain.encode(text.format(mark))
        assert ids.count(1) == 1
        assert plain.decode(ids) == text.format("⁇")
        assert plain.uncovered(text.format(mark)) == set()


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_names_of_tokens_are_no_tokens_of_a_text(kind):
    texts = ["<blank> turn the x<blank>y <blank> light on", *ENGLISH] * 5
    tokens = make(kind, texts)
    assert 0 not in tokens.encode(texts[0]) and tokens.decode(tokens.encode("<blank> turn on <eps>")) == "turn on"


def test_phones_that_are_named_as_tokens_are_refused():
    with pytest.raises(UserError, match="<unk> is a phone of the lexicon, and a token already; give the phone another"):
        tokenizer.make(["turn"], "phone", lexicon={"turn": [("<unk>",)]})


def test_a_rare_character_is_a_token_and_ends_no_line(tmp_path):
    tokenizer.make(["a\ue000b"], "char").save(tmp_path / "tokens")
    assert Tokenizer.load(tmp_path / "tokens").pieces[2:] == ["a", "b", "\ue000"]


def test_the_share_of_unknown_tokens_counts_no_blanks():
    for kind in tokenizer.KINDS:
        tokens = make(kind, ENGLISH)
        assert tokens.unknown_share([tokens.encode("TVRN ΩΩΩ XX")]) == 1
        assert tokens.unknown_share([tokens.encode(text) for text in ENGLISH]) == 0
    assert tokens.unknown_share([]) == 0


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_folder_stays_and_is_written_through(tmp_path, there):
    (tmp_path / "large").mkdir()
    if there:
        make("char", CHINESE).save(tmp_path / "large/tokens")
    (tmp_path / "tokens").symlink_to("large/tokens")
    make("char", ENGLISH).save(tmp_path / "tokens")
    assert (tmp_path / "tokens").is_symlink() and not (tmp_path / "large/tokens").is_symlink()
    assert Tokenizer.load(tmp_path / "large/tokens").pieces == make("char", ENGLISH).pieces
    assert sorted(path.name for path in (tmp_path / "large").iterdir()) == ["tokens"]


def test_a_link_to_itself_is_one_line(tmp_path):
    (tmp_path / "tokens").symlink_to("tokens")
    with pytest.raises(UserError, match="tokens: the symbolic link leads to itself; delete it"):
        make("char", ENGLISH).save(tmp_path / "tokens")


def test_tokens_of_before_can_be_read(tmp_path):
    """Their record had no checksums."""
    make("char", ENGLISH).save(tmp_path / "tokens")
    path = tmp_path / "tokens/tokenizer.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in record.items() if k not in ("files", "made_from")} | {"settings": {}}))
    assert Tokenizer.load(tmp_path / "tokens").pieces == make("char", ENGLISH).pieces
    assert not tokenizer.is_finished(tmp_path / "tokens", {"size": 7})
