"""Settings: every mistake is one line with the dotted key, and what is written comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, PositiveInt

from asrtts import config
from asrtts.config import ArgumentParser, Settings
from asrtts.registry import UserError, find

WHOLE = """
encoder: {name: conformer, dim: 32, layers: 1, attention_heads: 2}
heads: {ctc: 0.3, transducer: {weight: 0.7, predictor: {kind: lstm}}}
"""


class Optimizer(Settings):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)


class Noise(Settings):
    folder: str
    probability: float = Field(0.5, ge=0.0, le=1.0)


class Training(Settings):
    updates: PositiveInt = 100
    optimizer: Optimizer = Optimizer()
    noise: Noise | None = None
    resume: bool = True
    label: str = "run"
    layers: list[int] = []


@pytest.fixture
def conf(tmp_path):
    """Writes a settings file and gives its path."""

    def write(text: str, name: str = "conf.yaml") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def refusal(work) -> str:
    with pytest.raises(UserError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "text, said",
    [
        ("updatse: 3", "conf.yaml: unknown key 'updatse'; did you mean 'updates'? (choices: "),
        ("optimizer: {lrr: 3}", "unknown key 'optimizer.lrr'; did you mean 'lr'? (choices: betas, lr)"),
        ("noise: {foldr: x}", "unknown key 'noise.foldr'; did you mean 'folder'? (choices: folder, probability)"),
        ("noise: {probability: 0.1}", "key 'noise.folder' is missing"),
        ("noise: {folder: x, probability: 2}", "noise.probability holds 2; it should be less than or equal to 1"),
        ("updates: many", "updates holds 'many'; wanted a whole number"),
        ("updates: 2.5", "updates holds 2.5; wanted a whole number"),
        ("updates: -1", "updates holds -1; it should be greater than 0"),
        ("updates: yes", "updates holds true; wanted a number"),
        ("updates:", "updates holds nothing; wanted a whole number"),
        ("optimizer: {lr: no}", "optimizer.lr holds false; wanted a number"),
        ("optimizer: {lr: [1]}", "optimizer.lr holds [1]; wanted a number"),
        ("optimizer: {betas: [0.9, x]}", "optimizer.betas.1 holds 'x'; wanted a number"),
        ("optimizer: {lr: .nan}", "optimizer.lr holds nan; it should be a finite number"),
        ("optimizer: {lr: 1e400}", "optimizer.lr holds inf; it should be a finite number"),
        ("optimizer: adam", "optimizer holds 'adam'; wanted `key: value` lines"),
        ("label: 3", "label holds 3; wanted text"),
        ("resume: perhaps", "resume holds 'perhaps'; wanted true or false"),
        ("layers: 3", "layers holds 3; wanted a list, e.g. [1, 2]"),
        ("updates: x\nlabel: 3", "updates holds 'x'; wanted a whole number (and 1 more)"),
    ],
)
def test_a_mistake_names_the_dotted_key_and_what_was_wanted(conf, text, said):
    path = conf(text)
    assert refusal(lambda: config.load(path, Training)).startswith(f"{path}: ")
    assert said in refusal(lambda: config.load(path, Training))


@pytest.mark.parametrize(
    "text, said",
    [
        ("a: b: c", "conf.yaml:1: not valid YAML (mapping values are not allowed here)"),
        ("updates: 1\nlabel: [x", "conf.yaml:2: not valid YAML"),
        ("updates: 1\nlabel: x\nupdates: 2", "conf.yaml:3: not valid YAML ('updates' stands twice)"),
        ("- 1\n- 2", "wanted `key: value` lines, found [1, 2]"),
        ("x: \x07", "not valid YAML"),
        ("x: " + "[" * 9999, "conf.yaml: not valid YAML (nested too deeply)"),
        ("!!python/object/apply:os.system [echo]", "could not determine a constructor"),
        ("updates: 1\nlabel: 2024-13-45", "conf.yaml:2: not valid YAML ('2024-13-45' is no timestamp)"),
        ("updates: !!int x", "conf.yaml:1: not valid YAML ('x' is no int)"),
        ("1: 2", "conf.yaml: 1"),
    ],
)
def test_a_file_that_is_no_yaml_is_one_line(conf, text, said):
    path = conf(text)
    assert said in refusal(lambda: config.load(path, Training))


def test_a_value_is_shown_in_short_however_deep_or_wide_it_is(conf):
    tens = ", ".join(f"&a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(12))  # the last holds 10^12 numbers
    assert len(refusal(lambda: config.load(conf(f"updates: [&a0 [1], {tens}]"), Training))) < 300
    assert len(refusal(lambda: config.load(conf("{}"), Training, [f"updates{'.a' * 3000}=1"]))) < 300


def test_a_missing_file_is_answered_with_the_nearest(conf):
    path = conf("{}", "attention.yaml")
    assert "did you mean 'attention'?" in refusal(lambda: config.load(path.with_name("atention.yaml"), Training))
    assert "did you mean" not in refusal(lambda: config.load(path.with_name("nothing.yaml"), Training))
    (path.parent / "cpu").mkdir()
    said = refusal(lambda: config.load(path.parent / "gpu" / "x.yaml", Training))
    assert "no such settings file, since there is no folder gpu; did you mean 'cpu'?" in said
    assert "cannot be read" in refusal(lambda: config.load(path.parent, Training))


def test_bytes_that_are_no_text_are_one_line(tmp_path):
    (tmp_path / "conf.yaml").write_bytes(b"\xff\xfe\x00")
    assert "conf.yaml: cannot be read" in refusal(lambda: config.load(tmp_path / "conf.yaml", Training))


def test_an_empty_file_is_all_defaults(conf):
    assert config.load(conf("# nothing\n"), Training) == Training()


def test_base_gives_what_the_file_does_not_say(conf):
    conf("updates: 5\noptimizer: {lr: 0.5}\nlabel: below", "base.yaml")
    settings = config.load(conf("base: base.yaml\noptimizer: {betas: [0.1, 0.2]}\nlabel: above"), Training)
    assert settings == Training(updates=5, optimizer=Optimizer(lr=0.5, betas=(0.1, 0.2)), label="above")


@pytest.mark.parametrize(
    "below, base, said",
    [
        ("base: conf.yaml", "base.yaml", "base.yaml: has a base: of its own; only one level is read"),
        ("updates: 1", "bose.yaml", "no such settings file; did you mean 'base'"),
        ("updates: 1", "3", "3: no such settings file"),
        ("a: b: c", "base.yaml", "base.yaml:1: not valid YAML"),
        ("- 1", "base.yaml", "wanted `key: value` lines"),
    ],
)
def test_a_base_that_cannot_be_is_one_line(conf, below, base, said):
    conf(below, "base.yaml")
    path = conf(f"base: {base}")
    assert said in refusal(lambda: config.load(path, Training))


@pytest.mark.parametrize(
    "override, read",
    [
        ("optimizer.lr=1e-3", lambda s: s.optimizer.lr == 1e-3),
        ("optimizer.lr=2E5", lambda s: s.optimizer.lr == 2e5),
        ("optimizer.betas=[1e-1, .5e0]", lambda s: s.optimizer.betas == (0.1, 0.5)),
        ("layers=[1, 2]", lambda s: s.layers == [1, 2]),
        ("layers=[]", lambda s: s.layers == []),
        ("noise=null", lambda s: s.noise is None),
        ("noise.folder=musan", lambda s: s.noise == Noise(folder="musan", probability=0.1)),
        ("noise={folder: x}", lambda s: s.noise == Noise(folder="x")),
        ("resume=false", lambda s: s.resume is False),
        ("label=a=b", lambda s: s.label == "a=b"),
        ("label='1e-3'", lambda s: s.label == "1e-3"),
        ("updates=7", lambda s: s.updates == 7),
    ],
)
def test_an_override_is_read_as_yaml(conf, override, read):
    assert read(config.load(conf("noise: {folder: x, probability: 0.1}"), Training, [override]))


def test_an_override_reaches_below_a_key_that_is_empty_or_absent(conf):
    for text in ("noise:", "{}"):
        assert config.load(conf(text), Training, ["noise.folder=x"]).noise == Noise(folder="x")


@pytest.mark.parametrize(
    "override, said",
    [
        ("updates", "'updates' is no setting: write key=value"),
        ("=3", "'=3' is no setting"),
        ("optimizer..lr=3", "is no setting"),
        ("label=[x", "'label=[x': the value is not valid YAML"),
        ("label=" + "[" * 9999, "the value is not valid YAML"),
        ("layers.x=3", "layers holds [1], which has no key x"),
        ("optimizer.l=3", "unknown key 'optimizer.l'; did you mean 'lr'"),
    ],
)
def test_an_override_that_cannot_be_is_one_line(conf, override, said):
    path = conf("layers: [1]")
    assert said in refusal(lambda: config.load(path, Training, [override]))


def test_the_last_of_two_overrides_holds(conf):
    assert config.load(conf("{}"), Training, ["updates=3", "updates=4"]).updates == 4


# Members: the encoder by its name, heads by their names and weights.


@pytest.fixture
def experiment():
    from asrtts.tasks.recognition import Settings

    return Settings


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["encoder=conformr"], "encoder.name: no encoder is named 'conformr'; did you mean 'conformer'? (choices: "),
        (["encoder.name=conformr"], "encoder.name: no encoder is named 'conformr'; did you mean 'conformer'?"),
        (["encoder=3"], "encoder.name: no encoder is named '3' (choices: "),
        (["encoder=null"], "encoder.name is missing (choices: conformer"),
        (["encoder={dim: 3}"], "encoder.name is missing (choices: conformer"),
        (["encoder.layrs=3"], "unknown key 'encoder.layrs'; did you mean 'layers'?"),
        (["encoder.layers=x"], "encoder.layers holds 'x'; wanted a whole number"),
        (["heads.ctcc=1"], "heads: no head is named 'ctcc'; did you mean 'ctc'? (choices: attention, ctc, transducer)"),
        (["encoder.layers=99999999999"], "encoder.layers holds 99999999999; it should be less than or equal to 1000"),
        (
            ["training.updates=1e12"],
            "training.updates holds 1000000000000.0; it should be less than or equal to 1000000000",
        ),
        (["training.workers=99999999"], "training.workers holds 99999999; it should be less than or equal to 1024"),
        (["heads=ctc"], "heads holds 'ctc'; wanted at least one `name: weight`; did you mean 'ctc'?"),
        (["heads={}"], "heads holds {}; wanted at least one `name: weight` (choices: "),
        (["heads.ctc=false"], "heads.ctc holds false; wanted its weight or its settings"),
        (["heads.ctc=[1]"], "heads.ctc holds [1]; wanted its weight or its settings"),
        (["heads.ctc.dropot=1"], "unknown key 'heads.ctc.dropot'; did you mean 'dropout'?"),
        (["heads.ctc.dropout=2"], "heads.ctc.dropout holds 2; it should be less than 1"),
        (["heads.ctc.weight=true"], "heads.ctc.weight holds true; wanted a number"),
        (["heads.transducer.predictor.contxt=1"], "unknown key 'heads.transducer.predictor.contxt'; did you mean"),
        (["heads.transducer.predictor.kind=lstn"], "heads.transducer.predictor.kind: there is no 'lstn'; did you mean"),
        (["training.optimizer.lrr=1"], "unknown key 'training.optimizer.lrr'; did you mean 'lr'?"),
        (["augmentation.noise.foldr=x"], "unknown key 'augmentation.noise.foldr'; did you mean 'folder'?"),
        (["augmentation.speed=[]"], "augmentation.speed holds []; it is wrong: "),
        (["augmentation.speed=[0.9, -1]"], "augmentation.speed.1 holds -1; it should be greater than or equal to 0.25"),
        (["augmentation.speed=[1e-9]"], "augmentation.speed.0 holds 1e-09; it should be greater than or equal to 0.25"),
        (["augmentation.gain_db=[0, 1e30]"], "augmentation.gain_db.1 holds 1e+30; it should be less than or equal to"),
        (["batching.round_seconds=1000"], "batching.round_seconds holds 1000; it should be less than or equal to 10"),
        (["features.high_hz=9000"], "features: filters from low_hz 20 to high_hz 9000"),
    ],
)
def test_a_mistake_inside_a_member_names_the_whole_key(conf, experiment, overrides, said):
    path = conf(WHOLE)
    line = refusal(lambda: config.load(path, experiment, overrides))
    assert line.startswith(f"{path}: {said}"), line


def test_a_missing_member_is_named(conf, experiment):
    path = conf("heads: {ctc: 1}")
    assert "key 'encoder' is missing" in refusal(lambda: config.load(path, experiment))


def test_a_number_is_the_weight_of_a_head(conf, experiment):
    settings = config.load(conf("encoder: conformer\nheads: {ctc: 1e-1, attention: 2}"), experiment)
    assert {name: head.weight for name, head in settings.heads.items()} == {"ctc": 0.1, "attention": 2.0}
    assert type(settings.heads["ctc"]) is find("asrtts.asr.heads", "ctc").Config


def test_a_head_without_settings_has_its_defaults(conf, experiment):
    settings = config.load(conf("encoder: conformer\nheads:\n  ctc:\n"), experiment)
    assert settings.heads["ctc"] == find("asrtts.asr.heads", "ctc").Config()


def test_an_override_goes_below_a_shorthand(conf, experiment):
    overrides = ["heads.ctc.dropout=0.25", "encoder.dim=64"]
    settings = config.load(conf("encoder: conformer\nheads: {ctc: 0.3}"), experiment, overrides)
    assert (settings.heads["ctc"].weight, settings.heads["ctc"].dropout) == (0.3, 0.25)
    assert (settings.encoder.name, settings.encoder.dim) == ("conformer", 64)


def test_what_is_dumped_is_loaded_again(conf, experiment, tmp_path):
    overrides = ["training.optimizer.lr=3e-05", "data.train=1e-3x", "data.dev='1e3'", "augmentation.speed=[0.9,1.0]"]
    overrides += ["augmentation.noise.folder='Geräusche: alle'", "augmentation.spec_augment=null"]
    settings = config.load(conf(WHOLE), experiment, overrides)
    config.dump(settings, tmp_path / "config.yaml")
    again = config.load(tmp_path / "config.yaml", experiment)
    assert again == settings
    assert again.data.dev == "1e3" and again.augmentation.spec_augment is None
    assert type(again.encoder) is type(settings.encoder) and again.heads["transducer"].predictor.kind == "lstm"


def test_a_dump_says_every_value(conf, experiment, tmp_path):
    config.dump(config.load(conf(WHOLE), experiment), tmp_path / "config.yaml")
    written = config.read_yaml(tmp_path / "config.yaml")
    assert written["heads"]["ctc"]["dropout"] == 0.1 and written["encoder"]["kernel"]
    assert written["training"]["optimizer"]["lr"]


def test_settings_do_not_change_after_loading():
    with pytest.raises(ValueError):
        Training().updates = 3


# The command line of a verb.


def parser() -> ArgumentParser:
    args = ArgumentParser("train", "Train a model.\n\nMore words.")
    args.add_argument("conf")
    args.add_argument("settings", nargs="*")
    args.add_argument("--restart", action="store_true")
    args.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return args


@pytest.mark.parametrize("words", [["a", "--restart", "x=1", "y=2"], ["--restart", "a", "x=1", "y=2"]])
def test_settings_may_follow_an_option(words):
    args = parser().parse_args(words)
    assert (args.conf, args.settings, args.restart) == ("a", ["x=1", "y=2"], True)


@pytest.mark.parametrize(
    "words, said",
    [
        (["a", "--restrat"], "unknown argument '--restrat'; did you mean '--restart'?"),
        (["a", "--devise=cpu"], "unknown argument '--devise=cpu'; did you mean '--device'?"),
        (["a", "--rest"], "unknown argument '--rest'"),  # an abbreviation may mean another option one day
        (["a", "--device", "cup"], "--device: invalid choice: 'cup'"),
        ([], "the following arguments are required: conf"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words, said):
    line = refusal(lambda: parser().parse_args(words))
    assert line.startswith("asrtts train: ") and said in line and line.endswith("See asrtts train --help")
