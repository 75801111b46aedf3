"""Every shipped recipe: its settings build a model, its commands parse, its heads differ in the head alone."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
import yaml

from asrtts import config, registry
from asrtts.asr.model import AsrModel
from asrtts.bin import crossvalidate, sweep
from asrtts.cli import ORDER
from asrtts.experiment import first_encoder
from asrtts.experiment import jobs as series
from asrtts.experiment.jobs import Job
from asrtts.experiment.settings import load
from asrtts.registry import UserError

TOP = Path(__file__).resolve().parents[1]
RECIPES = sorted(path.parent for path in TOP.glob("egs/*/asr/run.sh"))
CONFS = sorted(path for recipe in RECIPES for path in recipe.glob("conf/**/*.yaml") if path.name != "encoder.yaml")
SHARED = {"encoder.yaml", "pretraining.yaml"}  # what all heads have, and what their encoder begins with
HEADS = {"ctc", "transducer", "attention", "hybrid"}
MIXES = {"hybrid": {"ctc", "attention"}, "transducer_ctc": {"ctc", "transducer"}}
HEAD_KEYS = {"base", "heads", "decoding"}


def name(path: Path) -> str:
    return str(path.relative_to(TOP / "egs"))


def lines(script: Path, *options: str) -> list[list[str]]:
    done = subprocess.run([str(script), "--dry-run", *options], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


def without_runs(recipe: Path, place: Path) -> Path:
    """A copy of the recipe, whose exp/* names no run that was trained here."""
    shutil.copytree(TOP / "utils", place / "utils")
    copy = place / recipe.relative_to(TOP)
    shutil.copytree(recipe / "conf", copy / "conf")
    for script in recipe.glob("*.sh"):
        shutil.copy(script, copy)
    return copy


def check(command: list[str], recipe: Path) -> str:
    """Parse a command line as its program will, without running it; returns the verb."""
    if command[0] == "./run.sh":
        for inner in lines(recipe / "run.sh", *command[1:]):
            check(inner, recipe)
        return "run.sh"
    assert command[0] == "asrtts"
    if command[1] not in registry.names("asrtts.bin") and command[1] in ORDER.split():
        pytest.skip(f"asrtts has no verb {command[1]} yet")
    registry.find("asrtts.bin", command[1]).parser().parse_args(command[2:])
    return command[1]


def test_the_recipes_are_all_there():
    assert {recipe.parent.name for recipe in RECIPES} >= {"mini", "yesno", "an4", "librispeech", "aishell"}


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_every_command_of_run_sh_is_a_verb_with_arguments_that_parse(recipe):
    for head in sorted(HEADS):
        commands = lines(recipe / "run.sh", "--head", head)
        verbs = [check(command, recipe) for command in commands]
        assert commands[-2][-2:] == ["--threads", "1"]  # else `asrtts compare` has no RTF of one thread
        rest = ["train", "average"] * sum(v == "train" for v in verbs) + ["decode", "score"]
        assert [v for v in verbs if v != "prepare"] == ["download", "tokenize", *rest]
        for trained in (command for command in commands if command[1] == "train"):
            load(recipe / trained[2], [word for word in trained[4:] if "=" in word])


@pytest.mark.parametrize("recipe", [r for r in RECIPES if (r / "conf/pretraining.yaml").is_file()], ids=name)
def test_every_head_begins_with_the_encoder_that_was_trained_first(recipe):
    for head in sorted(HEADS):
        commands = lines(recipe / "run.sh", "--head", head, "--seed", "3", "--stage", "3", "--stop-stage", "3")
        first, averaged, second, _ = commands
        assert (first[2], second[2]) == ("conf/pretraining.yaml", f"conf/{head}.yaml")
        assert averaged == ["asrtts", "average", first[3]]
        assert second[4:] == ["seed=3", "--init", f"asrtts:{first[3]}/model.safetensors"]
        encoders = [load(recipe / command[2]).encoder for command in (first, second)]
        assert encoders[0] == encoders[1]


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_every_command_of_compare_sh_parses_and_the_table_holds_what_was_trained(recipe, tmp_path):
    recipe = without_runs(recipe, tmp_path)
    commands = lines(recipe / "compare.sh")
    assert [check(command, recipe) for command in commands][-1] == "compare"
    trained = []
    for command in (each for each in commands if each[0] == "./run.sh"):
        trained += [c[3] for c in lines(recipe / "run.sh", *command[1:]) if c[1] == "train"][-1:]
    table = registry.find("asrtts.bin", "compare").parser().parse_args(commands[-1][2:])
    aligned = registry.find("asrtts.bin", "align").parser().parse_args(commands[0][2:])
    assert commands[0][1] == "align" and [str(path) for path in aligned.manifest] == [table.test]
    told = aligned.out or aligned.manifest[0].parent / "alignment"
    assert table.alignment == told / f"{aligned.manifest[0].name}.ctm"
    compared = table.exp  # exp/ctc-*: all seeds
    assert len(trained) == len(compared) >= 3
    assert all(fnmatchcase(run, pattern) for run, pattern in zip(trained, compared, strict=True))
    wide = {run.rsplit("-", 1)[0] + "-dim72" for run in trained}  # what `asrtts sweep` may have put beside them
    assert not any(fnmatchcase(run, pattern) for run in wide for pattern in compared)


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_compare_sh_trains_each_head_with_each_seed(recipe, tmp_path):
    recipe = without_runs(recipe, tmp_path)
    preset = ["--preset", "cpu"] if (recipe / "conf" / "cpu").is_dir() else []
    trained = []
    for command in lines(recipe / "compare.sh", "--stage", "3", "--seed", "1 3", *preset)[:-1]:
        trained += [c for c in lines(recipe / "run.sh", *command[1:]) if c[1] == "train"][-1:]
    runs = [Path(command[3]).name for command in trained]
    assert len(set(runs)) == len(runs) >= 6 and all(
        f"seed={run[-1]}" in c for run, c in zip(runs, trained, strict=True)
    )
    assert sorted(run[:-1] + "3" for run in runs if run[-1] == "1") == sorted(run for run in runs if run[-1] == "3")


def test_a_seed_that_is_no_number_is_refused():
    for wrong in ("two", "1,2", "*", ""):
        done = subprocess.run(
            [str(RECIPES[0] / "compare.sh"), "--dry-run", "--seed", wrong], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2 and done.stderr.endswith(
            f"--seed '{wrong}': wanted a whole number, or several, e.g. '1 2 3'\n"
        )


@pytest.mark.parametrize("script", ["run.sh", "compare.sh"])
def test_mini_in_another_language_touches_nothing_of_the_first(script):
    """Else ./compare.sh would find English runs beside Mandarin data."""
    recipe = TOP / "egs/mini/asr"
    english, mandarin = lines(recipe / script), lines(recipe / script, "--lang", "zh")
    if script == "compare.sh":
        both = english, mandarin
        english, mandarin = ([*each[:1], *each[-1:], *lines(recipe / "run.sh", *each[1][1:])] for each in both)

    def folders(commands: list[list[str]]) -> set[str]:
        return set(re.findall(r"\b(?:data|exp|downloads)[-\w/]*", " ".join(word for c in commands for word in c)))

    run = "ctc-1" if script == "compare.sh" else "ctc"
    assert {f"exp/{run}", "data/test"} <= folders(english) and {f"exp-zh/{run}", "data-zh/test"} <= folders(mandarin)
    assert not (folders(english) & folders(mandarin)) - {"data"}  # the key, as in data.train=


@pytest.mark.parametrize("recipe", [r for r in RECIPES if (r / "conf" / "cpu").is_dir()], ids=name)
def test_the_cpu_preset_has_its_own_settings_and_folder(recipe):
    command = next(c for c in lines(recipe / "run.sh", "--preset", "cpu") if c[1] == "train")
    assert command[2:4] == ["conf/cpu/ctc.yaml", "exp/cpu-ctc"]
    assert (recipe / command[2]).is_file()


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_a_corpus_that_is_there_already_is_named_to_the_verbs_that_read_it(recipe):
    if "corpus=" not in (recipe / "run.sh").read_text():
        pytest.skip("its corpus is made here")
    commands = lines(recipe / "run.sh", "--corpus", "/a folder", "--stop-stage", "1")
    named = [c[1] for c in commands if "--corpus" in c and c[c.index("--corpus") + 1] == "/a folder"]
    assert named == ["download", "prepare", "prepare"]


@pytest.mark.parametrize("conf", CONFS, ids=name)
def test_settings_build_their_model(conf):
    """On the meta device: shapes and parameters, no memory. A wrong key or type is a UserError here."""
    settings = load(conf)
    with torch.device("meta"):
        model = AsrModel(settings.encoder, settings.heads, settings.features.num_bins, vocab_size=30)
    assert model.method(settings.decoding).split("_")[0] in {*settings.heads, "joint"}
    if name(conf).startswith(("an4", "mini", "yesno")):
        assert sum(p.numel() for p in model.parameters()) <= 5e6  # what two CPU cores train in reasonable time


@pytest.mark.parametrize("folder", sorted({conf.parent for conf in CONFS}), ids=name)
def test_the_heads_of_a_recipe_share_everything_but_the_head(folder):
    settings = {conf.stem: load(conf) for conf in folder.glob("*.yaml") if conf.name not in SHARED}
    assert HEADS <= set(settings) <= HEADS | set(MIXES)
    shared = [s.model_dump(mode="json", exclude={"heads", "decoding"}) for s in settings.values()]
    assert all(one == shared[0] for one in shared)
    for head, s in settings.items():
        assert set(s.heads) == MIXES.get(head, {head})


@pytest.mark.parametrize("folder", sorted({conf.parent for conf in CONFS}), ids=name)
def test_the_heads_of_a_recipe_are_searched_with_equal_effort(folder):
    searched = [load(conf) for conf in folder.glob("*.yaml") if conf.name not in SHARED]
    with torch.device("meta"):
        models = [AsrModel(s.encoder, s.heads, s.features.num_bins, vocab_size=30) for s in searched]
    assert {s.decoding.beam for s in searched} == {10}
    methods = {model.method(s.decoding) for model, s in zip(models, searched, strict=True)}
    assert methods == {"ctc_prefix_beam", "transducer_beam", "attention_beam", "joint_beam"}


@pytest.mark.parametrize("conf", CONFS, ids=name)
def test_the_file_of_a_head_holds_the_head_alone(conf):
    values = yaml.safe_load(conf.read_text(encoding="utf-8"))
    budget = {"training"} if conf.name in SHARED else set()
    assert values["base"] == "encoder.yaml" and set(values) <= HEAD_KEYS | budget


def test_a_misspelled_head_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'transducer'"):
        config.read_yaml(TOP / "egs/mini/asr/conf/transduser.yaml")


@pytest.mark.parametrize("recipe", [r for r in RECIPES if (r / "with_lm.sh").is_file()], ids=name)
def test_with_lm_decodes_what_run_sh_trained_and_compares_it_with_the_result_without(recipe):
    for head in sorted(HEADS):
        commands = lines(recipe / "with_lm.sh", "--head", head)
        assert [check(command, recipe) for command in commands] == ["lm", "tune", "decode", "score", "compare"]
        trained = [c for c in lines(recipe / "run.sh", "--head", head) if c[1] == "train"][-1]
        assert {command[2] for command in commands[1:]} == {trained[3]}
        assert commands[-1][3] == f"{trained[3]}:{Path(commands[2][3]).name}_lm"


@pytest.mark.parametrize("recipe", [r for r in RECIPES if (r / "compare_lm.sh").is_file()], ids=name)
def test_compare_lm_has_each_run_that_is_there_with_and_without(recipe, tmp_path):
    recipe = without_runs(recipe, tmp_path)
    for run in ("ctc-1", "ctc-2", "hybrid-1", "ctc-dim72", "encoder-1", "lm"):
        (recipe / "exp" / run).mkdir(parents=True)
    commands = lines(recipe / "compare_lm.sh")
    assert [check(command, recipe) for command in commands] == ["lm", "tune", "decode", "score", "compare"]
    runs = ["exp/ctc-1", "exp/ctc-2", "exp/hybrid-1"]
    assert [[word for word in command[2:] if word in runs] for command in commands[1:]] == [runs] * 4
    test = Path(commands[2][5]).name
    assert commands[-1][5:8] == [f"{run}:{test}_lm" for run in runs]


def test_every_corpus_with_text_enough_is_decoded_with_a_language_model():
    have = {
        recipe.parent.name for recipe in RECIPES if all((recipe / f"{n}_lm.sh").is_file() for n in ("with", "compare"))
    }
    assert have == {recipe.parent.name for recipe in RECIPES} - {"yesno"}  # whose sentences are all alike


@pytest.mark.parametrize("recipe", [r for r in RECIPES if (r / "sweep.sh").is_file()], ids=name)
@pytest.mark.parametrize("given", [(), ("--sweep", "encoder.layers=5,6", "--seed", "3")])
def test_sweep_trains_heads_in_sizes_that_fit_and_compares_them(recipe, given, tmp_path, monkeypatch):
    recipe = without_runs(recipe, tmp_path)
    monkeypatch.chdir(recipe)
    *sweeps, comparison = lines(recipe / "sweep.sh", *given)
    assert [check(command, recipe) for command in (*sweeps, comparison)] == ["sweep"] * len(sweeps) + ["compare"]
    jobs = []
    for command in sweeps:
        args = sweep.parser().parse_args(command[2:])
        swept, fixed = sweep.divided(args.settings)
        for point in sweep.points(swept):
            job = Job(args.conf, (*fixed, *point), series.beside(args.exp, point[:1]), Path(args.test))
            jobs.append(first_encoder.begun(job, args.encoder, point))
    heads = {Path(job.conf).stem for job in jobs}
    assert heads == all_heads(recipe) if (recipe / "conf/pretraining.yaml").is_file() else len(heads) >= 3
    check_road(jobs, recipe)
    for job in series.in_order(jobs):
        (recipe / job.exp).mkdir(parents=True)
    args = registry.find("asrtts.bin", "compare").parser().parse_args(lines(recipe / "sweep.sh", *given)[-1][2:])
    assert sorted(map(Path, args.exp)) == sorted(job.exp for job in jobs)  # and no encoder, which is not decoded
    assert set(args.allow) == {*swept, "encoder_hash"} and args.out == Path("exp/sweep")


@pytest.mark.parametrize("recipe", [r for r in RECIPES if (r / "folds.sh").is_file()], ids=name)
def test_folds_are_of_settings_that_build_and_never_of_test(recipe, monkeypatch):
    monkeypatch.chdir(recipe)
    (command,) = lines(recipe / "folds.sh")
    assert check(command, recipe) == "crossvalidate" and not any("test" in word for word in command)
    args = registry.find("asrtts.bin", "crossvalidate").parser().parse_args(command[2:])
    variants, common = crossvalidate.read(args.settings)
    loaded = [load(v.conf, [*common, *v.overrides]) for v in variants]
    crossvalidate.one_data(variants, loaded)
    exps = [args.out / v.name for v in variants]
    jobs = [crossvalidate.job(v, common, args.out, 1, exp, args.encoder) for v, exp in zip(variants, exps, strict=True)]
    check_road(jobs, recipe)


def all_heads(recipe: Path) -> set[str]:
    return {conf.stem for conf in recipe.glob("conf/*.yaml") if conf.name not in SHARED}


def check_road(jobs: list[Job], recipe: Path) -> None:
    """Runs have models that can be built and the budget of run.sh, and begin with the encoder that it begins with."""
    pretraining = recipe / "conf/pretraining.yaml"
    assert {job.encoder and job.encoder.conf for job in jobs} == {
        "conf/pretraining.yaml" if pretraining.is_file() else None
    }
    first_encoder.check(jobs)
    for job in series.in_order(jobs):
        settings = load(job.conf, job.overrides)
        with torch.device("meta"):
            AsrModel(settings.encoder, settings.heads, settings.features.num_bins, vocab_size=30)
        assert settings.training == load(job.conf).training
