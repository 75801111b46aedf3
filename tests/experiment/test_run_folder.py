"""exp/<name>: what a run may go on with, what it is said to be, and weights that do not fit."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from asrtts import config, storage
from asrtts.data import features
from asrtts.data.batching import Index
from asrtts.experiment.fitting import facts_of
from asrtts.experiment.run_folder import Run
from asrtts.experiment.settings import build, differences, load
from asrtts.nn import weights_file
from asrtts.registry import UserError
from asrtts.tasks import recognition
from asrtts.text.tokenizer import Tokenizer, make
from asrtts.training import cost_model
from asrtts.training.trainer import HARMLESS

STATISTICS = features.Statistics(torch.zeros(20), torch.ones(20))


def facts(settings, tokens: Tokenizer | None = None):
    task = recognition.open(settings, torch.device("cpu"))
    if tokens:
        task.inputs["tokens_hash"] = tokens.fingerprint()
    return facts_of(settings, task)


def assets(settings) -> dict:
    return {"tokens": Tokenizer.load(Path(settings.data.tokens)), "cmvn.json": STATISTICS}


@pytest.fixture
def begun(tones: Path, tmp_path: Path) -> Run:
    settings = load(tones / "conf/ctc.yaml")
    run = Run(tmp_path / "exp")
    run.begin(settings, assets(settings), facts(settings))
    return run


def test_the_folder_alone_gives_the_experiment_again(tones, begun):
    assert begun.settings == load(tones / "conf/ctc.yaml")
    assert Tokenizer.load(begun.folder / "tokens").fingerprint() == begun.facts()["tokens_hash"]
    assert torch.equal(recognition.load_statistics(begun, begun.settings).std, STATISTICS.std)
    assert begun.facts()["parameters"] > 1000 and begun.facts()["seed"] == 1


@pytest.mark.parametrize(
    "setting",
    [
        "seed=2",
        "encoder.dropout=0.2",
        "heads.ctc.dropout=0.2",
        "training.updates=99",
        "training.optimizer.lr=0.5",
        "training.accumulate=2",
        "batching.seconds=9",
        "augmentation.speed=[1.0]",
        "augmentation.spec_augment=null",
        "features.num_bins=40",
    ],
)
def test_a_changed_setting_is_refused_by_its_key(tones, begun, setting):
    settings = load(tones / "conf/ctc.yaml", [setting])
    with pytest.raises(
        UserError, match=rf"cannot resume: {setting.partition('=')[0]}[.a-z_]* was .* and is .* now.*--restart"
    ) as error:
        begun.check_unchanged(settings, begun.facts())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "began", "here", "way"),
    [("precision", "bf16", "float32", "training.precision=bf16"), ("device", "cuda", "cpu", "--device cuda")],
)
def test_another_precision_or_device_is_refused_while_there_is_something_to_compute(
    tones, begun, key, began, here, way
):
    settings = load(tones / "conf/ctc.yaml", ["training.precision=auto"])
    config.dump(settings, begun.folder / "config.yaml")
    begun.record(**{"precision": "bf16", "device": "cpu", key: began})
    now = {**begun.facts(), key: here}
    with pytest.raises(
        UserError, match=f"cannot resume: {key} was {began} at the start and is {here} now; add {way} .*--restart"
    ):
        begun.check_unchanged(settings, now)
    begun.check_unchanged(load(tones / "conf/ctc.yaml", ["training.precision=bf16"]), begun.facts())  # the way out
    begun.record(updates=12)
    begun.check_unchanged(settings, now)


def test_another_head_is_refused(tones, begun):
    with pytest.raises(UserError, match="heads"):
        begun.check_unchanged(load(tones / "conf/hybrid.yaml"), begun.facts())


@pytest.mark.parametrize("setting", [*(f"training.{key}=3" for key in HARMLESS), "decoding.beam=3"])
def test_a_setting_that_does_not_change_the_result_may_change(tones, begun, setting):
    if setting == "training.tensorboard=3":
        setting = "training.tensorboard=true"
    begun.check_unchanged(load(tones / "conf/ctc.yaml", [setting]), begun.facts())


@pytest.mark.parametrize(
    ("split", "what"), [("train", "training manifest is another"), ("dev", "dev manifest is another")]
)
def test_changed_data_is_refused(tones, begun, tmp_path, split, what):
    shutil.copytree(tones / "data", tmp_path / "data")
    path = tmp_path / "data" / f"{split}.jsonl"
    settings = load(tones / "conf/ctc.yaml", [f"data.{split}={path}"])
    begun.check_unchanged(settings, facts(settings))  # a copy elsewhere is the same data
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UserError, match=what):
        begun.check_unchanged(settings, facts(settings))


def test_other_tokens_are_refused(tones, begun):
    settings = load(tones / "conf/ctc.yaml")
    with pytest.raises(UserError, match="token list is another"):
        begun.check_unchanged(settings, facts(settings, make(["ABCDEX"], "char")))


def test_every_head_begins_with_the_same_encoder_and_run_json_can_tell(tones):
    def start(head="ctc", *settings):
        return facts(load(tones / f"conf/{head}.yaml", list(settings)))["encoder_hash"]

    assert start() == start("hybrid") == start("transducer") == start("ctc", "training.updates=9")
    assert len({start(), start("ctc", "seed=2"), start("ctc", "encoder.dim=32")}) == 3


def test_a_family_is_what_differs_in_the_seed_only(tones):
    def family(head="ctc", *settings):
        return facts(load(tones / f"conf/{head}.yaml", list(settings)))["family"]

    assert family() == family("ctc", "seed=2") == family("ctc", "training.workers=2", "decoding.beam=3")
    assert family().startswith("ctc-") and family("hybrid").startswith("attention+ctc-")
    different = [family(), family("hybrid"), family("ctc", "encoder.dropout=0.2"), family("ctc", "training.updates=9")]
    different.append(family("ctc", f"data.train={tones / 'data/test'}"))
    assert len(set(different)) == 5


@pytest.mark.parametrize("call", range(1, 4))
def test_a_kill_while_a_run_begins_leaves_no_run(tones, tmp_path, call):
    """os.replace puts tokens, run.json and config.yaml in place; each time the process is killed just before."""
    settings = load(tones / "conf/ctc.yaml")
    kept, about = assets(settings), facts(settings)
    run = Run(tmp_path / "exp")
    pid = os.fork()
    if pid == 0:
        real, calls = os.replace, []

        def dying(*args):
            calls.append(args)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args)

        os.replace = dying
        run.begin(settings, kept, about)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert not run.is_begun
    run.begin(settings, kept, about)
    assert run.is_begun and {key: run.facts()[key] for key in about} == about


def test_checkpoints_without_settings_are_refused(begun):
    (begun.folder / "checkpoints").mkdir()
    (begun.folder / "config.yaml").unlink()
    with pytest.raises(UserError, match="holds checkpoints, but config.yaml is missing"):
        _ = begun.is_begun
    begun.discard()
    assert not begun.is_begun


def test_only_a_run_is_thrown_away(begun, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    for folder in (tmp_path / "home", tmp_path / "home" / "thesis.tex"):
        with pytest.raises(UserError, match="it is no run"):
            Run(folder).discard()
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"
    Run(tmp_path / "nothing").discard()
    begun.discard()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home"]


def test_a_place_that_cannot_be_written_is_one_line(tones, tmp_path):
    (tmp_path / "file").write_text("")
    settings = load(tones / "conf/ctc.yaml")
    with pytest.raises(UserError, match="file/exp: cannot be written") as error:
        Run(tmp_path / "file" / "exp").begin(settings, assets(settings), {})
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_run_names_those_beside_it(begun):
    with pytest.raises(UserError, match=r"no trained model here .* holds: exp\. Train one: stage 3"):
        Run.open(begun.folder.with_name("exq"))


def weights(begun: Run, path: Path, *overrides: str, conf: str = "") -> Path:
    settings = load(conf, list(overrides)) if conf else begun.settings
    model = recognition.build_model(settings, Tokenizer.load(begun.folder / "tokens").vocab_size)
    weights_file.save(path, {key: value.detach() for key, value in model.state_dict().items()})
    return path


def test_weights_that_are_not_there_say_how_they_are_made(begun):
    with pytest.raises(UserError, match="model.safetensors: no such weights; `asrtts average"):
        begun.load()
    weights(begun, begun.folder / "snapshots/00000100.safetensors")
    with pytest.raises(UserError, match="did you mean 'snapshots/00000100'"):
        begun.load("snapshots/0000100")
    assert not begun.load("snapshots/00000100").model.training


def test_a_model_that_no_memory_holds_is_one_line(tones, monkeypatch):
    def refuse(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3600000000000 bytes.")

    monkeypatch.setattr(recognition, "AsrModel", refuse)
    with pytest.raises(UserError, match=r"one layer .* wants 3600.0 GB, more than there are; lower encoder.dim"):
        recognition.build_model(load(tones / "conf/ctc.yaml"), 5)


def test_a_model_of_many_layers_is_refused_before_it_fills_the_memory(tones, monkeypatch):
    monkeypatch.setattr(cost_model, "free", lambda device: 10_000_000)
    settings = load(tones / "conf/ctc.yaml", ["encoder.layers=1000", "encoder.dim=64"])
    with pytest.raises(UserError, match=r"weights .* want more than the 0.0 GB that are free; lower encoder.dim or"):
        recognition.build_model(settings, 5)
    monkeypatch.undo()
    assert recognition.build_model(load(tones / "conf/ctc.yaml"), 5)  # nothing is counted any more


def test_damaged_weights_are_one_line(begun):
    path = weights(begun, begun.folder / "model.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="model.safetensors: damaged") as error:
        begun.load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("overrides", [["encoder.dim=32"], ["encoder.layers=2"]])
def test_weights_of_other_settings_are_one_line(tones, begun, overrides):
    weights(begun, begun.folder / "model.safetensors", *overrides, conf=tones / "conf/ctc.yaml")
    with pytest.raises(UserError, match="model.safetensors: does not fit .*config.yaml") as error:
        begun.load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ['{"seed": 1', "[1]"])
def test_a_damaged_run_json_is_one_line(begun, content):
    (begun.folder / "run.json").write_text(content)
    with pytest.raises(UserError, match="run.json: .*damaged; delete it"):
        begun.facts()


def test_statistics_of_other_features_are_refused(begun):
    (begun.folder / "cmvn.json").write_text('{"mean": [1.0], "std": [1.0]}')  # torch would use it for every bin
    with pytest.raises(UserError, match=r"cmvn.json: statistics of 1 bins, features.num_bins is \d+; train again"):
        recognition.load_statistics(begun, begun.settings)


def test_an_utterance_too_short_for_the_encoder_is_named(tones, begun, tmp_path):
    lines = [json.loads(line) for line in (tones / "data/test.jsonl").read_text().splitlines()]
    lines[2]["seconds"] = 0.06
    path = tmp_path / "short.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = recognition.build_model(begun.settings, 10)
    recognition.refuse_too_short(Index(tones / "data/test"), begun.settings.features, model)
    with pytest.raises(UserError, match="utterance test-2 lasts 0.060 s, too short"):
        recognition.refuse_too_short(Index(path), begun.settings.features, model)
    lines[2]["seconds"] = 0.08  # long enough as it is, but not twice as fast
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recognition.refuse_too_short(Index(path), begun.settings.features, model)
    with pytest.raises(UserError, match="utterance test-2"):
        recognition.refuse_too_short(Index(path), begun.settings.features, model, fastest=2.0)


def test_a_run_that_lost_its_run_json_does_not_go_on(tones, begun):
    facts = begun.facts()
    (begun.folder / "run.json").unlink()
    with pytest.raises(UserError, match=r"run\.json: not there, and nothing else says which data and tokens"):
        Run(begun.folder).check_unchanged(load(tones / "conf/ctc.yaml"), facts)


def test_a_run_goes_on_from_the_weights_that_it_began_with(tones, begun):
    """Before its first checkpoint a resumed run would otherwise begin anew, from random weights."""
    settings = load(tones / "conf/ctc.yaml")
    with pytest.raises(UserError, match=r"began with random weights, now it is --init asrtts:exp/a/model.safetensors"):
        begun.check_unchanged(settings, {**begun.facts(), "init": "asrtts:exp/a/model.safetensors"})
    begun.record(init="asrtts:exp/a/model.safetensors")
    begun.check_unchanged(settings, begun.facts())
    facts = {key: value for key, value in begun.facts().items() if key != "init"}
    with pytest.raises(UserError, match=r"began with --init asrtts:exp/a/model.safetensors, now it is random weights"):
        begun.check_unchanged(settings, facts)


def test_a_run_behind_a_link_is_thrown_away_and_the_link_stays(tones, begun, tmp_path):
    """The target was deleted and the link led nowhere for ever."""
    disk = tmp_path / "large" / "disk"
    disk.parent.mkdir()
    begun.folder.rename(disk)
    begun.folder.symlink_to(disk)
    begun.discard()
    assert begun.folder.is_symlink() and disk.is_dir() and not list(disk.iterdir())
    assert [path.name for path in disk.parent.iterdir()] == ["disk"]
    settings = load(tones / "conf/ctc.yaml")
    begun.begin(settings, assets(settings), facts(settings))
    assert (disk / "config.yaml").is_file()


def test_a_link_to_a_folder_that_is_gone_is_made_whole(tones, tmp_path):
    (tmp_path / "exp").symlink_to(tmp_path / "scratch" / "exp")
    settings, run = load(tones / "conf/ctc.yaml"), Run(tmp_path / "exp")
    with storage.held(run.folder):
        assert not run.is_begun
        run.begin(settings, assets(settings), facts(settings))
    assert (tmp_path / "scratch/exp/config.yaml").is_file() and run.folder.is_symlink()


def test_what_a_run_reads_is_read_once(begun, monkeypatch):
    """One decode read config.yaml six times."""
    reads, real = [], config.read_yaml
    monkeypatch.setattr(config, "read_yaml", lambda path: (reads.append(path), real(path))[1])
    run = Run(begun.folder)
    assert run.settings is run.settings and run.settings.seed == 1 and len(reads) == 1
    run.record(updates=3)
    assert run.facts()["updates"] == 3 and Run(begun.folder).facts()["updates"] == 3


def test_run_json_has_the_checksum_of_the_model(begun):
    model = recognition.build_model(begun.settings, 10)
    begun.save_model(model.state_dict(), averaged=[4])
    path = begun.folder / "model.safetensors"
    assert Run(begun.folder).facts()["files"] == {"model.safetensors": storage.checksum(path)}
    assert Run(begun.folder).read_weights().keys() == model.state_dict().keys()


def test_a_misspelled_task_names_the_nearest(tmp_path):
    (tmp_path / "x.yaml").write_text("task: recogniton")
    with pytest.raises(UserError, match="no task is named 'recogniton'; did you mean 'recognition'"):
        load(tmp_path / "x.yaml")
    (tmp_path / "y.yaml").write_text("task: language_model")
    assert load(tmp_path / "y.yaml", ["model.dim=8"]).model.dim == 8


def test_a_run_of_before_there_were_tasks_is_a_recognizer(begun):
    path = begun.folder / "config.yaml"
    path.write_text(path.read_text().replace("task: recognition\n", ""))
    assert Run(begun.folder).settings == begun.settings


def test_statistics_of_another_run_are_refused(begun):
    """As many bins, and every hypothesis a little worse."""
    features.Statistics(torch.full((20,), 0.1), torch.ones(20)).save(begun.folder / "cmvn.json")
    with pytest.raises(UserError, match=r"cmvn.json: not what this run began with \(\w+, at the start \w+\)"):
        recognition.load_statistics(Run(begun.folder), begun.settings)


def test_an_override_of_a_language_model_leaves_its_other_defaults(tmp_path):
    """With one key of `training` all others fell back to those of a recognizer."""
    (tmp_path / "y.yaml").write_text("task: language_model\ntraining:\n  patience: 7\n")
    plain = build({"task": "language_model"}, "test")
    changed = load(tmp_path / "y.yaml", ["training.updates=9", "training.optimizer.lr=0.5"])
    keys = {key for key, _, _ in differences(plain, changed)}
    assert keys == {"training.patience", "training.updates", "training.optimizer.lr"}
    assert plain.training.keep_best == 1 and plain.training.optimizer.warmup_updates == 100
