"""When a word was emitted, and how late that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrtts.metrics.emission import character_times, delays, ends, read_ctm, spoken, without_marks, word_times
from asrtts.registry import UserError


@pytest.mark.parametrize(
    "pieces, words",
    [
        ([("▁G", 0.2), ("O", 0.3), ("▁ON", 0.7)], [("GO", 0.3), ("ON", 0.7)]),
        ([("G", 0.2), ("O", 0.3), ("<space>", 0.5), ("ON", 0.7)], [("GO", 0.3), ("ON", 0.7)]),
        ([("▁", 0.1), ("A▁B", 0.4)], [("A", 0.4), ("B", 0.4)]),
        ([], []),
    ],
)
def test_pieces_become_words(pieces: list[tuple[str, float]], words: list[tuple[str, float]]) -> None:
    assert word_times(pieces) == words


def test_pieces_become_characters() -> None:
    tokens = [("▁打开", 0.2), ("灯", 0.5), ("<space>", 0.6), ("a▁b", 0.7)]
    assert character_times(tokens) == [("打", 0.2), ("开", 0.2), ("灯", 0.5), ("a", 0.7), ("b", 0.7)]


def test_right_words_alone_have_a_delay() -> None:
    assert delays("CSIC", [0.5, 1.0, 1.5], [0.6, 0.9, 1.1, 1.4]) == pytest.approx([0.1, -0.1])
    assert delays("CCDC", [0.5, None, 1.0, 1.5], [0.6, 0.9, None]) == pytest.approx([0.1])


@pytest.mark.parametrize(
    "spoken, units, found",
    [
        ([("a", 0.5), ("B", 1.0)], ["A", "b"], [0.5, 1.0]),
        ([("a", 0.5), ("b", 1.0)], ["a", "c"], None),
        ([("a", 0.5)], ["a", "b"], None),
        ([("打", 0.2), ("开", 0.4), ("light", 0.9)], ["打开light"], [0.9]),
        ([("打", 0.2), ("开", 0.4), ("on", 0.9)], ["打", "开", "<space>", "o", "n"], [0.2, 0.4, None, None, 0.9]),
        ([("打开", 0.4)], ["打", "开"], [None, 0.4]),
        ([], [], []),
        ([], ["a"], None),
    ],
)
def test_units_end_where_the_alignments_words_do_however_both_are_cut(
    spoken: list[tuple[str, float]], units: list[str], found: list[float | None] | None
) -> None:
    assert ends(spoken, units) == found


@pytest.mark.parametrize("times", ["nan 0.1", "0.1 nan", "inf 0.1", "0.1 -inf", "-0.5 1.0", "1.0 -0.5", "1e308 1e999"])
def test_a_time_that_is_none_is_refused_with_its_line(tmp_path: Path, times: str) -> None:
    (tmp_path / "a.ctm").write_text(f";; words\nu1 1 0.0 0.5 GO\nu1 1 {times} ON\n")
    with pytest.raises(UserError, match=r"a.ctm:3: start \S+, duration \S+; wanted seconds from 0 on"):
        read_ctm(tmp_path / "a.ctm")


def test_words_of_one_moment_stay_in_their_order_and_a_byte_order_mark_is_no_letter(tmp_path: Path) -> None:
    (tmp_path / "a.ctm").write_bytes("\ufeffu1 A 0.5 0.2 b 0.9\r\nu1 A 0.7 0.0 a 0.9\r\nu1 A 0.1 0.2 c\r\n".encode())
    assert read_ctm(tmp_path / "a.ctm") == {"u1": [("c", pytest.approx(0.3)), ("b", 0.7), ("a", 0.7)]}


def test_other_fields_comments_and_alternatives_of_nists_ctm_are_no_words(tmp_path: Path) -> None:
    written = """;; CTM
  ;; a comment
u1 A 0.0 0.5 go 0.9 lex anna
u1 A * * <ALT_BEGIN>
u1 A 0.5 0.5 fourteen
u1 A * * <ALT>
u1 A 0.5 0.2 for
u1 A 0.7 0.3 teen
u1 A * * <ALT_END>
u1\tB\t1.0\t0.5\tx\u2028y\x0cz
"""
    (tmp_path / "a.ctm").write_text(written)
    assert read_ctm(tmp_path / "a.ctm") == {"u1": [("go", 0.5), ("fourteen", 1.0), ("x\u2028y\x0cz", 1.5)]}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("u1 A anna 0.0 2.5 <o,f0> go on", "a.ctm:1: no CTM: wanted `utterance channel start duration word`"),
        ("u1 A 1 0.0 2.5 <o,f0> go on to it", "a.ctm:1: no CTM: .*; 10 fields are too many, is it an STM file?"),
        ("u1 A 0.0 0.5", "a.ctm:1: no CTM"),
    ],
)
def test_what_is_no_ctm_is_said_so(tmp_path: Path, written: str, told: str) -> None:
    (tmp_path / "a.ctm").write_text(written)
    with pytest.raises(UserError, match=told):
        read_ctm(tmp_path / "a.ctm")
    (tmp_path / "a.ctm").write_bytes("u1 A 0.0 0.5 caf\xe9".encode("latin1"))
    with pytest.raises(UserError, match="a.ctm: not UTF-8; convert it, e.g. `iconv -f latin1 -t utf8`"):
        read_ctm(tmp_path / "a.ctm")
    with pytest.raises(UserError, match="gone.ctm: cannot be read .* wanted a CTM file, `asrtts align` makes one"):
        read_ctm(tmp_path / "gone.ctm")


@pytest.mark.parametrize(
    ("labels", "text", "words"),
    [
        ("sil go spn on <eps>", "go on", "go on"),
        ("go sil on", "go sil on", "go sil on"),  # a word of the reference
        ("sil go sil on", "go sil on", "sil go sil on"),  # which of them is the word, nobody knows: not the reference
        ("[noise] what", "[noise] what", "[noise] what"),
        ("sp sp", "", ""),
        ("hello , world .", "Hello world!", "hello world"),
        ("another text", "go on", "another text"),
    ],
)
def test_marks_are_left_out_where_the_reference_has_none(labels: str, text: str, words: str) -> None:
    given = [(label, float(n)) for n, label in enumerate(labels.split())]
    assert [word for word, _ in without_marks(given, text)] == words.split()


def test_punctuation_and_the_form_of_unicode_do_not_matter_to_the_ends() -> None:
    assert ends([("it", 0.2), ("'s", 0.3), ("cafe\u0301", 0.8)], ["It's", "\u2014", "caf\u00e9!"]) == [0.3, None, 0.8]
    assert ends([("caf\u00e9", 0.8)], list("cafe\u0301")) == [None, None, None, None, 0.8]
    assert ends([("\u0e40\u0e1b\u0e34\u0e14", 0.4)], list("\u0e40\u0e1b\u0e34\u0e14")) == [None, None, None, 0.4]


def test_an_utterance_is_found_by_its_name_in_either_form() -> None:
    alignment = {"e\u0301-1": [("go", 0.5)], "b": [("on", 0.5)]}
    texts = {"\u00e9/1": "go", "b": "on", "c": "x"}
    names = {utt_id: utt_id.replace("/", "-") for utt_id in texts}
    assert spoken(alignment, texts, names) == {"\u00e9/1": [("go", 0.5)], "b": [("on", 0.5)]}
