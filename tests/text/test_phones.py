"""Lexicons from files."""

import re
from collections import Counter

import pytest

from asrtts.registry import UserError
from asrtts.text import phones


def test_kaldi_and_cmu_forms_are_read(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text(";;; a comment\nA AH\nA(2)  EY\nLIGHT\tL AY T\nON 0.8 AA N\nON 0.2 AO N\nON 1.0 AA N\n\n")
    assert phones.read_lexicon(path) == {
        "A": [("AH",), ("EY",)],
        "LIGHT": [("L", "AY", "T")],
        "ON": [("AA", "N"), ("AO", "N")],
    }


def test_the_mark_of_a_windows_editor_is_no_part_of_the_first_word(tmp_path):
    (tmp_path / "lexicon.txt").write_bytes(b"\xef\xbb\xbfA AH\r\nON AA N\r\n")
    assert phones.read_lexicon(tmp_path / "lexicon.txt") == {"A": [("AH",)], "ON": [("AA", "N")]}


def test_the_lexicon_of_an4_is_read(tmp_path):
    lines = "EIGHT                EY TD\nEIGHT(2)             EY T\n"  # the form of its etc/an4.dic
    (tmp_path / "an4.dic").write_text(lines)
    assert phones.read_lexicon(tmp_path / "an4.dic") == {"EIGHT": [("EY", "TD"), ("EY", "T")]}


@pytest.mark.parametrize(
    ("text", "line"), [("A AH\nLIGHT\n", "lexicon.txt:2: wanted"), ("# only\n", "no words"), ("A ▁\n", ":1: ▁ stands")]
)
def test_a_line_that_is_no_word_is_named(text, line, tmp_path):
    (tmp_path / "lexicon.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=line):
        phones.read_lexicon(tmp_path / "lexicon.txt")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "lexicon.txt").write_bytes(b"caf\xe9 K AE F EY\n")
    with pytest.raises(UserError, match="lexicon.txt: not UTF-8"):
        phones.read_lexicon(tmp_path / "lexicon.txt")
    with pytest.raises(UserError, match="nowhere.txt: the lexicon cannot be read"):
        phones.read_lexicon(tmp_path / "nowhere.txt")


def test_writing_puts_frequent_words_first_and_reads_back():
    lexicon = {"a": [("AH",), ("EY",)], "to": [("T", "UW")], "two": [("T", "UW")]}
    written = phones.dump(lexicon, Counter({"two": 3, "to": 1}))
    assert written == b"two T UW\nto T UW\na AH\na EY\n"
    assert phones.parse(written.decode(), "there") == lexicon


PLAIN = "close K L OW1 S\nclose K L OW1 Z\ntwo T UW1\n"


@pytest.mark.parametrize(
    "written",
    [
        "close K L OW1 S # verb\nclose(2) K L OW1 Z\t# adjective, english\n# all\n;;; all\ntwo T UW1 #\n",
        "close 1 K L OW1 S\nclose 1 K L OW1 Z\ntwo 1 T UW1\n",
        "close 1.0 K L OW1 S\nclose 0.5 K L OW1 Z\ntwo 1 T UW1\n",
        "close\t0.3\tK L OW1 Z\nclose\t1.0\tK L OW1 S\ntwo\t1\tT UW1\n",
        "close 1e-05 K L OW1 Z\nclose 1.0 K L OW1 S\ntwo 1.0 T UW1\n",
        "close\t0.5\t0.15\t1.5\t0.95\tK L OW1 Z\nclose\t0.99\t0.15\t1.5\t0.95\tK L OW1 S\ntwo 0.99 1 1.4 1 T UW1\n",
        "close 0.99 K L OW1 S\nclose 0.5 K L OW1 Z\ntwo T UW1\n",  # MFA's may have both
        "\ufeffclose K L OW1 S\r\nclose K L OW1 Z\rtwo T UW1\r\n",
    ],
)
def test_lexicons_of_kaldi_cmu_and_mfa_are_the_same_words_and_phones(tmp_path, written):
    path = tmp_path / "lexicon.txt"
    path.write_bytes(written.encode())
    assert phones.read_lexicon(path) == phones.parse(PLAIN, "plain")


def test_phones_may_be_digits(tmp_path):
    assert phones.parse("oeuf 9 f\ndeux d 2\n", "x-sampa") == {"oeuf": [("9", "f")], "deux": [("d", "2")]}
    assert phones.parse("oeuf 0.9 9 f\ndeux 1 d 2\n", "x-sampa") == {"oeuf": [("9", "f")], "deux": [("d", "2")]}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("two 0.9 0.1 T UW1", "2 numbers before the phones of two; wanted none, a probability, or the four"),
        ("two T 0.9 UW1", "0.9 among the phones of two"),
        ("two 0.9", "wanted `WORD PHONE PHONE ...`, found 'two 0.9'"),
        ("two # T UW1", "wanted `WORD PHONE PHONE ...`, found 'two'"),
    ],
)
def test_numbers_that_no_lexicon_has_are_refused_with_their_line(line, told):
    with pytest.raises(UserError, match=f"lexicon.txt:2: {re.escape(told)}"):
        phones.parse(f"a AH0\n{line}\n", "lexicon.txt")


def test_only_line_ends_end_a_line_and_words_are_in_one_form(tmp_path):
    (tmp_path / "lexicon.txt").write_bytes("cafe\u0301 K\u2028EY\r\nB\x0cB\rC K\n".encode())
    assert phones.read_lexicon(tmp_path / "lexicon.txt") == {"caf\u00e9": [("K", "EY")], "B": [("B",)], "C": [("K",)]}
