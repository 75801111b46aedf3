"""TextGrids: what is written is read again, in every form that Praat and MFA have."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrtts.alignment import textgrid
from asrtts.alignment.intervals import Alignment, Interval
from asrtts.registry import UserError

SAID = Alignment(
    "u1",
    2.0,
    [Interval('say "a"', 0.25, 0.5), Interval("B", 0.5, 1.75)],
    [Interval("x", 0.25, 0.5), Interval("y", 0.5, 1.75)],
)
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
2
<exists>
3
"IntervalTier"
"anna - words"
0
2
2
0
0.5
"go"
0.5
2
""
"TextTier"
"clicks"
0
2
1
0.75
"5"
"IntervalTier"
"anna - phones"
0
2
1
0
2
"g"
"""


def test_what_is_written_is_read_again_with_pauses_between() -> None:
    tiers = textgrid.parse(textgrid.text(SAID), "u1")
    assert list(tiers) == ["words", "phones"]
    assert tiers["words"] == [("", 0, 0.25), ('say "a"', 0.25, 0.5), ("B", 0.5, 1.75), ("", 1.75, 2)]
    nothing = textgrid.parse(textgrid.text(Alignment("u2", 1.5, [], [])), "u2")
    assert nothing["words"] == [("", 0, 1.5)]


def test_the_short_format_and_mfas_names_of_tiers_are_read(tmp_path: Path) -> None:
    assert textgrid.parse(SHORT, "u") == {
        "anna - words": [("go", 0, 0.5), ("", 0.5, 2)],
        "anna - phones": [("g", 0, 2)],
    }
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "u1.TextGrid").write_text(SHORT)
    (tmp_path / "u2.TextGrid").write_text(textgrid.text(SAID), encoding="utf-16")
    assert textgrid.read_words(tmp_path) == {"u1": [("go", 0.5)], "u2": [('say "a"', 0.5), ("B", 1.75)]}


def test_labels_are_words_whatever_is_in_them(tmp_path: Path) -> None:
    words = [Interval("b", 0.0, 0.5), Interval("[1]", 0.5, 1.0), Interval("x[23]", 1.0, 1.0), Interval("a", 1.0, 1.0)]
    (tmp_path / "u1.TextGrid").write_text(textgrid.text(Alignment("u1", 1.5, words, [])).replace('""', '" "'))
    assert textgrid.read_words(tmp_path) == {"u1": [("b", 0.5), ("[1]", 1.0), ("x[23]", 1.0), ("a", 1.0)]}


@pytest.mark.parametrize(
    "written",
    [
        "",
        "hello",
        SHORT[:-20],
        SHORT.replace('"TextGrid"', '"Pitch"'),
        SHORT.replace('"go"', "7"),
        SHORT.replace("\n3\n", '\n"3"\n'),
        SHORT.replace("\n3\n", "\n1e999\n"),
    ],
)
def test_a_damaged_one_is_named(tmp_path: Path, written: str) -> None:
    (tmp_path / "u1.TextGrid").write_text(written)
    with pytest.raises(UserError, match=r"u1.TextGrid: no TextGrid, or one cut off"):
        textgrid.read_words(tmp_path)


def test_what_a_folder_lacks_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no TextGrid in it or below it; wanted a CTM file"):
        textgrid.read_words(tmp_path)
    (tmp_path / "u1.TextGrid").write_text(SHORT.replace("anna - words", "syllables"))
    with pytest.raises(UserError, match=r"u1.TextGrid: wanted a tier .* `words`, found syllables, anna - phones"):
        textgrid.read_words(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "u1.TextGrid").write_text(SHORT)
    with pytest.raises(UserError, match="two TextGrids of utterance u1"):
        textgrid.read_words(tmp_path)


def test_files_of_other_programs_are_read(tmp_path: Path) -> None:
    short = SHORT.replace('"ooTextFile"\nObject class = "TextGrid"', '"ooTextFile short"\n"TextGrid"')
    assert short != SHORT
    written = {
        "penn.TextGrid": short.replace("anna - words", "word").encode(),
        "maus.TextGrid": SHORT.replace("anna - words", "ORT-MAU").encode("utf-16"),
        "old.textgrid": short.replace("\n", "\r\n").encode("utf-16"),
        "upper.TEXTGRID": ("\ufeff" + SHORT.replace("anna - words", "Words")).encode(),
        "._penn.TextGrid": b"\x00\x05\x16\x07",
    }
    for name, data in written.items():
        (tmp_path / name).write_bytes(data)
    words = textgrid.read_words(tmp_path)
    assert words == dict.fromkeys(["penn", "maus", "old", "upper"], [("go", 0.5)])
    assert textgrid.read_words(tmp_path / "old.textgrid") == {"old": [("go", 0.5)]}


def test_tiers_of_one_name_are_one(tmp_path: Path) -> None:
    (tmp_path / "u1.TextGrid").write_text(SHORT.replace("anna - phones", "anna - words"))
    assert textgrid.read_words(tmp_path) == {"u1": [("go", 0.5), ("g", 2)]}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            b'"Praat chronological TextGrid text file"\n0 2 ! Time domain.\n',
            "a chronological TextGrid; save it in Praat",
        ),
        (b"ooBinaryFile\x08TextGrid\x00", "a binary TextGrid; save it in Praat with Save as text file"),
        (SHORT.replace("go", "caf\xe9").encode("latin1"), "neither UTF-8 nor UTF-16 .*; convert it, e.g. `iconv"),
    ],
)
def test_a_format_that_is_not_read_is_named(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "u1.TextGrid").write_bytes(data)
    with pytest.raises(UserError, match=f"u1.TextGrid: {told}"):
        textgrid.read_words(tmp_path)
