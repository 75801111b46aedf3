"""Alignments are those of NIST sclite (Debian: apt-get install sctk)."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from asrtts.metrics import error_rate, sclite_report


def _sclite() -> str:
    """Debian keeps it outside the search path."""
    found = shutil.which("sclite") or shutil.which("sclite", path="/usr/lib/sctk/bin")
    if not found:
        pytest.skip("NIST sclite is not installed (Debian package sctk)")
    return found


Pair = tuple[list[str], list[str]]


def _random_pairs(count: int, vocabulary: str, longest: int, seed: int) -> list[Pair]:
    """Few different words, so that most pairs have many equally good alignments."""
    rng = random.Random(seed)

    def sequence() -> list[str]:
        return [rng.choice(vocabulary) for _ in range(rng.randint(0, longest))]

    return [(sequence(), sequence()) for _ in range(count)]


def _scored(pairs: list[Pair]) -> list[sclite_report.Scored]:
    edits = error_rate.align([ref for ref, _ in pairs], [hyp for _, hyp in pairs])
    return [
        sclite_report.Scored(f"utt{n}", f"spk{n % 7}", ref, hyp, edit)
        for n, ((ref, hyp), edit) in enumerate(zip(pairs, edits, strict=True))
    ]


def _sclite_says(scored: list[sclite_report.Scored], folder: Path) -> str:
    sclite = _sclite()
    for side in ("ref", "hyp"):
        (folder / side).write_text(sclite_report.trn(scored, side))
    command = [sclite, "-s", "-i", "rm", "-r", str(folder / "ref"), "trn", "-h", str(folder / "hyp"), "trn", "system"]
    command += ["-o", "sum", "rsum", "dtl", "pralign", "stdout"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("vocabulary, longest", [("ab", 14), ("abc", 14), ("abcde", 30), ("abcdefghijklmnopqrst", 9)])
def test_every_utterance_is_aligned_as_by_sclite(vocabulary: str, longest: int, tmp_path: Path) -> None:
    scored = _scored(_random_pairs(1500, vocabulary, longest, seed=len(vocabulary)))
    said = _sclite_says(scored, tmp_path)
    counts = {
        utt_id: [int(n) for n in numbers.split()]
        for utt_id, numbers in re.findall(r"id: \(spk\d-(utt\d+)\)\nScores: \(#C #S #D #I\) ([\d ]+)\n", said)
    }
    assert len(counts) == len(scored)
    wrong = [u for u in scored if [u.edits.count(kind) for kind in "CSDI"] != counts[u.utt_id]]
    assert not wrong, f"{len(wrong)} differ, first {wrong[0]}: sclite counts {counts[wrong[0].utt_id]}"


def test_sclite_reads_every_id_and_empty_references(tmp_path: Path) -> None:
    ids = ["a(1)", "a_1", "a 1", "a%281%29", "a[1]", "(b)", "c;;d", "\u00e9-1"]
    pairs = [("x y", "x"), ("", "x y z"), ("", ""), ("y", "y"), ("", "x"), ("x", ""), ("x", "y"), ("z", "z")]
    scored = [
        sclite_report.Scored(utt_id, f"s{n % 2}(f) x", ref.split(), hyp.split(), edit)
        for n, (utt_id, (ref, hyp)) in enumerate(zip(ids, pairs, strict=True))
        for edit in error_rate.align([ref.split()], [hyp.split()])
    ]
    assert len({u.trn_id for u in scored}) == len(ids)
    said = _sclite_says(scored, tmp_path)
    counts = dict(re.findall(r"id: \((.*)\)\nScores: \(#C #S #D #I\) ([\d ]+)\n", said))
    assert counts == {u.trn_id: " ".join(str(u.edits.count(kind)) for kind in "CSDI") for u in scored}


def test_the_report_is_sclites_line_by_line(tmp_path: Path) -> None:
    """Sums by speaker, confusions and alignments; blank lines and sclite's notes aside."""
    scored = _scored([(["a", *ref], hyp) for ref, hyp in _random_pairs(80, "abcdEfg", 8, seed=3)])

    def lines(text: str) -> list[str]:
        notes = ("* NOTE", "        for which", "        which the", "Attributes:")
        return [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith(notes)]

    assert lines(sclite_report.report("system", scored)) == lines(_sclite_says(scored, tmp_path))


@pytest.mark.parametrize(
    "ref, hyp, edits",
    [
        ("", "", ""),
        ("a b", "", "DD"),
        ("", "a b", "II"),
        ("a b c", "a b c", "CCC"),
        ("the cat sat on mat", "the cat sad on the mat", "CCSCIC"),
        # Three substitutions cost what two deletions and two insertions cost: the pair that is met first decides.
        ("x y z w", "x y q", "CCDS"),
    ],
)
def test_small_alignments(ref: str, hyp: str, edits: str) -> None:
    assert error_rate.align([ref.split()], [hyp.split()]) == [edits]


