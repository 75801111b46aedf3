"""`asrtts crossvalidate`: settings compared on held-out folds; killed it goes on; other folds are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from asrtts import registry
from asrtts.bin import crossvalidate
from asrtts.data import manifest
from asrtts.experiment import jobs as series
from asrtts.experiment import processes
from asrtts.experiment.run_folder import Run
from asrtts.metrics import error_rate
from asrtts.registry import UserError

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tones, tmp_path, monkeypatch):
    """A folder with the fixture's corpus said to be of eight speakers; there is no test set in it."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "dev"):
        utterances = manifest.read(tones / "data" / split)
        manifest.write(
            Path(f"data/{split}.jsonl"), [replace(u, speaker=f"{split}{n % 4}") for n, u in enumerate(utterances)]
        )
    return tmp_path


@pytest.fixture
def at_once(monkeypatch):
    """Verbs run in this process, which saves the seconds that each takes to load torch; gives those that ran."""
    ran = []

    def verb(argv):
        ran.append(argv)
        registry.find("asrtts.bin", argv[0]).main(argv[1:])

    monkeypatch.setattr(processes, "verb", verb)
    return ran


def words(tones: Path, *settings: str) -> list[str]:
    """The arguments for conf/ctc.yaml and, behind commas, changes of it."""
    conf = str(tones / "conf/ctc.yaml")
    given = [setting.replace("CTC", conf) for setting in settings]
    return [*given, "data.train=data/train", "data.dev=data/dev", "training.updates=4"]


def refused(tones: Path, *settings: str) -> str:
    before = sorted(Path().rglob("*"))
    with pytest.raises(UserError) as error:
        crossvalidate.main(words(tones, *settings))
    assert "\n" not in str(error.value) and sorted(Path().rglob("*")) == before
    return str(error.value)


def found() -> dict:
    return json.loads(Path("exp/folds/crossvalidation.json").read_text())


def test_settings_are_judged_by_what_they_said_of_folds_they_did_not_train_on(tones, recipe, at_once, capsys):
    crossvalidate.main(words(tones, "CTC", "CTC,encoder.dropout=0.3,seed=2"))
    result, out = found(), capsys.readouterr().out
    assert [system["name"] for system in result["systems"]] == ["ctc", "ctc-dropout0.3-seed2"]
    assert len(at_once) == 2 * 3 * 3 and result["folds"] == 3 and result["utterances"] == 15
    everything = {u.utt_id: u for split in ("train", "dev") for u in manifest.read(f"data/{split}")}
    for system in result["systems"]:
        hyps = {}
        for fold in system["folds"]:
            exp, data = Path(fold["exp"]), Path(f"exp/folds/fold{fold['fold']}")
            held_out = [u.utt_id for u in manifest.read(data / "held_out")]
            heard = {u.speaker for part in ("train", "dev") for u in manifest.read(data / part)}
            assert not heard & {u.speaker for u in manifest.read(data / "held_out")}
            facts = json.loads((exp / "run.json").read_text())
            assert facts["data_hash"] == manifest.fingerprint(data / "train")
            assert facts["dev_hash"] == manifest.fingerprint(data / "dev")
            said = [json.loads(line) for line in (exp / "decode/held_out.jsonl").read_text().splitlines()]
            assert [line["utt_id"] for line in said] == held_out
            hyps |= {line["utt_id"]: line["hyp"] for line in said}
            edits = error_rate.align([list(everything[u].text) for u in held_out], [list(hyps[u]) for u in held_out])
            assert fold["cer"] == pytest.approx(100 * error_rate.tally(edits).rate)
        assert hyps.keys() == everything.keys()
        edits = error_rate.align([list(u.text) for u in everything.values()], [list(hyps[u]) for u in everything])
        assert system["cer"]["percent"] == pytest.approx(100 * error_rate.tally(edits).rate)
        assert system["cer"]["interval_95"] and system["cer"]["interval_95_by_speaker"]
    (pair,) = result["pairs"]
    assert result["judged_by"] == "words" and pair["test"] == "mapsswe" and pair["sentence"] in out
    page = Path("exp/folds/crossvalidation.md").read_text()
    assert f"- {pair['sentence']}." in page and "| ctc-dropout0.3-seed2 |" in page and "WER, fold 3" in page
    assert "- ctc-dropout0.3-seed2: " in page and "encoder.dropout=0.3,seed=2." in page


