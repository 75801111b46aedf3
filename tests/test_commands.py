"""The check of a recipe's commands: without torch it says what it says with torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asrtts import commands, registry
from asrtts.registry import UserError

TOP = Path(__file__).resolve().parents[1]


def stream(*lines: list[str]) -> bytes:
    fields = [field for words in lines for field in ("3", "A title", str(len(words)), *words)]
    return "".join(f"{field}\0" for field in fields).encode(errors="surrogateescape")


def checked(*lines: list[str], options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    argv = [sys.executable, "-m", "asrtts", "--check-commands", "./run.sh", *options]
    return subprocess.run(argv, input=stream(*lines), capture_output=True, cwd=TOP, timeout=100)


def test_the_commands_come_back_with_empty_words_and_any_letters():
    line = ["asrtts", "train", "", "a\nb", "\udcff 中"]
    assert list(commands.parse(stream(line, ["x"]))) == [
        commands.Command("3", "A title", line),
        commands.Command("3", "A title", ["x"]),
    ]


def test_every_verb_can_be_checked_without_torch():
    code = """
import sys
from asrtts import commands, registry
sys.meta_path.insert(0, commands._NoTorch())
for verb in registry.names("asrtts.bin"):
    registry.find("asrtts.bin", verb).parser()
from asrtts import config
from asrtts.experiment import settings
for path in sys.argv[1:]:
    print(settings.load(path).model_dump_json())
