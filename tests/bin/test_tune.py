"""`asrtts tune`: every point is what decode gives, the best is written and used, a test set is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from asrtts.asr.decoding import Decoding
from asrtts.bin import decode, lm, score, tune
from asrtts.experiment.tuning import grid
from asrtts.registry import UserError


@pytest.fixture(scope="module")
def made(tones, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm") / "lm"
    given = ["--order", "2", "--tokens", str(tones / "data/tokens"), "--dev", str(tones / "data/dev")]
    lm.main([str(tones / "data/train"), str(folder), *given])
    return folder


@pytest.fixture
def run(trained, tmp_path):
    def copy(head):
        shutil.copytree(trained(head), tmp_path / head, dirs_exist_ok=True)
        return tmp_path / head

    return copy


@pytest.mark.parametrize(
    ("head", "settings", "tried"),
    [
        ("ctc", [], ["lm_weight=0,4", "length_bonus=0,2"]),
        ("transducer", ["lodr={lm}"], ["lm_weight=1", "lodr_weight=0,0.5"]),
        ("hybrid", ["beam=3"], ["lm_weight=0,1", "ctc_weight=0.3,0.6", "length_bonus=0.5"]),
    ],
)
def test_every_point_is_what_decode_and_score_give(tones, made, run, head, settings, tried):
    folder, dev = run(head), str(tones / "data/dev")
    fixed = [f"lm={made}", *(s.format(lm=made) for s in settings)]
    tune.main([str(folder), dev, *fixed, "--threads", "1", *(word for t in tried for word in ("--try", t))])
    about = json.loads((folder / "tuned/lm.json").read_text())
    chosen = yaml.safe_load((folder / "tuned/lm.yaml").read_text())
    assert len(about["points"]) == {"ctc": 4, "transducer": 2, "hybrid": 4}[head]
    rates = [(point["cer"], point["wer"]) for point in about["points"]]  # each text is one word, as in Mandarin
    assert rates[about["best"]] == min(rates) and rates.index(min(rates)) == about["best"]
    single = [t for t in tried if "," not in t]
    for point in about["points"][:2]:
        given = [f"{key}={value}" for key, value in point.items() if key not in ("wer", "cer")]
        decode.main([str(folder), dev, "--threads", "1", f"method={chosen['method']}", *fixed, *single, *given])
        score.main([str(folder), "--on", dev])
        found = json.loads((folder / "score/dev/score.json").read_text())
        assert (found["wer"]["percent"], found["cer"]["percent"]) == pytest.approx(
            (point["wer"], point["cer"]), abs=1e-3
        )
    decode.main([str(folder), str(tones / "data/test"), "--threads", "1", "--tuned", "lm"])
    summary = json.loads((folder / "decode/test_lm.summary.json").read_text())
    assert summary["method"] == chosen["method"] and summary["length_bonus"] == chosen["length_bonus"]


def test_a_test_set_and_the_training_set_are_refused_whatever_their_name(tones, made, run, tmp_path):
    folder, data = run("ctc"), tmp_path / "data"
    shutil.copytree(tones / "data", data)
    shutil.copy(data / "test.jsonl", data / "dev2.jsonl")
    for name, match in (
        ("test", "is a test set"),
        ("dev2", r"is a test set \(test.jsonl\)"),
        ("train", "trained on it"),
    ):
        with pytest.raises(UserError, match=match):
            tune.main([str(folder), str(data / name), f"lm={made}"])
    assert not (folder / "tuned").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--try", "lm_wieght=1"], "did you mean 'lm_weight'"),
        (["--try", "lm_weight=a"], "wanted numbers, e.g. lm_weight=0,0.5,1"),
        (["--try", "lm_weight=-1"], "lm_weight"),
        (["--try", "ctc_weight=0.3"], "changes nothing in ctc_prefix_beam"),
        (["--try", "lodr_weight=0.3"], "changes nothing in ctc_prefix_beam"),
        (["--try", "length_bonus=1", "length_bonus=2"], "is given as a setting of every point"),
        (["--name", "a/b"], "bare name"),
        (["--threads", "-1"], "--threads -1: wanted 1 to 1024"),
        (["lm=null"], "ctc_greedy has nothing to tune"),
    ],
)
def test_a_wrong_option_is_one_line(tones, made, run, options, match):
    with pytest.raises(UserError, match=match) as error:
        tune.main([str(run("ctc")), str(tones / "data/dev"), f"lm={made}", *options])
    assert "\n" not in str(error.value)


def test_what_a_run_is_decoded_with_is_among_the_points() -> None:
    """Else the choice could be worse on dev than no choice."""
    full = Decoding(method="joint_beam", lm="exp/lm", lm_weight=1.0, length_bonus=0.3, ctc_weight=0.4)
    points = grid([], [], full, "joint_beam")
    assert {point["length_bonus"] for point in points} == {0.0, 0.3, 1.0, 2.0, 3.0}
    assert {point["ctc_weight"] for point in points} == {0.3, 0.4, 0.5}
    assert {point["lm_weight"] for point in points} == {0.0, 0.2, 0.4, 0.7, 1.0}
    given = grid(["length_bonus=1,2"], [], full, "joint_beam")
    assert {point["length_bonus"] for point in given} == {1.0, 2.0}


def test_a_point_that_is_alone_is_said_to_be_so(tones, made, run, capsys):
    tune.main([str(run("ctc")), str(tones / "data/dev"), f"lm={made}", "--try", "lm_weight=1", "length_bonus=0.5"])
    out, err = capsys.readouterr()
    assert "lm_weight" in out
    assert "lm.yaml: lm_weight=1, the only point, WER " in err and "the largest value" not in err


def test_several_runs_are_tuned_and_decoded_each_as_alone(tones, made, run, trained, tmp_path):
    runs = [str(run(head)) for head in ("ctc", "transducer")]
    shutil.copytree(trained("ctc"), tmp_path / "alone")
    dev, test = str(tones / "data/dev"), str(tones / "data/test")
    given = [f"lm={made}", "--threads", "1", "--try", "lm_weight=0,1"]
    tune.main([*runs, dev, *given])
    tune.main([str(tmp_path / "alone"), dev, *given])
    decode.main([*runs, test, "beam=3", "--tuned", "lm", "--threads", "1", "--name", "x"])
    decode.main([str(tmp_path / "alone"), test, "beam=3", "--tuned", "lm", "--threads", "1", "--name", "x"])
    for file in ("tuned/lm.json", "decode/x.jsonl"):
        assert (tmp_path / "ctc" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
    about = json.loads((tmp_path / "transducer/decode/x.summary.json").read_text())
    assert (about["method"], about["beam"], about["threads"]) == ("transducer_beam", 3, 1)


def test_of_several_runs_every_mistake_is_found_before_the_first_is_tuned(tones, made, run):
    folder = run("ctc")
    with pytest.raises(UserError, match="gone: no trained model here"):
        tune.main([str(folder), str(folder.parent / "gone"), str(tones / "data/dev"), f"lm={made}"])
    with pytest.raises(UserError, match="wanted one run or several and then a manifest, .*found 'data/dev' alone"):
        tune.main(["data/dev", f"lm={made}"])  # what compare_lm.sh gives where nothing was trained
    assert not (folder / "tuned").exists()


def test_a_point_is_chosen_by_the_unit_in_which_the_text_is_judged(tones, made, run, monkeypatch):
    """Its word errors are the sentences that are not right in every character, which say little."""
    rates = iter([({"wer": 50.0, "cer": 20.0}, "characters"), ({"wer": 60.0, "cer": 10.0}, "characters")])
    monkeypatch.setattr(tune, "errors", lambda *_: next(rates))
    folder = run("ctc")
    tune.main([str(folder), str(tones / "data/dev"), f"lm={made}", "--try", "lm_weight=0,1", "length_bonus=0"])
    about = json.loads((folder / "tuned/lm.json").read_text())
    assert (about["best"], about["judged_by"]) == (1, "characters")
    assert "CER 10.00" in (folder / "tuned/lm.yaml").read_text()


def test_a_name_that_was_not_tuned_is_answered_with_the_nearest(tones, made, run):
    folder = run("ctc")
    tune.main([str(folder), str(tones / "data/dev"), f"lm={made}", "--try", "lm_weight=1", "--try", "length_bonus=0"])
    with pytest.raises(UserError, match="did you mean 'lm'"):
        decode.main([str(folder), str(tones / "data/test"), "--tuned", "lmm"])
