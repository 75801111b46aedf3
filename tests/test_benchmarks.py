"""The table of benchmarks: what is measured stands in it, what is missing or fails is said."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPT = """
from _common import Row

def rows(repeat):
    yield Row("a thing", "its case", 0.0012, "a peer 1.0", 0.012, ratio=0.1, goal=0.05, ours_mib=1.0, theirs_mib=200.0)
    yield Row("a thing", "its case", 0.0012, "another peer", note="not installed")
"""


@pytest.fixture
def benchmarks(monkeypatch):
    """Modules of the folder, by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in [name for name, m in sys.modules.items() if str(FOLDER) in str(getattr(m, "__file__", ""))]:
        del sys.modules[name]


def test_every_script_says_what_it_measures_and_has_its_rows(benchmarks):
    names = benchmarks("run_all").names()
    assert {"transducer_logits", "transducer_loss"} <= set(names)
    assert all(benchmarks(name).__doc__ and callable(benchmarks(name).rows) for name in names)


def test_a_ratio_is_that_of_runs_in_the_same_round(benchmarks):
    common = benchmarks("_common")
    assert common.ratio({"a": [1.0, 4.0, 2.0], "b": [2.0, 8.0, 4.0]}, "a", "b") == 0.5  # however busy the rounds were
    order: list[str] = []
    times = common.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeat=2)
    assert order == ["a", "b"] * 3 and [len(t) for t in times.values()] == [2, 2]


def test_the_slope_is_the_exponent_of_growth(benchmarks):
    assert benchmarks("_common").slope([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2.0)


def _take(mib: int):
    return lambda: bytearray(mib << 20).find(b"x")  # reads, and so touches, all of it


def test_peak_memory_is_that_of_the_run(benchmarks):
    assert 30 <= benchmarks("_common").extra_peak_mib(_take, 32) <= 40


def test_one_table_of_all_scripts_that_says_what_failed(benchmarks, tmp_path, monkeypatch, capsys):
    run_all = benchmarks("run_all")
    (tmp_path / "good.py").write_text(SCRIPT)
    (tmp_path / "bad.py").write_text("\ndef rows(repeat):\n    raise RuntimeError('no such\\nluck')\n    yield\n")
    (tmp_path / "no_benchmark.py").write_text("")
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["run_all.py"])
    with pytest.raises(SystemExit, match="bad failed: RuntimeError: no such luck"):
        run_all.main()
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| a thing | its case | 1.20 | a peer 1.0 | 12.0 | **0.100** | 0.0500 | 1.00 / 200 |  |" in text
    assert "| a thing | its case | 1.20 | another peer | - | - | - |  | not installed |" in text
    assert text.endswith("bad failed: RuntimeError: no such luck.\n")
    assert "Goals reached: 0; missed: a thing (its case) against a peer 1.0: 0.1, wanted 0.05.\n" in text
    assert "Peers that are not installed: another peer.\n" in text


def test_a_run_that_is_broken_off_says_what_it_has_not_measured(benchmarks):
    assert "\nNot run: fbank, padding.\n" in benchmarks("run_all").report([], [], ["fbank", "padding"], "a machine", 5)