def test_a_setting_that_is_added_trains_itself_alone(tones, recipe, at_once, capsys):
    crossvalidate.main(words(tones, "CTC", "--folds", "2"))
    assert len(at_once) == 6 and "nothing to compare" not in capsys.readouterr().out and found()["pairs"] == []
    before = {path: path.stat().st_mtime_ns for path in Path("exp/folds").glob("ctc-fold*/**/*")}
    at_once.clear()
    crossvalidate.main(words(tones, "CTC", "CTC,encoder.dropout=0.3", "--folds", "2"))
    assert {Path(argv[1 + (argv[0] == "train")]).name for argv in at_once} == {
        "ctc-dropout0.3-fold1",
        "ctc-dropout0.3-fold2",
    }
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(found()["pairs"]) == 1
    at_once.clear()
    crossvalidate.main(words(tones, "CTC", "CTC,encoder.dropout=0.3", "--folds", "2"))
    assert at_once == []


def test_a_model_begins_with_an_encoder_that_has_not_heard_its_fold(tones, recipe, at_once, capsys):
    Path("first.yaml").write_text(f"base: {tones}/conf/ctc.yaml\ntraining: {{updates: 8}}\n")
    variants = ["CTC", "CTC,heads.ctc.dropout=0.2", "CTC,encoder.dropout=0.3,heads.ctc.dropout=0.3"]
    argv = words(tones, *variants, "--encoder", "first.yaml", "exp/folds/encoder", "--folds", "2")
    crossvalidate.main(argv)
    encoders = ("encoder", "encoder", "encoder-dropout0.3")
    for system, encoder in zip(found()["systems"], encoders, strict=True):
        for fold in system["folds"]:
            data, own = Path(f"exp/folds/fold{fold['fold']}"), Run(f"exp/folds/{encoder}-fold{fold['fold']}")
            facts, before = Run(fold["exp"]).facts(), own.facts()
            assert facts["init"] == f"asrtts:{own.folder}/model.safetensors" and before["updates"] == 8
            assert fold["train_minutes"] == pytest.approx(facts["train_minutes"] + before["train_minutes"])
            assert before["data_hash"] == manifest.fingerprint(data / "train")
            assert before["dev_hash"] == manifest.fingerprint(data / "dev")
            heard = {u.utt_id for part in ("train", "dev") for u in manifest.read(data / part)}
            assert heard and not heard & {u.utt_id for u in manifest.read(data / "held_out")}
    assert len(list(Path("exp/folds").glob("encoder-*"))) == 4 and len(at_once) == 4 * 2 + 6 * 3
    note = "Each model begins with an encoder that first.yaml trained on the same folds."
    assert found()["encoder"] == "first.yaml" and note in capsys.readouterr().out
    at_once.clear()
    crossvalidate.main(argv)
    assert at_once == []


def test_an_encoder_of_other_settings_is_a_mistake_before_anything_is_written(tones, recipe, at_once):
    Path("first.yaml").write_text(f"base: {tones}/conf/ctc.yaml\nencoder: {{dropout: 0.3}}\n")
    option = ["--encoder", "first.yaml", "exp/folds/encoder"]
    assert "encoder.dropout is 0.1 here and 0.3 there" in refused(tones, "CTC,encoder.dropout=0.3", "CTC", *option)
    Path("other.yaml").write_text(f"base: {tones}/conf/ctc.yaml\nheads: {{ctc: {{dropout: 0.2}}}}\n")
    twice = ["other.yaml,encoder.dropout=0.3", "encoder.layers=1", "CTC,encoder.dropout=0.30", *option]
    assert "encoder-dropout0.30-fold1 would be the same encoder" in refused(tones, *twice) and at_once == []


def test_no_manifest_but_train_dev_and_the_folds_is_opened(tones, recipe, at_once, monkeypatch):
    opened, locate = set(), manifest.locate

    def watched(path):
        opened.add(str(locate(path)))
        return locate(path)

    manifest.write(Path("data/test.jsonl"), manifest.read(tones / "data/test"))
    monkeypatch.setattr(manifest, "locate", watched)
    crossvalidate.main(words(tones, "CTC", "--folds", "2"))
    parts = {f"exp/folds/fold{n}/{part}.jsonl" for n in (1, 2) for part in ("train", "dev", "held_out")}
    assert opened == {"data/train.jsonl", "data/dev.jsonl", *parts}


