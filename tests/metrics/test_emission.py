"""When a word was emitted, and how late that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrtts.metrics.emission import character_times, delays, ends, read_ctm, word_times
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