"""
    confs = sorted(str(path) for path in TOP.glob("egs/*/asr/conf/**/*.yaml") if path.name != "encoder.yaml")
    done = subprocess.run([sys.executable, "-c", code, *confs], capture_output=True, text=True, cwd=TOP)
    assert done.returncode == 0, done.stderr
    from asrtts.experiment import settings

    assert done.stdout.splitlines() == [settings.load(path).model_dump_json() for path in confs]


def test_where_the_stand_in_is_not_enough_torch_itself_is_loaded(tmp_path):
    """A library that computes with torch while it is imported."""
    code = (
        "import sys\nfrom asrtts import commands\ndef broken(name): raise TypeError\n"
        "commands._stand_in = broken\ncommands.main(sys.argv[1:])"
    )
    line = ["asrtts", "train", "conf/nothing.yaml", "exp/x"]
    done = subprocess.run([sys.executable, "-c", code, "./run.sh"], input=stream(line), capture_output=True, cwd=TOP)
    assert done.returncode == 2 and done.stderr.startswith(b"./run.sh: there is no conf/nothing.yaml")


def test_an_unknown_verb_or_option_is_one_line():
    for line, said in (
        (["asrtts", "trian"], b"./run.sh: no verb is named 'trian'; did you mean 'train'?"),
        (["asrtts"], b"./run.sh: no verb is named ''"),
        (["asrtts", "score", "exp/x", "--no", "test"], b"./run.sh: asrtts score: "),
        (["asrtts", "train", "--help"], b""),
        (["no-such-program"], b""),
    ):
        done = checked(line)
        assert done.stderr.startswith(said) and done.stderr.count(b"\n") == bool(said), done.stderr
        assert done.returncode == 2 * bool(said)


def test_the_option_that_is_named_is_the_one_that_is_wrong():
    lines = ["asrtts", "download", "an4", "x", "--corpus", "/no"], ["asrtts", "train", "conf/ct.yaml", "exp", "seed=1"]
    options = ("--seed", "1", "--corpus", "/no", "--head", "ct")
    assert checked(lines[0], options=options).stderr.startswith(b"./run.sh: --corpus /no: /no: no such folder")
    assert checked(lines[1], options=options).stderr.startswith(b"./run.sh: --head ct: there is no conf/ct.yaml")
    done = checked(["asrtts", "tokenize", "no/train", "x"], options=("--seed", "1"))  # "(stage 1)" in the message
    assert done.stderr.startswith(b"./run.sh: no/train.jsonl: no such manifest")


def check(*lines: str) -> str:
    try:
        commands.check([commands.Command("3", "A title", line.split()) for line in lines])
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "line, said",
    [
        ("download an4 downloads --trust md5:1", "--trust md5:1: wanted"),
        ("download an4 downloads --corpus /nowhere", "/nowhere: no such folder"),
        ("download mini downloads --lang xx", "mini is not spoken in 'xx'"),
        ("download an4 downloads --lang en", "--lang means nothing to an4"),
        ("download an downloads", "no corpus is named 'an'; did you mean 'an4'?"),
        ("prepare an4 downloads data --corpus /nowhere", "/nowhere: no such folder"),
        ("prepare an4 downloads data --allow no-such", "no kind of finding is named 'no-such'"),
        ("prepare an4 downloads data --max-dropped 2", "--max-dropped 2: wanted a share"),
        ("tokenize data/train data/tokens", "data/train.jsonl: no such manifest"),
        ("tokenize data/train data/tokens --kind chr", "no token kind is named 'chr'; did you mean 'char'?"),
        ("tokenize data/train data/tokens --lang en", "--lexicon and --lang are for --kind phone"),
        ("align data/test", "data/test.jsonl: no such manifest"),
        ("align data/test --aligner hm", "no aligner is named 'hm'; did you mean 'hmm'?"),
        ("align data/test --lexicon /nowhere", "/nowhere: the lexicon cannot be read"),
        ("shard data/train shards", "data/train.jsonl: no such manifest"),
        ("average exp/none", "exp/none: no trained model here"),
        ("decode exp/none data/test", "exp/none: no trained model here"),
        ("decode exp/none data/test --threads 5000", "--threads 5000: wanted 1 to 1024"),
        ("tune exp/none data/dev", "exp/none: no trained model here"),
        ("score exp/none --on tset", "data/tset.jsonl: no such manifest"),
        ("compare exp/none --test tset", "data/tset.jsonl: no such manifest"),
        ("lm data/train exp/lm model.dim=3", "is a setting of --neural"),
        ("lm data/train exp/lm --neural model.dmi=3", "unknown key 'model.dmi'; did you mean 'dim'?"),
        ("lm no.txt exp/lm", "no.txt: no such text"),
        ("plan conf/no.yaml", "there is no conf/no.yaml"),
    ],
)
def test_a_value_that_would_stop_a_verb_later_is_refused(monkeypatch, tmp_path, line, said):
    monkeypatch.chdir(tmp_path)
    assert said in check(f"asrtts {line}")
    assert list(tmp_path.iterdir()) == []


MADE = ["prepare an4 downloads data", "tokenize data/train data/tokens", "train conf/ctc.yaml exp/ctc seed=1"]


@pytest.fixture
def recipe(monkeypatch, tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "ctc.yaml").write_text("encoder: conformer\nheads: {ctc: 1}\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "shard data/train shards",
        "average exp/ctc",
        "decode exp/ctc data/test beam=3",
        "tune exp/ctc data/dev lm=exp/lm",
        "score exp/ctc --on test",
        "compare exp/ctc-* --test data/test",
        "lm data/train exp/lm",
        "train conf/ctc.yaml exp/second --init asrtts:exp/ctc/model.safetensors",
        "sweep conf/ctc.yaml exp/sweep encoder.dim=72,144 --test test",
        "crossvalidate conf/ctc.yaml conf/ctc.yaml,encoder.dim=72",
    ],
)
def test_what_an_earlier_command_makes_is_not_required(recipe, line):
    lines = [f"asrtts {each}" for each in (*MADE, line)]
    assert check(*lines) == ""


@pytest.mark.parametrize(
    "line, said",
    [
        ("decode exp/ctc data/test bem=3", "unknown key 'bem'; did you mean 'beam'?"),
        ("decode exp/ctc data/test --name a/b", "--name 'a/b': wanted a bare name"),
        ("decode exp/ctc data/test --batch-seconds 0", "--batch-seconds: seconds holds 0"),
        ("decode exp/ctd data/test", "exp/ctd: no trained model here"),
        ("tune exp/ctc data/dev beam=x", "beam holds 'x'"),
        ("train conf/ctc.yaml exp/b --init wnet:x", "--init wnet:x: write TOOLKIT:FILE"),
        ("train conf/ctc.yaml exp/b --init asrtts:exp/none/model.safetensors", "no such file of weights"),
        ("train conf/ctc.yaml exp/b heads.ctc.name=banana", "heads.ctc"),
        ("sweep conf/ctc.yaml exp/sweep encoder.dim=72,x --test test", "encoder.dim holds 'x'"),
        ("sweep conf/ctc.yaml exp/sweep encoder.dim=72,144 --test test --encoder conf/p.yaml e", "no conf/p.yaml"),
        ("crossvalidate conf/ctc.yaml conf/ctc.yaml,encoder.dim=x", "encoder.dim holds 'x'"),
        ("compare exp/ctc --test test --alignment none.ctm", "none.ctm: no such alignment"),
    ],
)
def test_and_all_the_rest_is_checked(recipe, line, said):
    lines = [f"asrtts {each}" for each in (*MADE, line)]
    assert said in check(*lines)


def test_every_verb_says_what_it_can():
    without = [v for v in registry.names("asrtts.bin") if not hasattr(registry.find("asrtts.bin", v), "check")]
    assert without == []