@pytest.mark.parametrize(
    "changed, said",
    [
        (["--folds", "3"], "folds 2, now it is 3"),
        (["--seed", "2"], "seed 1, now it is 2"),
        (["--by", "utterance"], "by speaker, now it is utterance"),
        (["data.dev=data/other"], "dev manifest"),
        (["data.train=data/other", "data.dev=data/train"], "training manifest"),
    ],
)
def test_folds_of_other_data_seed_or_number_are_refused(tones, recipe, at_once, monkeypatch, changed, said):
    monkeypatch.setattr(series, "run", lambda *_: sys.exit(0))
    manifest.write(Path("data/other.jsonl"), list(manifest.read("data/dev"))[1:])
    with pytest.raises(SystemExit):
        crossvalidate.main(words(tones, "CTC", "--folds", "2"))
    before = sorted(Path("exp").rglob("*"))
    with pytest.raises(UserError) as error:
        crossvalidate.main([*words(tones, "CTC", "--folds", "2"), *changed])
    line = str(error.value)
    assert line.startswith("exp/folds: is divided with ") and said in line and "\n" not in line
    assert sorted(Path("exp").rglob("*")) == before


@pytest.mark.parametrize(
    "settings, said",
    [
        (["CTC", "CTC"], "two of the settings are both called ctc"),
        (["CTC", "CTC,encoder.dropout=0.1"], "ctc and ctc-dropout0.1 are the same settings"),
        (["CTC,encoder.dorpout=0.1"], "unknown key 'encoder.dorpout'; did you mean 'dropout'?"),
        (["CTC,encoder.dim=17"], "dim 17 must be even"),
        (["CTC,0.2"], "'0.2' is no setting: write key=value"),
        (["CTC", "encoder.dim=16,32"], "several values of encoder.dim; name a setting for each, e.g. conf/ctc.yaml,"),
        (["encoder.dim=16"], "is set in all, but of what? Name a file of settings"),
        (["CTC", "CTC,data.dev=data/train"], "are of other data"),
        (["CTC", "--folds", "1"], "--folds: found '1', wanted a whole number from 2 to 1000"),
        (["CTC", "--folds", "9"], "7 speakers do not fill 9 folds"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(tones, recipe, at_once, settings, said):
    assert said in refused(tones, *settings)
    assert at_once == []


def test_a_test_set_is_refused_by_its_name(tones, recipe):
    line = refused(tones, "CTC,data.dev=data/test_clean")
    assert "data/test_clean: this is a test set; settings are chosen on data.train and data.dev alone" in line


def test_an_utterance_in_both_manifests_is_refused(tones, recipe):
    manifest.write(Path("data/dev.jsonl"), list(manifest.read("data/train"))[:3])
    assert "utterance 'train-0' stands twice in data/train and data/dev" in refused(tones, "CTC")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killed_in_a_fold_it_leaves_no_training_behind_and_the_same_command_goes_on(tones, recipe, at_once, capfd):
    slow = ["training.updates=60", "training.checkpoint_minutes=1e-9"]
    argv = [*words(tones, "CTC", "--folds", "2")[:-1], *slow]
    env = {**os.environ, "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "asrtts", "crossvalidate", *argv], env=env)
    first, second = Path("exp/folds/ctc-fold1"), Path("exp/folds/ctc-fold2")
    wait_for(lambda: len(list(second.glob("checkpoints/*"))) > 1 or process.poll() is not None)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(alive, children)))
    assert children and (first / "decode/held_out.jsonl").is_file() and not (second / "model.safetensors").exists()
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    capfd.readouterr()
    crossvalidate.main(argv)
    err = capfd.readouterr().err
    assert f"1 of 2: {first}: finished before" in err and f"2 of 2: {second}: train, average, decode" in err
    assert "resuming at update " in err and {path: path.stat().st_mtime_ns for path in before} == before
    assert [fold["exp"] for fold in found()["systems"][0]["folds"]] == [str(first), str(second)]


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
