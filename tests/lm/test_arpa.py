"""ARPA files: what is written is read again, files of others are read, and a bad line is named."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from asrtts.lm import arpa, kneser_ney
from asrtts.registry import UserError
from asrtts.search.ngram import NgramModel

PIECES = ["<blank>", "<unk>", "▁", "A", "B"]
CPU = torch.device("cpu")

# As SRILM writes it: a context without a back-off weight is 0, <s> is impossible, no <unk>; pruned: no "A ▁".
OTHERS = """
ignored
\\data\\
ngram 1=5
ngram 2=4
ngram 3=2

\\1-grams:
-1.0\t</s>
-99\t<s>\t-0.5
-0.5\tA\t-0.25
-0.6\tB\t-0.125
-0.9\t▁

\\2-grams:
-0.1\t<s> A\t-0.3
-0.2\tA B
-0.3\tB </s>
-0.4\t▁ A

\\3-grams:
-0.05\t<s> A B
-0.07\tA B </s>

\\end\\
"""


def scores(model: NgramModel, *tokens: int) -> list[float]:
    """Decimal logarithms of what comes after the tokens."""
    found, state = model.start(1, CPU)
    for token in tokens:
        found, state = model.step(torch.tensor([token]), state)
    return [value / math.log(10) for value in found[0].tolist()]


@pytest.fixture
def others(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(OTHERS, encoding="utf-8")
    return path


def test_what_is_written_is_read_again(tmp_path):
    ngrams = kneser_ney.estimate([[3, 4, 2, 3], [4, 4], [3]], 3, len(PIECES))
    arpa.write(tmp_path / "lm.arpa", ngrams, PIECES)
    before, after = NgramModel(ngrams), NgramModel(arpa.read(tmp_path / "lm.arpa", PIECES))
    for history in ([], [3], [3, 4], [1], [4, 4, 4], [2, 3]):
        assert scores(after, *history) == pytest.approx(scores(before, *history), abs=1e-5)
    first = (tmp_path / "lm.arpa").read_bytes()
    arpa.write(tmp_path / "again.arpa", arpa.read(tmp_path / "lm.arpa", PIECES), PIECES)
    assert first == (tmp_path / "again.arpa").read_bytes()


def test_a_file_of_others_backs_off_as_the_format_says(others):
    model = NgramModel(arpa.read(others, PIECES))
    assert scores(model)[2:] == pytest.approx([-1.4, -0.1, -1.1, -1.5], abs=1e-5)  # <s>, and its weight -0.5
    assert scores(model, 3)[4:] == pytest.approx([-0.05, -0.3 - 0.25 - 1.0], abs=1e-5)
    assert scores(model, 3, 4)[5] == pytest.approx(-0.07, abs=1e-5)  # <s> A B </s> is A B </s>
    assert scores(model, 4, 3, 4)[4:] == pytest.approx([-0.125 - 0.6, -0.07], abs=1e-5)
    assert scores(model, 2)[3] == pytest.approx(-0.4, abs=1e-5)
    assert scores(model, 3)[1] < -99 and scores(model, 1, 1)[3] == pytest.approx(-0.5, abs=1e-5)


def test_a_token_that_the_file_lacks_is_as_likely_as_its_unknown_word(others):
    others.write_text(OTHERS.replace("-0.9\t▁", "-0.9\t<unk>").replace("▁ A", "<unk> A"))
    model = NgramModel(arpa.read(others, PIECES))
    assert scores(model, 4)[1:3] == pytest.approx([-1.025, -1.025], abs=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("\\data\\", "", "no ARPA file"),
        ("-0.6\tB", "-0.6\tC", r":12: 'C' is none of the 5 tokens"),
        ("-0.2\tA B", "-0.2\tA", r":17: wanted a log-probability, 2 words and maybe a back-off weight"),
        ("-0.2\tA B", "much\tA B", r":17: 'much' is no number"),
        ("-0.2\tA B", "nan\tA B", r":17: 'nan' is no number"),
        ("-0.2\tA B", "0.2\tA B", r":17: 0.2 is no logarithm"),
        ("-0.2\tA B", "-0.2\t<s> A", r":17: '<s> A' stands there twice"),
        ("-0.05\t<s> A B", "-0.05\tB B B", r":22: 'B B', the context, is none of the 2-grams"),
        ("-0.2\tA B", "-0.2\tA <s>", r":17: <s> stands behind 'A'"),
        ("ngram 2=4", "ngram 2=5", r":21: wanted a log-probability, 2 words"),
        ("ngram 2=4", "ngram 2=3", r":19: wanted \\3-grams:"),
        ("ngram 2=4", "ngram 3=4", r":5: wanted `ngram 2=`"),
        ("-1.0\t</s>", "-1.0\t<unk>", "B </s>|has no </s>"),
        ("\\end\\", "", "ends at line 25, before"),
        ("\\end\\", "\\4-grams:", r":25: wanted \\end\\"),
    ],
)
def test_a_bad_line_is_named(others, old, new, match):
    others.write_text(OTHERS.replace(old, new, 1))
    with pytest.raises(UserError, match=match) as error:
        arpa.read(others, PIECES)
    assert str(others) in str(error.value) and "\n" not in str(error.value)


def test_no_file_and_no_text_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no such ARPA file"):
        arpa.read(tmp_path / "none.arpa", PIECES)
    (tmp_path / "lm.arpa").write_bytes(b"\x80\x81")
    with pytest.raises(UserError, match="not UTF-8"):
        arpa.read(tmp_path / "lm.arpa", PIECES)


@pytest.mark.parametrize("packed", ["gzip", "bz2", "lzma"])
def test_a_packed_file_is_read_and_a_damaged_one_named(others, packed):
    pack = importlib.import_module(packed).compress
    plain = arpa.read(others, PIECES)
    whole = pack(OTHERS.encode("utf-8-sig"))
    others.write_bytes(whole)
    assert scores(NgramModel(arpa.read(others, PIECES)), 3) == scores(NgramModel(plain), 3)
    others.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"lm.arpa: (damaged|ends at|cannot)") as error:
        arpa.read(others, PIECES)
    assert "\n" not in str(error.value)


def test_a_mark_of_a_windows_editor_and_its_line_ends_are_no_content(others):
    plain = scores(NgramModel(arpa.read(others, PIECES)))
    for encoding in ("utf-8-sig", "utf-16"):
        others.write_bytes(OTHERS.strip().replace("\n", "\r\n").encode(encoding))
        assert scores(NgramModel(arpa.read(others, PIECES))) == plain


def test_a_logarithm_that_rounding_lifted_above_zero_is_zero(others):
    others.write_text(OTHERS.replace("-0.2\tA B", "1e-07\tA B"))
    assert scores(NgramModel(arpa.read(others, PIECES)), 4, 3)[4] == 0


def test_a_token_is_found_in_another_form_of_unicode(others):
    others.write_text(OTHERS.replace("A", "A\u0301"))
    pieces = [piece.replace("A", "\u00c1") for piece in PIECES]
    assert scores(NgramModel(arpa.read(others, pieces)), 3)[4] == pytest.approx(-0.05, abs=1e-5)


def test_the_tokens_that_a_file_lacks_are_told(others):
    assert arpa.read_with_lacking(others, [*PIECES, "C", "D"])[1] == [5, 6]
    assert arpa.read_with_lacking(others, PIECES)[1] == []


@pytest.mark.parametrize("rest", ["\0" * 4165, "\x1b[2J" * 900 + " A B", "A" * 5000 + " B"])
def test_what_a_damaged_file_holds_is_cut_and_escaped(others, rest):
    others.write_text(OTHERS.replace("-0.2\tA B", rest))
    with pytest.raises(UserError, match=r"lm.arpa:17: ") as error:
        arpa.read(others, PIECES)
    assert str(error.value).isprintable() and len(str(error.value)) < 300
