"""`asrtts sweep`: the sizes of a model, trained, decoded and ready to be compared; and `jobs`, which does it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asrtts import registry
from asrtts.bin import compare, sweep, train
from asrtts.experiment import jobs as series
from asrtts.experiment import processes
from asrtts.experiment.run_folder import Run
from asrtts.registry import UserError
from asrtts.tasks.recognition import weights_hash

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def at_once(monkeypatch):
    """Verbs run in this process, which saves the seconds that each takes to load torch; gives those that ran."""
    ran = []

    def verb(argv):
        ran.append(argv[0])
        registry.find("asrtts.bin", argv[0]).main(argv[1:])

    monkeypatch.setattr(processes, "verb", verb)
    return ran


def words(tones: Path, exp: Path, *settings: str, head: str = "ctc") -> list[str]:
    return [str(tones / f"conf/{head}.yaml"), str(exp), *settings, "--test", str(tones / "data/test")]


def refused(tones: Path, tmp_path: Path, *settings: str, head: str = "ctc") -> str:
    """The line of a refusal, which comes before anything is trained."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        sweep.main(words(tones, tmp_path / "ctc", *settings, head=head))
    assert "\n" not in str(error.value) and sorted(tmp_path.rglob("*")) == before
    return str(error.value)


def test_sizes_are_trained_decoded_and_compared_and_left_alone_when_finished(tones, tmp_path, at_once, capsys):
    tiny = ["encoder.dim=8,16", "encoder.feedforward=16,32", "training.updates=4"]
    for seed in (1, 2):
        sweep.main(words(tones, tmp_path / f"ctc-{seed}", *tiny, f"seed={seed}"))
    runs = [tmp_path / f"ctc-{seed}-dim{dim}" for seed in (1, 2) for dim in (8, 16)]
    assert sorted(tmp_path.iterdir()) == sorted(runs) and at_once == ["train", "average", "decode"] * 4
    out, err = capsys.readouterr()
    assert f"2 of 2: {runs[1]}: train, average, decode" in err
    assert json.loads((runs[0] / "decode/test.summary.json").read_text())["threads"] == 1

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    sweep.main(words(tones, tmp_path / "ctc-1", *tiny, "seed=1"))
    assert f"2 of 2: {runs[1]}: finished before" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before and len(at_once) == 12

    told = shlex.split(out.splitlines()[-1])  # "compare them: asrtts compare ..."
    allowed = told[told.index("--allow") :]
    both = [str(run) for run in runs]
    compare.main([*both, "--test", str(tones / "data/test"), *allowed, "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out/compare.json").read_text())
    assert [system["name"] for system in found["systems"]] == ["ctc-dim8", "ctc-dim16"]
    assert found["fair"]["not_equal"]["encoder.dim"] == {"ctc-dim8": "8", "ctc-dim16": "16"}


@pytest.mark.parametrize(
    "lost, again",
    [
        (["."], ["train", "average", "decode"]),
        (["model.safetensors"], ["average", "decode"]),
        (["decode/test.jsonl"], ["decode"]),
    ],
)
def test_what_is_missing_is_done_and_all_that_follows(tones, tmp_path, at_once, lost, again):
    argv = words(tones, tmp_path / "ctc", "training.updates=4,8")
    sweep.main(argv)
    at_once.clear()
    for name in lost:
        path = tmp_path / "ctc-updates8" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    sweep.main(argv)
    assert at_once == again


def test_another_test_set_is_decoded(tones, tmp_path, at_once):
    argv = words(tones, tmp_path / "ctc", "training.updates=4,8")
    sweep.main(argv)
    at_once.clear()
    sweep.main([*argv[:-1], str(tones / "data/dev")])
    assert at_once == ["decode", "decode"]


@pytest.mark.parametrize(
    "settings, said",
    [
        (["encoder.dmi=8,16"], "unknown key 'encoder.dmi'; did you mean 'dim'?"),
        (["encoder.dim=16,17"], "dim 17 must be even and a multiple of attention_heads 2"),
        (["encoder.dim=16,many"], "encoder.dim holds 'many'; wanted a whole number"),
        (["encoder.dim=16"], "nothing to sweep: encoder.dim=16 has one value; write several with commas"),
        ([], "nothing to sweep: no setting is given"),
        (["encoder.dim=16,32,16"], "encoder.dim=16,32,16: 16 stands twice"),
        (["encoder.dim=16,,32"], "a value is missing between the commas"),
        (["encoder.dim=16,32", "encoder.dim=8,64"], "encoder.dim is given twice"),
        (["encoder.dim=16,32", "encoder.layers=1,2,3"], "encoder.dim has 2 values, encoder.layers has 3 values"),
        (["heads.transducer.joiner_dim=8,16"], "has no head transducer; its heads: ctc"),
        (["encoder.dim=8,16", "data.train=data/nothing"], "no such manifest"),
        (["encoder.dim=8,16", "decoding.method=joint_beam"], "needs a attention head"),
        (["encoder.subsampling=4,6", "features.num_bins=10"], "too few for an encoder with subsampling 6"),
    ],
)
def test_a_mistake_is_one_line_before_the_first_training(tones, tmp_path, at_once, settings, said):
    assert said in refused(tones, tmp_path, *settings)
    assert at_once == []


