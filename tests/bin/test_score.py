"""`asrtts score`: from decoded lines to result.txt, score.json and the table."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from asrtts.bin import score
from asrtts.comparison import score_table
from asrtts.registry import UserError
from asrtts.text.tokenizer import make

UTTERANCES = [  # utt_id, speaker, reference
    ("fay-1", "fay", "ENTER FIVE SIX"),
    ("fay-2", "fay", "GO"),
    ("max-1", "max", "STOP REPEAT"),
    ("max-2", "max", ""),
]
PERFECT = {utt_id: text for utt_id, _, text in UTTERANCES}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    lines = [{"utt_id": u, "audio": "a.wav", "text": t, "speaker": s} for u, s, t in UTTERANCES]
    (tmp_path / "data" / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _decoded(name: str, hyps: dict[str, str], summary: dict | None = None, run: dict | None = None) -> Path:
    exp = Path("exp") / name
    (exp / "decode").mkdir(parents=True, exist_ok=True)
    lines = [
        {"utt_id": u, "ref": PERFECT.get(u, "?"), "hyp": hyp, "score": -1.5, "tokens": [], "nbest": []}
        for u, hyp in hyps.items()
    ]
    (exp / "decode" / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if summary:
        (exp / "decode" / "test.summary.json").write_text(json.dumps(summary))
    if run:
        (exp / "run.json").write_text(json.dumps(run))
    return exp


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_perfect_hypotheses_have_no_errors(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exp = _decoded("ctc", PERFECT)
    score.main([str(exp), "--on", "test"])
    found = json.loads((exp / "score" / "test" / "score.json").read_text())
    assert found["wer"]["percent"] == 0.0 and found["wer"]["ref"] == 6 and found["cer"]["sentences_wrong"] == 0
    assert "test: 4 utterances, 6 words" in capsys.readouterr().out
    assert _files(exp / "score" / "test") == [
        *(f"cer/{name}" for name in ("hyp.trn", "ref.trn", "result.txt")),
        "score.json",
        *(f"wer/{name}" for name in ("hyp.trn", "ref.trn", "result.txt")),
    ]


def test_errors_are_counted_at_every_level(recipe: Path) -> None:
    # Words: FIVE is NINE, STOP is gone, NO has come: 1 + 1 + 1 of 6. Characters: F and V of FIVE; "STOP "; "NO".
    exp = _decoded("ctc", {**PERFECT, "fay-1": "ENTER NINE SIX", "max-1": "REPEAT", "max-2": "NO"})
    make([*PERFECT.values(), "NO"], "char").save(exp / "tokens")
    score.main([str(exp), "--on", "data/test.jsonl"])
    found = json.loads((exp / "score" / "test" / "score.json").read_text())
    assert {key: found["wer"][key] for key in ("sub", "del", "ins", "sentences_wrong")} == {
        "sub": 1,
        "del": 1,
        "ins": 1,
        "sentences_wrong": 3,
    }
    assert found["wer"]["percent"] == pytest.approx(50.0)
    characters = sum(len(text) for text in PERFECT.values())
    assert found["cer"]["percent"] == pytest.approx(100 * (2 + 5 + 2) / characters)
    assert found["ter"] == found["cer"]
    assert "   1:    1  ->  FIVE ==> NINE" in (exp / "score/test/wer/result.txt").read_text()


def test_order_of_the_decoded_lines_does_not_matter(recipe: Path) -> None:
    wrong = {**PERFECT, "fay-2": "STOP"}
    one, other = _decoded("one", wrong), _decoded("two", dict(reversed(wrong.items())))
    score.main(["exp/one", "exp/two", "--on", "test"])
    texts = [(exp / "score/test/wer/result.txt").read_text() for exp in (one, other)]
    assert texts[0].replace("one", "two") == texts[1]


def test_manifest_holds_the_reference(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _decoded("ctc", PERFECT)
    manifest = recipe / "data" / "test.jsonl"
    manifest.write_text(manifest.read_text().replace('"GO"', '"GONE"'))
    score.main(["exp/ctc", "--on", "test", "--json"])
    said = capsys.readouterr()
    assert json.loads(said.out)["systems"][0]["wer"]["sub"] == 1
    assert "1 references differ from the manifest's text" in said.err


def _lines_without(utt_id: str) -> dict[str, str]:
    return {u: text for u, text in PERFECT.items() if u != utt_id}


MISTAKES = {
    "no experiment": (lambda: None, "exp/ctc: no such experiment; did you mean 'ctc2'?"),
    "not decoded": (lambda: Path("exp/ctc").mkdir(), "exp/ctc: no decoding 'test' (choices: none)"),
    "missing": (lambda: _decoded("ctc", _lines_without("max-1")), "1 of the 4 utterances of the manifest are missing"),
    "unknown": (lambda: _decoded("ctc", {**PERFECT, "x-1": "A"}), ":5: utterance 'x-1' is not in the manifest"),
    "wrong type": (
        lambda: _decoded("ctc", PERFECT, run={"parameters": "many"}),
        "run.json: parameters holds 'many'; wanted a whole number",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_write_nothing(mistake: str, recipe: Path) -> None:
    good = _decoded("ctc2", PERFECT)
    prepare, message = MISTAKES[mistake]
    prepare()
    with pytest.raises(UserError) as error:
        score.main(["exp/ctc2", "exp/ctc", "--on", "test"])
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (good / "score").exists()


def test_doubled_and_damaged_lines_are_named(recipe: Path) -> None:
    path = _decoded("ctc", PERFECT) / "decode" / "test.jsonl"
    whole = path.read_text()
    for damaged, message in [
        (whole + whole.splitlines()[0] + "\n", ":5: utterance 'fay-1' stands there twice"),
        (whole[:-20], ":4: not JSON"),
        (whole + "[]\n", ":5: wanted an object"),
        (whole.replace('"hyp"', '"hypothesis"'), ":1: key 'hyp' is missing"),
    ]:
        path.write_text(damaged)
        with pytest.raises(UserError, match=message):
            score.main(["exp/ctc", "--on", "test"])


@pytest.mark.parametrize("on, message", [("tset", "did you mean 'test'"), ("empty", "holds no utterance")])
def test_manifest_mistakes(on: str, message: str, recipe: Path) -> None:
    _decoded("ctc", PERFECT)
    (recipe / "data" / "empty.jsonl").touch()
    with pytest.raises(UserError, match=message):
        score.main(["exp/ctc", "--on", on])
    manifest = recipe / "data" / "test.jsonl"
    manifest.write_text(manifest.read_text() * 2)
    with pytest.raises(UserError, match="'fay-1' stands there twice"):
        score.main(["exp/ctc", "--on", "test"])


# The table --------------------------------------------------------------------------------------------------------


def _three_seeds_and_a_stranger() -> list[str]:
    seeds = [PERFECT, {**PERFECT, "fay-2": "NO"}, {**PERFECT, "fay-2": "NO", "max-1": "STOP"}]  # 0, 1, 2 of 6 words
    for seed, hyps in enumerate(seeds, 1):
        run = {"parameters": 4_600_000, "train_minutes": 40.6, "seed": seed, "family": "ctc", "heads": {"ctc": 1.0}}
        _decoded(f"ctc_seed{seed}", hyps, {"method": "ctc_greedy", "beam": 1, "rtf": 0.0123, "threads": 2}, run)
    _decoded("joint", {**PERFECT, "fay-1": ""}, {"method": "joint_beam", "beam": 10}, {"parameters": 900_400})
    return [f"exp/ctc_seed{seed}" for seed in (1, 2, 3)] + ["exp/joint"]


def test_runs_of_a_family_get_their_mean_and_spread(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exps = _three_seeds_and_a_stranger()
    score.main([*exps, "--on", "test", "--json"])
    (family,) = json.loads(capsys.readouterr().out)["families"]
    assert family["runs"] == ["ctc_seed1", "ctc_seed2", "ctc_seed3"]
    assert family["wer"] == pytest.approx({"mean": 100 / 6, "deviation": 100 / 6})
    score.main([*exps[1:], "--on", "test"])
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if "mean of 2" in line)
    assert "25.0" in row and "±11.8" in row
    joint = next(line for line in table.splitlines() if "joint_beam 10" in line)
    assert "900 k" in joint and "50.0" in joint
    assert sum("ctc_greedy" in line and "0.012" in line and "4.6 M" in line for line in table.splitlines()) == 2


def test_pipe_gets_no_colours_and_terminal_no_cut_cells(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score.main([*_three_seeds_and_a_stranger(), "--on", "test", "--json"])
    found = json.loads(capsys.readouterr().out)
    for width in (60, 80, 100, 120, 200):
        terminal = Console(file=io.StringIO(), force_terminal=True, width=width, color_system="truecolor")
        score_table.show(found["systems"], found["families"], terminal)
        shown = terminal.file.getvalue()
        assert "\x1b[" in shown
        if width >= 80:
            assert "…" not in shown and "mean of 3" in shown and "S.Err" in shown and "0.012" in shown
    pipe = Console(file=io.StringIO(), width=80)
    score_table.show(found["systems"], found["families"], pipe)
    assert "\x1b" not in pipe.file.getvalue() and "ctc_greedy" in pipe.file.getvalue()


def test_two_folders_of_one_name_are_told_apart(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a/ctc", "b/ctc"):
        _decoded(folder, PERFECT)
    score.main(["exp/a/ctc", "exp/b/ctc", "exp/b/ctc/", "--on", "test", "--json"])
    systems = [system["system"] for system in json.loads(capsys.readouterr().out)["systems"]]
    assert systems == ["exp/a/ctc", "exp/b/ctc"]


@pytest.mark.parametrize("file", ["decode/test.jsonl", "decode/test.summary.json", "run.json"])
def test_a_file_that_is_no_text_is_named(recipe: Path, file: str) -> None:
    (_decoded("ctc", PERFECT) / file).write_bytes(b"\x80\x00\xff")
    with pytest.raises(UserError, match=f"{file}.*: not JSON"):
        score.main(["exp/ctc", "--on", "test"])


def test_a_full_disk_is_one_line_and_leaves_nothing_half(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exp = _decoded("ctc", PERFECT)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("asrtts.storage.os.replace", full)
    with pytest.raises(UserError, match="ref.trn: the disk is full"):
        score.main(["exp/ctc", "--on", "test"])
    assert not [path for path in (exp / "score").rglob("*") if path.is_file()]


def test_help_needs_no_torch() -> None:
    code = "import sys; from asrtts import cli\ntry: cli.main(['score', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'sentencepiece', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_lines_that_another_program_wrote_again_are_read(recipe: Path) -> None:
    exp = _decoded("ctc", PERFECT)
    path = exp / "decode" / "test.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    score.main([str(exp), "--on", "test"])
    assert json.loads((exp / "score/test/score.json").read_text())["wer"]["percent"] == 0.0


def test_without_any_word_in_the_references_there_is_no_rate(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"utt_id": u, "audio": "a.wav", "text": "", "speaker": s} for u, s, _ in UTTERANCES]
    Path("data/test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    exps = [str(_decoded(f"ctc-{n}", {**PERFECT, "max-2": "NO"}, run={"family": "ctc"})) for n in (1, 2)]
    make([*PERFECT.values(), "NO"], "char").save(Path(exps[0], "tokens"))
    score.main([*exps, "--on", "test"])
    out, found = capsys.readouterr().out, json.loads(Path(exps[0], "score/test/score.json").read_text())
    for level in ("wer", "cer", "ter"):
        rates = {key: found[level][key] for key in ("percent", "interval_95", "interval_95_by_speaker", "ref")}
        assert rates == {"percent": None, "interval_95": None, "interval_95_by_speaker": None, "ref": 0}
    assert found["wer"]["ins"] == 7 and "test: 4 utterances, 0 words" in out and "nan" not in out.lower()
    assert " (max-max-2)" not in Path(exps[0], "score/test/wer/ref.trn").read_text()
    assert Path(exps[0], "score/test/wer/hyp.trn").read_text().endswith("NO (max-2)\n")
