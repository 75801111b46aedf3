"""sclite's result.txt where sclite itself is no help: other scripts, speakers without words."""

from __future__ import annotations

from asrtts.metrics.error_rate import align
from asrtts.metrics.sclite_report import Scored, report, trn


def _scored(utt_id: str, speaker: str, ref: str, hyp: str) -> Scored:
    return Scored(utt_id, speaker, ref.split(), hyp.split(), align([ref.split()], [hyp.split()])[0])


def test_chinese_characters_stand_above_each_other() -> None:
    text = report("s", [_scored("u1", "a", "你 世界 好", "你 世 好")])
    assert "REF:  你 世界 好 \nHYP:  你 世   好 \nEval:    S       \n" in text


def test_utterance_without_words_has_no_alignment() -> None:
    text = report("s", [_scored("u1", "a", "", ""), _scored("u2", "a", "", "x")])
    assert "id: (a-u1)\nScores: (#C #S #D #I) 0 0 0 0\n\nid: (a-u2)" in text
    assert "REF:  * \nHYP:  x \nEval: I \n" in text


def test_speaker_without_words_shows_counts() -> None:
    text = report("s", [_scored("u1", "a", "", "x"), _scored("u2", "b", "x y", "x")])
    row = next(line for line in text.splitlines() if "| a " in line)
    assert row.split() == ["|", "a", "|", "1", "0", "|", "0*", "0*", "0*", "1*", "1*", "100.0", "|"]
    mean = next(line for line in text.splitlines() if "|  Mean  |" in line)
    assert "50.0+" in mean and "no reference words" in text


def test_long_counts_widen_the_table_evenly() -> None:
    text = report("s", [_scored("u1", "a_very_long_speaker_name", "x " * 234_567, "x " * 234_567)])
    table = text.split("\n\n")[1:]
    for block in table:
        widths = {len(line.strip()) for line in block.splitlines() if line.strip().startswith(("|", ",", "`"))}
        assert len(widths) <= 1
    assert " 234567 |" in text


def test_ids_carry_the_speaker_as_sclite_reads_it() -> None:
    """`sclite -i rm` takes all before the first dash."""
    scored = [_scored("1089-134686", "1089", "x", "x"), _scored("BAC009S0764", "S0764", "x", "x")]
    scored += [_scored("u1", "with-dash", "x", "")]
    assert trn(scored, "ref") == "x (1089-134686)\nx (S0764-BAC009S0764)\nx (with_dash-u1)\n"
    assert trn(scored, "hyp").endswith(" (with_dash-u1)\n")


def test_most_frequent_confusion_comes_first() -> None:
    scored = [_scored(f"u{n}", "a", "five b", "nine b") for n in range(3)] + [_scored("u3", "a", "a b", "x b")]
    pairs = report("s", scored).split("CONFUSION PAIRS")[1]
    assert pairs.index("   3  ->  five ==> nine") < pairs.index("   1  ->  a ==> x")