def test_a_width_that_does_not_fit_the_head_is_a_mistake_too(tones, tmp_path, at_once):
    assert "attention_heads" in refused(tones, tmp_path, "heads.attention.attention_heads=2,3", head="attention")


def test_runs_of_other_settings_are_refused_before_the_first_training(tones, tmp_path, at_once):
    train.main([str(tones / "conf/ctc.yaml"), str(tmp_path / "ctc-dim16"), "training.updates=4"])
    said = refused(tones, tmp_path, "encoder.dim=8,16", "training.updates=8")
    assert "cannot resume: training.updates was 4 at the start and is 8 now" in said
    said = refused(tones, tmp_path, "encoder.dim=8,16", "training.updates=4", "decoding.beam=3")
    assert "this run began with decoding.beam=10, now it is 3" in said and at_once == []


# --encoder --------------------------------------------------------------------------------------------------------


@pytest.fixture
def first(tones, tmp_path) -> list[str]:
    """The option for an encoder of eight updates in tmp_path/encoder."""
    (tmp_path / "first.yaml").write_text(f"base: {tones}/conf/ctc.yaml\ntraining: {{updates: 8}}\n")
    return ["--encoder", str(tmp_path / "first.yaml"), str(tmp_path / "encoder")]


def test_every_size_begins_with_an_encoder_that_is_trained_once_for_all_heads(tones, tmp_path, at_once, first, capsys):
    tiny = ["encoder.dim=8,16", "training.updates=4", "seed=2"]
    for head in ("ctc", "attention"):
        sweep.main(words(tones, tmp_path / head, *tiny, *first, head=head))
    run = ["train", "average", "decode"]
    assert at_once == ["train", "average", *run] * 2 + run * 2
    out, err = capsys.readouterr()
    assert f"1 of 4: {tmp_path}/encoder-dim8: finished before\n2 of 4: {tmp_path}/attention-dim8: train," in err
    for dim in (8, 16):
        encoder = Run(tmp_path / f"encoder-dim{dim}")
        settings = encoder.settings
        assert (settings.encoder.dim, settings.seed, settings.training.updates) == (dim, 2, 8)
        for head in ("ctc", "attention"):
            facts = Run(tmp_path / f"{head}-dim{dim}").facts()
            assert facts["init"] == f"asrtts:{encoder.folder}/model.safetensors" and facts["updates"] == 4
            assert facts["encoder_hash"] == weights_hash(encoder.load().model.encoder)
            assert facts["init_minutes"] == encoder.facts()["train_minutes"]

    told = shlex.split(out.splitlines()[-1])
    runs = [str(tmp_path / f"{head}-dim{dim}") for head in ("ctc", "attention") for dim in (8, 16)]
    allow = [*told[told.index("--allow") :], "--allow", "search.beam"]  # a CTC head alone is searched greedily
    compare.main([*runs, "--test", str(tones / "data/test"), *allow, "--out", str(tmp_path / "out")])


def test_settings_of_the_run_alone_share_an_encoder_and_a_stopped_sweep_goes_on(
    tones, tmp_path, at_once, first, monkeypatch
):
    argv = words(tones, tmp_path / "ctc", "heads.ctc.dropout=0,0.1", "decoding.beam=3", "training.updates=4", *first)
    verb, run = processes.verb, ["train", "average", "decode"]
    monkeypatch.setattr(processes, "verb", lambda words: sys.exit(1) if words[0] == "average" else verb(words))
    with pytest.raises(SystemExit):
        sweep.main(argv)
    assert at_once == ["train"]
    monkeypatch.setattr(processes, "verb", verb)
    sweep.main(argv)
    assert at_once == ["train", "average", *run, *run]
    assert Run(tmp_path / "encoder").settings.decoding.beam == 10
    (tmp_path / "encoder/model.safetensors").unlink()
    with open(tmp_path / "first.yaml", "a") as file:
        file.write("decoding: {beam: 4}\n")  # no matter: the encoder is not decoded
    sweep.main(argv)
    assert at_once[8:] == ["average"]


@pytest.mark.parametrize(
    "file, settings, said",
    [
        ("encoder: {dropout: 0.3}", [], "encoder.dropout is 0.1 here and 0.3 there"),
        ("features: {num_bins: 40}", [], "features.num_bins is 20 here and 40 there"),
        ("encoder: {dropuot: 0.3}", [], "first.yaml: unknown key 'encoder.dropuot'; did you mean 'dropout'?"),
        ("decoding: {method: joint_beam}", [], "needs a attention head"),
        ("", ["training.updates=4,8", "data.train=x/y,x_y"], "would be two encoders, of data.train x/y and x_y"),
        ("", ["encoder.dropout=0.2,0.20"], "encoder-dropout0.20 would be the same encoder, trained twice"),
    ],
)
def test_a_run_that_cannot_begin_with_the_encoder_is_refused(tones, tmp_path, at_once, first, file, settings, said):
    (tmp_path / "first.yaml").write_text(f"base: {tones}/conf/ctc.yaml\n{file}\n")
    assert said in refused(tones, tmp_path, *(settings or ["encoder.dim=8,16"]), *first)
    assert at_once == []


