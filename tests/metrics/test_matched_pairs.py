"""The matched-pairs test is that of NIST sc_stats (Debian: apt-get install sctk)."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from asrtts.metrics import error_rate
from asrtts.metrics.matched_pairs import Marks, matched_pairs, segment_errors


def _sctk(program: str) -> str:
    """Debian keeps it outside the search path."""
    found = shutil.which(program) or shutil.which(program, path="/usr/lib/sctk/bin")
    if not found:
        pytest.skip(f"NIST {program} is not installed (Debian package sctk)")
    return found


def _corpus(seed: int, utterances: int, longest: int) -> tuple[list[list[str]], list[list[list[str]]]]:
    """References and the outputs of two systems with errors of every kind, at both ends too, and empty texts."""
    rng = random.Random(seed)
    words = [f"w{n}" for n in range(rng.choice([3, 30]))]

    def heard(ref: list[str], rate: float) -> list[str]:
        found = []
        for word in ref:
            draw = rng.random()
            found += [rng.choice(words)] if draw < rate / 3 else [] if draw < 2 * rate / 3 else [word]
            found += [rng.choice(words)] * (rng.random() < rate / 3)
        return found + [rng.choice(words)] * (rng.random() < rate / 3)

    refs = [[rng.choice(words) for _ in range(rng.randint(0, longest))] for _ in range(utterances)]
    return refs, [[heard(ref, rate) for ref in refs] for rate in (0.15, 0.2)]


def _sgml(folder: Path, name: str, refs: list[list[str]], hyps: list[list[str]]) -> str:
    for side, texts in (("ref", refs), (name, hyps)):
        lines = [f"{' '.join(text)} (s{n % 3}-{n})\n" for n, text in enumerate(texts)]
        (folder / side).write_text("".join(lines))
    command = [
        _sctk("sclite"),
        "-s",
        "-i",
        "rm",
        "-r",
        str(folder / "ref"),
        "trn",
        "-h",
        str(folder / name),
        "trn",
        name,
    ]
    return subprocess.run([*command, "-o", "sgml", "stdout"], capture_output=True, text=True, check=True).stdout


def _sc_stats(folder: Path, refs: list[list[str]], outputs: list[list[list[str]]]) -> tuple[int, float, float, float]:
    """Segments, mean, deviation and Z, to the three digits that it prints."""
    piped = "".join(_sgml(folder, name, refs, hyps) for name, hyps in zip(("one", "two"), outputs, strict=True))
    command = [_sctk("sc_stats"), "-p", "-t", "mapsswe", "-v", "-n", "-"]
    said = subprocess.run(command, input=piped, capture_output=True, text=True, check=True, cwd=folder).stdout
    found = re.search(r"# segs: (\d+)\).*mean: *([-\d.]+)\) \(std dev: *([-\d.]+)\) \(Z Stat: *([-\d.]+)\)", said)
    assert found, said
    return int(found[1]), float(found[2]), float(found[3]), float(found[4])


def _marks(refs: list[list[str]], hyps: list[list[str]]) -> Marks:
    return Marks(error_rate.align(refs, hyps))


@pytest.mark.parametrize("seed, utterances, longest", [(1, 60, 12), (2, 200, 6), (3, 20, 60), (4, 300, 3), (5, 9, 20)])
def test_segments_and_z_are_those_of_sc_stats(seed: int, utterances: int, longest: int, tmp_path: Path) -> None:
    refs, outputs = _corpus(seed, utterances, longest)
    for both in (outputs, outputs[::-1]):
        found = matched_pairs(segment_errors(*(_marks(refs, hyps) for hyps in both)))
        assert (found.segments, found.mean, found.deviation, found.z) == pytest.approx(
            _sc_stats(tmp_path, refs, both), abs=6e-4
        )


def test_the_p_value_is_that_of_sc_stats(tmp_path: Path) -> None:
    refs, outputs = _corpus(11, 150, 8)
    piped = "".join(_sgml(tmp_path, name, refs, hyps) for name, hyps in zip(("one", "two"), outputs, strict=True))
    command = [_sctk("sc_stats"), "-p", "-t", "mapsswe", "-u", "-n", "-"]
    subprocess.run(command, input=piped, text=True, check=True, cwd=tmp_path, capture_output=True)
    said = (tmp_path / "-.unified").read_text() if (tmp_path / "-.unified").exists() else ""
    said = said or subprocess.run(command, input=piped, text=True, check=True, cwd=tmp_path, capture_output=True).stdout
    row = re.search(r"\|\s+MP\s+\|\|\s+one\s+\|.*?(\d\.\d{3})", said)
    assert row, said
    found = matched_pairs(segment_errors(*(_marks(refs, hyps) for hyps in outputs)))
    assert found.p == pytest.approx(float(row[1]), abs=6e-4)


def test_exchanging_the_systems_changes_the_sign_alone() -> None:
    refs, outputs = _corpus(6, 200, 8)
    one, two = (_marks(refs, hyps) for hyps in outputs)
    there, back = matched_pairs(segment_errors(one, two)), matched_pairs(segment_errors(two, one))
    assert (there.segments, there.mean, there.z, there.p) == (back.segments, -back.mean, -back.z, back.p)


def test_no_error_is_lost_and_none_counted_twice() -> None:
    refs, outputs = _corpus(7, 200, 8)
    edits = [error_rate.align(refs, hyps) for hyps in outputs]
    errors = segment_errors(*map(Marks, edits))
    assert errors.sum(axis=0).tolist() == [error_rate.tally(e).errors for e in edits]


@pytest.mark.parametrize(
    "a, b, segments",
    [
        ("CSCC", "CCCC", [[1, 0]]),
        ("SCCS", "CCCC", [[1, 0], [1, 0]]),  # two right words between them
        ("SCSC", "CCCC", [[2, 0]]),  # one right word does not part them
        ("SCCCC", "CCCSC", [[1, 0], [0, 1]]),
        ("SCCC", "CCIICC", [[1, 2]]),  # right words with an insertion between them do not part
        ("CCI", "CCII", [[1, 2]]),
        ("CC", "CCI", [[0, 1]]),
        ("", "II", [[0, 2]]),
        ("CC", "CC", []),
    ],
)
def test_segments_by_hand(a: str, b: str, segments: list[list[int]]) -> None:
    assert segment_errors(Marks([a]), Marks([b])).tolist() == segments
    assert segment_errors(Marks(["C", "", a, ""]), Marks(["C", "", b, ""])).tolist() == segments


def test_equal_systems_and_systems_a_constant_apart() -> None:
    assert matched_pairs(segment_errors(Marks(["CS"]), Marks(["CD"]))).p == 1.0
    apart = matched_pairs(segment_errors(Marks(["CS"] * 3), Marks(["CC"] * 3)))
    assert apart.z is None and apart.p == 2 * 0.5**3  # all three segments on one side, or all on the other
    assert matched_pairs(segment_errors(Marks(["CC"]), Marks(["CC"]))).segments == 0


@pytest.mark.parametrize("differences", [[1, 1, 2], [0, 3, -1, 2, 2, -5], [4], [1, -1], [2] * 6])
def test_few_segments_are_judged_by_every_way_in_which_coins_could_sign_them(differences: list[int]) -> None:
    errors = np.array([[max(d, 0), max(-d, 0)] for d in differences])
    found = matched_pairs(errors)
    sums = [np.dot(signs, differences) for signs in product((1, -1), repeat=len(differences))]
    assert found.exact == pytest.approx(np.mean(np.abs(sums) >= abs(sum(differences))))


def test_three_wrong_sentences_prove_nothing_whatever_z_they_have() -> None:
    found = matched_pairs(np.array([[1, 0], [1, 0], [2, 0]]))
    assert found.z == pytest.approx(4.0) and found.p < 1e-4 and found.exact == pytest.approx(0.25)


def test_many_segments_are_judged_as_nist_does() -> None:
    errors = np.random.default_rng(1).poisson((1.0, 1.6), size=(60, 2))
    assert matched_pairs(errors).exact is None
    few = matched_pairs(errors[:49])
    assert few.exact == pytest.approx(few.p, rel=0.3)  # near where there are many