def test_company_does_not_change_an_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are padded; every size of batch gives what an utterance alone gives."""
    pairs = _random_pairs(60, "abc", 12, seed=1)
    refs, hyps = [ref for ref, _ in pairs], [hyp for _, hyp in pairs]
    alone = [error_rate.align([ref], [hyp])[0] for ref, hyp in zip(refs, hyps, strict=True)]
    assert error_rate.align(refs, hyps) == alone
    monkeypatch.setattr(error_rate, "_BATCH_CELLS", 500)
    assert error_rate.align(refs, hyps) == alone


def test_edits_turn_the_reference_into_the_hypothesis() -> None:
    for ref, hyp in _random_pairs(200, "abcd", 10, seed=2):
        (edits,) = error_rate.align([ref], [hyp])
        refs, hyps = iter(ref), iter(hyp)
        for kind in edits:
            left = next(refs) if kind in "CSD" else None
            right = next(hyps) if kind in "CSI" else None
            assert (left == right) == (kind == "C")
        assert not [*refs, *hyps]


def test_rate_of_nothing() -> None:
    assert error_rate.tally([]).rate == 0.0
    assert error_rate.tally([""]).rate == 0.0
    assert error_rate.tally(["II"]).rate == float("inf")
    assert error_rate.tally(["CCSD", "CI", "C"]) == error_rate.Tally(3, 2, 4, 1, 1, 1)
    assert error_rate.tally(["CCSD", "CI", "C"]).rate == 0.5


def test_blanks_between_words_are_one_character() -> None:
    assert error_rate.characters(" ab \t c ") == ["a", "b", error_rate.SPACE, "c"]
    assert error_rate.words(" ab \t c ") == ["ab", "c"]


def test_ten_thousand_utterances_take_seconds() -> None:
    """By characters, about 70 each; a cell-by-cell loop in Python takes half a minute for it."""
    rng = random.Random(0)
    refs = ["".join(rng.choice("abcdefgh ") for _ in range(rng.randint(20, 120))) for _ in range(10_000)]
    hyps = [ref.replace("a", "").replace("bc", "cd") for ref in refs]
    start = time.perf_counter()
    edits = error_rate.align(refs, hyps)
    assert time.perf_counter() - start < 15  # 0.6 s on an idle core
    assert len(edits) == 10_000


@pytest.mark.parametrize(
    ("texts", "unit"),
    [
        (["zero", "one", "two"], "words"),  # one word an utterance has no blank either
        (["STOP"], "words"),
        (["打开灯", "今天"], "characters"),
        (["打开 灯", "今 天"], "characters"),  # somebody's segmentation
        (["カメラを開いて"], "characters"),
        (["เปิดไฟ ครับ", "ปิด"], "characters"),
        (["ເປີດໄຟ"], "characters"),
        (["បើកភ្លើង"], "characters"),
        (["မီးဖွင့်ပါ"], "characters"),
        (["བཀྲ་ཤིས་བདེ་ལེགས"], "characters"),
        (["불 켜", "네"], "words"),
        (["बत्ती जलाओ", "أشعل الضوء", "bật đèn"], "words"),
        (["打开 the light", "今天 meeting 取消"], "characters"),
        (["turn on the 灯", "stop"], "words"),
        (["3 4", "5"], "words"),
        (["", ""], "words"),
        ([], "words"),
    ],
)
def test_the_script_decides_in_what_systems_are_judged(texts: list[str], unit: str) -> None:
    assert error_rate.judged_by(texts) == unit


@pytest.mark.parametrize(
    ("ref", "hyp", "scored"),
    [
        ("a <unk> c", "a b c", ("a c", "a c")),
        ("a <UNK> c", "a c", ("a c", "a c")),
        ("a [unk] \u2047", "a b c", ("a", "a")),
        ("a <unk> c", "a \u2047 x c", ("a c", "a x c")),
        ("<unk>", "", ("", "")),
        ("<unk> <unk>", "what", ("", "")),
        ("今天<unk>天气", "今天很天气", ("今天天气", "今天天气")),
        ("a b", "a <unk>", ("a b", "a <unk>")),  # of the hypothesis: an error
    ],
)
def test_words_that_the_transcriber_did_not_understand_are_left_out(
    ref: str, hyp: str, scored: tuple[str, str]
) -> None:
    refs, hyps = error_rate.without_unknown(["x", ref, "y"], ["x", hyp, "z"])
    assert (refs[::2], hyps[::2]) == (["x", "y"], ["x", "z"])
    assert (" ".join(refs[1].split()), " ".join(hyps[1].split())) == scored
    assert error_rate.without_unknown([], []) == ([], [])