def test_a_setting_that_is_given_is_set_in_both_files(tones, tmp_path, at_once, first, monkeypatch):
    (tmp_path / "first.yaml").write_text(f"base: {tones}/conf/ctc.yaml\nencoder: {{dropout: 0.3}}\n")
    monkeypatch.setattr(series, "run", lambda jobs, device: at_once.extend(job.encoder.exp.name for job in jobs))
    sweep.main(words(tones, tmp_path / "ctc", "training.updates=4,8", "encoder.dropout=0.2", *first))
    assert at_once == ["encoder", "encoder"]


@pytest.mark.parametrize("folder, said", [("ctc", "ctc-dim8 would be a run and an encoder"), (".", "has no name")])
def test_an_encoder_wants_a_folder_of_its_own(tones, tmp_path, at_once, first, folder, said):
    place = str(tmp_path / folder) if folder != "." else folder
    assert said in refused(tones, tmp_path, "encoder.dim=8,16", *first[:2], place)


def test_a_folder_of_another_encoder_or_of_runs_that_began_otherwise_is_refused(tones, tmp_path, at_once, first):
    sizes, conf = ["encoder.dim=8,16", "training.updates=4"], str(tones / "conf/ctc.yaml")
    train.main([conf, str(tmp_path / "encoder-dim16"), "training.updates=8", "batching.seconds=2"])
    said = refused(tones, tmp_path, *sizes, *first)
    assert "encoder-dim16: cannot resume: batching.seconds was 2.0 at the start and is 2.5 now" in said
    train.main([conf, str(tmp_path / "ctc-dim8"), "encoder.dim=8", "training.updates=4"])
    said = refused(tones, tmp_path, *sizes, *first[:2], str(tmp_path / "other"))
    assert f"random weights, now it is --init asrtts:{tmp_path}/other-dim8/model.safetensors" in said and at_once == []


def test_what_makes_encoders_unequal_is_allowed_in_the_comparison():
    for key, unequal in (("batching.seconds", True), ("seed", False), ("heads.ctc.dropout", False)):
        swept = {key: ["1", "2"]}
        assert ("encoder_hash" in sweep.allowed(swept, True)) is unequal
        assert "encoder_hash" not in sweep.allowed(swept, False)


# jobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, parts",
    [
        ("72,108,144", ["72", "108", "144"]),
        ("", [""]),
        ("[0.9, 1.0]", ["[0.9, 1.0]"]),
        ("[0.9, 1.0],[1.0]", ["[0.9, 1.0]", "[1.0]"]),
        ("{a: [1, 2]},null", ["{a: [1, 2]}", "null"]),
        ("'a,b',\"c,'d\"", ["'a,b'", '"c,\'d"']),
        ("conf/ctc.yaml,augmentation.speed=[1, 2],seed=2", ["conf/ctc.yaml", "augmentation.speed=[1, 2]", "seed=2"]),
    ],
)
def test_commas_part_but_for_those_within_brackets_and_quotes(text, parts):
    assert series.split(text) == parts


def test_a_name_says_the_settings_and_is_one_of_a_folder():
    assert series.named("ctc-1", ["encoder.dim=96"]) == "ctc-1-dim96"
    assert (
        series.named("ctc", ["augmentation.speed=[0.9, 1.0]", "training.optimizer.lr=1e-3"])
        == "ctc-speed0.9_1.0-lr1e-3"
    )
    assert series.named("ctc", ["decoding.lm=../exp/lm"]) == "ctc-lm.._exp_lm"


def test_a_step_that_fails_has_said_why_and_its_status_is_ours(tmp_path, capfd):
    with pytest.raises(SystemExit) as exit:
        processes.verb(["average", str(tmp_path / "nothing")])
    assert exit.value.code == 2
    err = capfd.readouterr().err
    assert err.startswith("asrtts: error: ") and "no trained model here" in err and err.count("\n") == 1


def test_a_step_that_was_killed_is_told_by_us(monkeypatch):
    monkeypatch.setattr(processes, "_front_door", _die)
    with pytest.raises(UserError, match="`asrtts train 'a b'` was ended by SIGKILL, perhaps for want of memory"):
        processes.verb(["train", "a b"])


def test_ctrl_c_ends_the_step_and_us_with_one_line(tones, tmp_path):
    argv = words(tones, tmp_path / "ctc", "encoder.dim=8,16", "training.updates=100000")
    process = subprocess.Popen(
        [sys.executable, "-m", "asrtts", "sweep", *argv],
        env={**os.environ, "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in a background job it is ignored
    )
    log, end = tmp_path / "ctc-dim8" / "train.jsonl", time.monotonic() + 120
    while not (log.is_file() and log.stat().st_size) and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes get it
    err = process.communicate(timeout=60)[1]  # no step holds the pipe any more
    assert process.returncode == 130 and err.count("interrupted; the same command goes on") == 1
    assert "Traceback" not in err and not (tmp_path / "ctc-dim16").exists()


def _die(argv: list[str]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
