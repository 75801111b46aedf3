"""`asrtts train`: killed at any moment the same command goes on to equal bits, and what it refuses to do."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asrtts import storage
from asrtts.bin import average, decode, score, train
from asrtts.data import ctc_feasibility, manifest
from asrtts.experiment import fitting
from asrtts.nn import weights_file
from asrtts.registry import UserError
from asrtts.tasks import recognition
from asrtts.training import checkpoint
from asrtts.training.trainer import Trainer

TOP = Path(__file__).resolve().parents[2]
# Everything random is on: dropout, speed and masks are in the fixture's settings.
TORN = ["heads.ctc.dropout=0.2", "training.updates=24", "training.checkpoint_minutes=1e-9"]


def run(tones: Path, folder: Path, *options: str, head: str = "ctc") -> Path:
    train.main([str(tones / f"conf/{head}.yaml"), str(folder), *options])
    return folder


def losses(folder: Path) -> list[tuple]:
    events = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [(e["update"], e["validation"] if "validation" in e else (e["loss"], e["grad_norm"])) for e in events]


def same_run(one: Path, two: Path) -> None:
    assert losses(one) == losses(two)
    for path in sorted((one / "snapshots").iterdir()):
        other = weights_file.load(two / "snapshots" / path.name)
        assert all(torch.equal(value, other[key]) for key, value in weights_file.load(path).items())
    assert len(list((one / "snapshots").iterdir())) == len(list((two / "snapshots").iterdir()))


@pytest.fixture(scope="module")
def whole(tones, tmp_path_factory):
    """Runs that nothing interrupts, by precision."""
    done: dict[str, Path] = {}

    def give(precision: str) -> Path:
        if precision not in done:
            folder = tmp_path_factory.mktemp("whole") / precision
            done[precision] = run(tones, folder, *TORN, f"training.precision={precision}")
        return done[precision]

    return give


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_killed_within_any_update_it_continues_to_equal_bits(tones, tmp_path, whole, precision):
    """Again and again: a few updates, then kill -9 before a checkpoint or in the middle of writing one."""
    dice, kills, folder = random.Random(precision), 0, tmp_path / "exp"
    while True:
        pid = os.fork()
        if pid == 0:
            die_soon(dice)
            run(tones, folder, *TORN, f"training.precision={precision}")
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        dice.random()  # the child drew from its own copy
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        kills += 1
    assert kills >= 4
    same_run(folder, whole(precision))


def die_soon(dice: random.Random) -> None:
    updates, where = dice.randint(1, 6), dice.choice(["_step", "save_file", "flush", "os.replace"])
    *module, name = where.split(".")
    holder = weights_file if name in ("save_file", "flush") else checkpoint
    holder = Trainer if where == "_step" else getattr(holder, module[0]) if module else holder
    real, calls = getattr(holder, name), []

    def dying(*args, **kwargs):
        calls.append(name)
        if len(calls) > updates * (4 if name == "flush" else 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(holder, name, dying)


def children(pid: int) -> set[int]:
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in found.splitlines()]
    mine = {pid}
    while True:
        more = {child for child, parent in pairs if parent in mine} - mine
        if not more:
            return mine - {pid}
        mine |= more


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start(tones: Path, folder: Path, *options: str, code: str = "") -> subprocess.Popen:
    argv = ["train", str(tones / "conf/ctc.yaml"), str(folder), *options]
    script = f"import sys\nfrom asrtts.cli import main\n{code}\nif __name__ == '__main__':\n    main({argv!r})\n"
    file = folder.with_suffix(".py")
    file.write_text(script)
    env = {**os.environ, "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(file)], env=env, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killed_from_outside_it_leaves_no_worker_and_continues_to_equal_bits(tones, tmp_path, whole):
    folder, options = tmp_path / "exp", [*TORN, "training.precision=float32", "training.workers=1"]
    slow = "import time\nfrom asrtts.training import trainer\nreal = trainer.Trainer._step\n"
    slow += "trainer.Trainer._step = lambda self, b: (time.sleep(0.1), real(self, b))[1]"
    process = start(tones, folder, *options, code=slow)
    wait_for(lambda: (folder / "train.jsonl").is_file() and len(losses(folder)) > 3)
    time.sleep(random.random() * 0.5)
    workers = children(process.pid)
    assert len(workers) >= 2  # the fork server and a worker
    process.kill()
    process.wait()
    assert 0 < len((folder / "train.jsonl").read_text().splitlines()) < len(losses(whole("float32")))
    wait_for(lambda: not any(map(alive, workers)), seconds=30)
    run(tones, folder, *options)
    same_run(folder, whole("float32"))


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # the tests may have one core
def test_workers_do_not_change_the_run(tones, tmp_path, whole):
    same_run(run(tones, tmp_path / "exp", *TORN, "training.precision=float32", "training.workers=2"), whole("float32"))


def test_nothing_slow_is_imported_before_the_first_update(tones, tmp_path):
    look = (
        "from asrtts.training import trainer\nreal = trainer.Trainer._step\ndef step(self, batches):\n"
        "    real(self, batches)\n    print(*sys.modules, file=sys.stderr)\n    raise SystemExit(0)\n"
        "trainer.Trainer._step = step"
    )
    err = start(tones, tmp_path / "exp", "training.tensorboard=true", code=look).communicate()[1]
    modules = set(err.splitlines()[-1].split())
    assert "asrtts.training.trainer" in modules
    assert not modules & {"torch._dynamo", "torch._inductor", "tensorboard", "onnx", "sympy", "matplotlib"}


def test_a_run_that_another_process_trains_is_left_alone(tones, tmp_path):
    folder = run(tones, tmp_path / "exp", "training.updates=2")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with storage.held(folder):
        for more in ((), ("--restart",)):
            with pytest.raises(UserError, match="another process .*is working here"):
                run(tones, folder, "training.updates=2", *more)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run(tones, folder, "training.updates=2")


def test_of_two_that_begin_a_run_at_the_same_moment_one_trains(tones, tmp_path):
    ready = tmp_path / "ready"
    ready.mkdir()
    meet = "import os, pathlib, time\nfrom asrtts.experiment import fitting\nfrom asrtts.training import trainer\n"
    meet += f"real, ready, step = fitting.facts_of, pathlib.Path({str(ready)!r}), trainer.Trainer._step\n"
    meet += "def facts_of(*given):\n    (ready / str(os.getpid())).touch()\n"
    meet += "    while len(list(ready.iterdir())) < 2:\n        time.sleep(0.001)\n    return real(*given)\n"
    meet += "fitting.facts_of = facts_of\n"
    meet += "trainer.Trainer._step = lambda self, batches: (time.sleep(0.1), step(self, batches))[1]\n"
    both = [start(tones, tmp_path / "exp", *TORN, code=meet) for _ in range(2)]
    said = {process.communicate()[1].splitlines()[-1]: process.returncode for process in both}
    assert sorted(said.values()) == [0, 2]
    assert "is working here; wait for it, or name another folder" in next(line for line in said if said[line])
    same_run(tmp_path / "exp", run(tones, tmp_path / "alone", *TORN))


def test_a_run_is_held_before_anything_is_in_its_folder(tones, tmp_path, monkeypatch):
    def look(*_):
        with pytest.raises(UserError, match="is working here"), storage.held(tmp_path / "exp"):
            pass
        raise UserError("seen")

    monkeypatch.setattr(recognition.OpenRecognition, "_measure_statistics", look)
    with pytest.raises(UserError, match="seen"):
        run(tones, tmp_path / "exp")
    assert not (tmp_path / "exp").exists()


def test_a_finished_run_says_so_and_touches_nothing(tones, tmp_path, capsys):
    folder = run(tones, tmp_path / "exp")
    about = json.loads((folder / "run.json").read_text())
    assert about["updates"] == 12 and about["train_minutes"] >= 0 and about["seed"] == 1
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    capsys.readouterr()
    run(tones, folder)
    assert "finished at update 12" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_a_run_killed_at_its_very_end_still_gets_its_minutes(tones, tmp_path):
    folder = run(tones, tmp_path / "exp")
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(
        json.dumps({k: v for k, v in about.items() if k not in ("updates", "train_minutes")})
    )
    run(tones, folder)
    assert json.loads((folder / "run.json").read_text()) == about


def refused(match: str, *argv: str | Path) -> None:
    with pytest.raises(UserError, match=match) as error:
        train.main([str(arg) for arg in argv])
    assert "\n" not in str(error.value)


def test_a_changed_setting_is_refused_until_the_run_is_thrown_away(tones, tmp_path):
    folder = run(tones, tmp_path / "exp", "training.updates=4")
    refused(
        "cannot resume: encoder.dropout was 0.1 at the start and is 0.3 now",
        tones / "conf/ctc.yaml",
        folder,
        "training.updates=4",
        "encoder.dropout=0.3",
    )
    (folder / "model.safetensors").write_text("of the run before")
    run(tones, folder, "training.updates=4", "encoder.dropout=0.3", "--restart")
    assert not (folder / "model.safetensors").exists() and losses(folder)[-1][0] == 4


def test_a_run_of_bf16_does_not_go_on_in_float32(tones, tmp_path, monkeypatch):
    folder, conf = tmp_path / "exp", tones / "conf/ctc.yaml"
    monkeypatch.setattr(fitting, "wants_bf16", lambda asked, device: asked != "float32")  # a chip that has it
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tones, folder, "training.precision=auto")
    monkeypatch.setattr(fitting, "wants_bf16", lambda asked, device: asked == "bf16")
    refused("precision was bf16 at the start and is float32 now", conf, folder, "training.precision=auto")
    run(tones, folder, "training.precision=bf16")
    assert json.loads((folder / "run.json").read_text())["precision"] == "bf16"


def test_a_run_that_goes_on_elsewhere_names_both_computers(tones, tmp_path, monkeypatch):
    folder, settings = tmp_path / "exp", ("training.checkpoint_minutes=1e-9",)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "computer", lambda device: "2 x A")
        patch.setattr(Trainer, "_validate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tones, folder, *settings)
    for _ in range(2):
        monkeypatch.setattr(fitting, "computer", lambda device: "8 x B")
        run(tones, folder, *settings)
    assert json.loads((folder / "run.json").read_text())["computer"] == "2 x A and then 8 x B"


def test_a_mistake_beside_restart_throws_nothing_away(tones, tmp_path):
    folder = run(tones, tmp_path / "exp", "training.updates=4")
    before = sorted(folder.rglob("*"))
    conf = tones / "conf/ctc.yaml"
    refused("no such manifest", conf, folder, "--restart", "data.train=data/nothing")
    refused("no tokens there", conf, folder, "--restart", "data.tokens=data/nothing")
    refused("needs a attention head", conf, folder, "--restart", "decoding.method=joint_beam")
    refused("it is no run", conf, tones, "--restart")
    assert sorted(folder.rglob("*")) == before and (tones / "wav").is_dir()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["training.updaets=4"], "unknown key 'training.updaets'; did you mean 'updates'"),
        (["training.updates=many"], "training.updates"),
        (["heads={cct: 1.0}"], "no head is named 'cct'; did you mean 'ctc'"),
        (["encoder.name=conformr"], "no encoder is named 'conformr'; did you mean 'conformer'"),
        (["training.precision=bf61"], "did you mean 'bf16'"),
        (["training.keep_best=0", "training.keep_last=0"], "keep_best and keep_last"),
        (["heads.ctc.weight=-1"], "heads.ctc.weight holds -1; wanted a number above 0"),
        (["heads={ctc: 0}"], "heads.ctc.weight holds 0; wanted a number above 0"),
        (["features.num_bins=3"], "features.num_bins: 3 are too few for an encoder with subsampling 4"),
        (["augmentation.gain_db=[5, 1]"], r"augmentation.gain_db: holds \[5, 1\]; wanted the lower end first"),
        (["augmentation.noise={folder: nowhere}"], "nowhere: no such folder, wanted for augmentation"),
        (["training.threads=100000"], "training.threads holds 100000"),
        (["heads.ctc.inter_layers=[99]"], r"heads.ctc.inter_layers: \[99\], but the encoder has 1 blocks"),
        (["heads={transducer: {loss_backend: warp_rnnt}}"], "loss_backend warp_rnnt"),
        (["seed=-1"], "seed holds -1; it should be greater than or equal to 0"),
        (["seed=99999999999999999999"], "seed holds 99999999999999999999; it should be less than 4294967296"),
    ],
)
def test_a_wrong_setting_is_one_line_and_begins_nothing(tones, tmp_path, settings, match):
    refused(match, tones / "conf/ctc.yaml", tmp_path / "exp", *settings)
    assert not (tmp_path / "exp").exists()


def test_what_is_missing_is_named_and_settings_may_be(tones):
    refused("are required: conf, exp. See asrtts train --help")
    refused("are required: exp. See", tones / "conf/ctc.yaml")


@pytest.mark.parametrize("workers", [0, 1])
def test_audio_that_moved_is_named(tones, tmp_path, workers):
    lines = [json.loads(line) for line in (tones / "data/train.jsonl").read_text().splitlines()]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder, options = tmp_path / "exp", [f"data.train={tmp_path / 'train'}", f"training.workers={workers}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", lambda *_: None)
        run(tones, folder, *options)
    lines[3]["audio"] = "gone/3.wav"
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    refused("gone/3.wav: the audio of train-3 is gone", tones / "conf/ctc.yaml", folder, *options)


def test_the_folder_of_the_manifests_is_refused_and_stays_as_it_was(tones, tmp_path):
    """`asrtts train conf/ctc.yaml data`: data/train.jsonl is the manifest, and the log of a run has the same name."""
    before, conf = (tones / "data/train.jsonl").read_bytes(), tones / "conf/ctc.yaml"
    (tmp_path / "train.jsonl").write_bytes(before)
    refused("holds a train.jsonl that is of no run .*; name a new folder", conf, tmp_path)
    refused("it is no run", conf, tmp_path, "--restart")
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]
    assert (tmp_path / "train.jsonl").read_bytes() == before


@pytest.mark.parametrize("folder", ["", ".", ".."])
def test_a_recipe_is_no_run_that_could_be_thrown_away(tones, tmp_path, monkeypatch, folder):
    (tmp_path / "conf").mkdir()
    monkeypatch.chdir(tmp_path / "conf")
    for options in ([], ["--restart"]):
        refused("is the folder you are in; name one for the run", tones / "conf/ctc.yaml", folder, *options)
    assert [path.name for path in tmp_path.rglob("*")] == ["conf"]


@pytest.mark.parametrize("problem", ["empty", "gone"])
def test_a_dev_set_that_cannot_be_used_is_said_before_a_run_begins(tones, tmp_path, problem):
    """Else the run begun with it would refuse the mended one."""
    line = {**json.loads((tones / "data/dev.jsonl").read_text().splitlines()[0]), "audio": "gone/0.wav"}
    (tmp_path / "dev.jsonl").write_text("" if problem == "empty" else json.dumps(line) + "\n")
    said = {"empty": "dev.jsonl: holds no utterances", "gone": "gone/0.wav: the audio of dev-0 is gone"}[problem]
    refused(said, tones / "conf/ctc.yaml", tmp_path / "exp", f"data.dev={tmp_path / 'dev'}")
    assert not (tmp_path / "exp").exists()


def test_the_whole_road_learns_the_tones(tones, tmp_path, capsys):
    """CTC on twelve utterances: after some seconds it reads what it was trained on."""
    folder = run(
        tones,
        tmp_path / "exp",
        "training.updates=150",
        "training.validate_every=50",
        "encoder.dim=32",
        "training.optimizer.lr=5e-3",
        "augmentation.spec_augment=null",
        f"data.dev={tones / 'data/train'}",
    )
    average.main([str(folder), "--best", "1"])
    shutil.copy(tones / "data/train.jsonl", tmp_path / "heard.jsonl")
    decode.main([str(folder), str(tmp_path / "heard")])
    score.main([str(folder), "--on", str(tmp_path / "heard")])
    found = json.loads((folder / "score/heard/score.json").read_text())
    assert found["cer"]["percent"] < 20, capsys.readouterr().out
    assert found["run"]["family"].startswith("ctc-") and found["run"]["train_minutes"] is not None


def test_a_transducer_is_pruned_by_its_settings_alone(tones, tmp_path):
    pruned = ["heads.transducer.prune.range=2", "heads.transducer.prune.warmup_batches=4", "training.updates=8"]
    folder = run(tones, tmp_path / "exp", *pruned, head="transducer")
    first = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(first["transducer.simple"] + 0.1 * first["transducer.pruned"])
    with pytest.raises(UserError, match="prune works with loss_backend: native alone"):
        run(tones, tmp_path / "other", *pruned, "heads.transducer.loss_backend=torchaudio", head="transducer")


def test_a_run_that_begins_with_another_counts_its_minutes(tones, trained, tmp_path):
    first = trained("ctc")
    source = f"asrtts:{first}/model.safetensors"
    folder = run(tones, tmp_path / "exp", "training.updates=1", "--init", source, head="attention")
    facts = json.loads((folder / "run.json").read_text())
    before = json.loads((first / "run.json").read_text())
    assert (facts["init"], facts["init_minutes"]) == (source, before["train_minutes"])
    assert facts["encoder_hash"] != before["encoder_hash"]
    average.main([str(folder)])
    third = run(tones, tmp_path / "third", "training.updates=1", "--init", f"asrtts:{folder}/model.safetensors")
    minutes = json.loads((third / "run.json").read_text())["init_minutes"]
    assert minutes == pytest.approx(before["train_minutes"] + facts["train_minutes"])


def test_a_run_that_begins_with_wenets_encoder_normalizes_features_as_it_did(tones, tmp_path, monkeypatch):
    mean, std = torch.arange(20.0), torch.arange(20.0) + 1
    monkeypatch.setattr(recognition, "start_from", lambda *_: (mean, std))
    folder = run(tones, tmp_path / "exp", "training.updates=1", "--init", "wenet:avg.pt")
    assert json.loads((folder / "cmvn.json").read_text()) == {"mean": mean.tolist(), "std": std.tolist()}
    monkeypatch.setattr(recognition, "start_from", lambda *_: (mean[1:], std[1:]))
    with pytest.raises(UserError, match="--init: its features have 19 bins, features.num_bins is 20"):
        run(tones, tmp_path / "other", "training.updates=1", "--init", "wenet:avg.pt")


def test_utterances_that_ctc_would_pass_over_are_counted_before_training(tones, tmp_path, capsys):
    """Tones have 16 frames a letter."""
    crowded = list(manifest.read(tones / "data/train"))
    crowded[3] = replace(crowded[3], text="ABCDEABCDEABCDEABCDE")
    manifest.write(tmp_path / "train.jsonl", crowded)
    run(tones, tmp_path / "exp", "training.updates=1", f"data.train={tmp_path / 'train'}")
    said = capsys.readouterr().err
    assert "train.jsonl: CTC passes over 1 utterances of 12: the encoder leaves them fewer frames at speed 1.05" in said
    assert "train-3 of" in said and "needs 20" in said
    run(tones, tmp_path / "transducer", "training.updates=1", f"data.train={tmp_path / 'train'}", head="transducer")
    assert "passes over" not in capsys.readouterr().err


@pytest.mark.parametrize("head", ["ctc", "hybrid"])
def test_a_training_of_which_ctc_would_learn_nothing_is_refused(tones, tmp_path, head):
    crowded = [replace(u, text=u.text * 8) for u in manifest.read(tones / "data/train")]
    manifest.write(tmp_path / "train.jsonl", crowded)
    with pytest.raises(
        UserError, match=r"CTC cannot learn 12 utterances of 12: .*\. Lower encoder.subsampling"
    ) as error:
        run(tones, tmp_path / "exp", f"data.train={tmp_path / 'train'}", "encoder.subsampling=6", head=head)
    assert "\n" not in str(error.value) and not (tmp_path / "exp").exists()


def test_of_a_long_manifest_a_sample_is_looked_at(tones, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ctc_feasibility, "SAMPLE", 5)
    crowded = [
        replace(u, text=u.text * (4 if number % 3 else 1))
        for number, u in enumerate(manifest.read(tones / "data/train"))
    ]
    manifest.write(tmp_path / "train.jsonl", crowded)
    with pytest.raises(UserError, match=r"utterances of 5 that were checked"):
        run(tones, tmp_path / "exp", f"data.train={tmp_path / 'train'}", "encoder.subsampling=6")


def test_features_of_a_higher_rate_than_the_audio_are_said(tones, tmp_path, capsys):
    run(tones, tmp_path / "exp", "training.updates=1", "features.sample_rate=16000")
    assert "train.jsonl: recorded at 8000 Hz, features.sample_rate is 16000" in capsys.readouterr().err
    run(tones, tmp_path / "as recorded", "training.updates=1")
    assert "recorded at" not in capsys.readouterr().err
