"""The front door: verbs, their exit statuses, and one line for every mistake."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from asrtts import __version__, cli, registry
from asrtts.registry import UserError

TOP = Path(__file__).resolve().parents[1]


def fake_verb(monkeypatch, work):
    monkeypatch.setattr(cli, "find", lambda package, name: SimpleNamespace(main=work))


def fails(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb_with_its_line_in_the_order_of_a_recipe(capsys, words):
    cli.main(words)
    out = capsys.readouterr().out
    verbs = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert sorted(verbs) == registry.names("asrtts.bin")
    assert [verb for verb in cli.ORDER.split() if verb in verbs] == [
        verb for verb in verbs if verb in cli.ORDER.split()
    ]
    assert all(len(line.split()) > 3 for line in out.splitlines() if line.startswith("  "))


def test_the_version_is_told(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"asrtts {__version__}\n"


def test_an_unknown_verb_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["trian"])
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("asrtts: error: no verb is named 'trian'; did you mean 'train'? (choices: ")
    assert err.count("\n") == 1


def test_a_verb_gets_the_words_after_it(monkeypatch):
    seen = []
    fake_verb(monkeypatch, seen.append)
    cli.main(["train", "conf.yaml", "--restart"])
    assert seen == [["conf.yaml", "--restart"]]


def test_a_mistake_is_one_line_and_status_2(monkeypatch, capsys):
    fake_verb(monkeypatch, fails(UserError("a.yaml: wrong\nin two lines")))
    with pytest.raises(SystemExit) as exit:
        cli.main(["train"])
    assert exit.value.code == 2
    assert capsys.readouterr().err == "asrtts: error: a.yaml: wrong in two lines\n"


def test_ctrl_c_is_one_line_and_status_130(monkeypatch, capsys):
    fake_verb(monkeypatch, fails(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as exit:
        cli.main(["train"])
    assert exit.value.code == 130
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "interrupted" in err


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_is_one_line(monkeypatch, capsys, number):
    fake_verb(monkeypatch, fails(OSError(number, os.strerror(number), "exp/ctc")))
    with pytest.raises(SystemExit) as exit:
        cli.main(["train"])
    assert exit.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"asrtts: error: exp/ctc: {os.strerror(number)}; ") and err.count("\n") == 1


def test_a_missing_file_that_nobody_foresaw_keeps_its_traceback(monkeypatch):
    fake_verb(monkeypatch, fails(FileNotFoundError(errno.ENOENT, "no such file", "x")))
    with pytest.raises(FileNotFoundError):
        cli.main(["train"])


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    fake_verb(monkeypatch, fails(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


def test_a_reader_that_leaves_early_is_no_error():
    """`asrtts --help | true`: the pipe is closed before the help is written."""
    code = "import time; time.sleep(0.5); from asrtts.cli import main; main(['--help'])"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_a_file_with_an_underscore_is_no_verb():
    assert not any(name.startswith("_") for name in registry.names("asrtts.bin"))
    with pytest.raises(UserError, match="no verb is named '_summary'"):
        registry.find("asrtts.bin", "_summary")


@pytest.mark.parametrize(
    "package, kind", [("asrtts.asr.encoders", "encoder"), ("asrtts.asr.heads", "head"), ("asrtts.corpora", "corpus")]
)
@pytest.mark.parametrize("name", ["nonesuch", "", 3, None, "../cli"])
def test_a_name_that_is_no_file_is_refused(package, kind, name):
    with pytest.raises(UserError, match=rf"no {kind} is named '{name}'.*choices: "):
        registry.find(package, name)


def test_what_a_terminal_cannot_show_is_shown_as_an_escape(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="ascii"))
    monkeypatch.setattr(cli, "usage", lambda: "\udcfc \u2500")
    cli.main([])
    assert printed.getvalue() == b"\\udcfc \\u2500\n"


# As a program: its streams, signals, encoding and folder.

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TOP)}


def program(line: str, cwd: Path | str, **environment: str) -> subprocess.CompletedProcess:
    """A line of shell in which $ASRTTS is the program."""
    given = {**ENVIRONMENT, "ASRTTS": f"{sys.executable} -m asrtts", **environment}
    return subprocess.run(["bash", "-c", line], cwd=cwd, env=given, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    "line, status, said",
    [
        ("$ASRTTS --help >&-", 0, b""),
        ("$ASRTTS --version 2>&-", 0, f"asrtts {__version__}\n".encode()),
        ("$ASRTTS --help <&- >&- 2>&-", 0, b""),
        ("$ASRTTS prepare an4 no data 2>&-", 2, b""),
        ("$ASRTTS trian 2>/dev/full", 2, b""),
        ("$ASRTTS prepare an4 no data 2>&1 >&-", 2, b"asrtts: error: no: no such folder; get an4 with"),
        ("$ASRTTS --help 2>&1 >/dev/full", 2, b"asrtts: error: the disk: No space left on device; "),
        ("env -u HOME TERM=dumb TMPDIR=/nowhere $ASRTTS prepare an4 no data 2>&1", 2, b"asrtts: error: no: no such"),
    ],
)
def test_a_closed_or_full_stream_is_no_traceback(tmp_path, line, status, said):
    done = program(line, tmp_path)
    assert (done.returncode, done.stderr) == (status, b"")
    assert done.stdout.startswith(said) and done.stdout.count(b"\n") == bool(said)
    assert list(tmp_path.iterdir()) == []  # nothing was written into a file that took a stream's number


@pytest.mark.parametrize("verb", registry.names("asrtts.bin"))
def test_a_folder_that_was_deleted_is_one_line_for_every_verb(tmp_path, verb):
    done = program(f"mkdir gone; cd gone; rmdir ../gone; $ASRTTS {verb} a b", tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"asrtts: error: the folder that this shell is in was deleted; go to one that is there: cd\n"


def test_help_is_given_in_a_folder_that_was_deleted(tmp_path):
    assert program("mkdir gone; cd gone; rmdir ../gone; $ASRTTS --help", tmp_path).returncode == 0


SLEEPER = """
import sys, time
from types import SimpleNamespace
from asrtts import cli
def work(argv):
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        print("tidied up", flush=True)
cli.find = lambda package, name: SimpleNamespace(main=work)
sys.argv = ["asrtts", "train"]
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_verb_lets_it_tidy_up(number):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": TOP}
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], **pipes)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (128 + number, "tidied up\n")
    assert err == f"asrtts: ended by {number.name}; the same command goes on where it stopped\n"


def test_a_signal_that_is_ignored_stays_ignored():
    code = SLEEPER.replace("time.sleep(30)", "import os, signal; os.kill(os.getpid(), signal.SIGHUP)")
    done = subprocess.run(["nohup", sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "ready\ntidied up\n"


def test_names_beyond_ascii_work_in_a_locale_that_knows_none(tmp_path):
    """From a Kaldi folder to tokens, and a settings file, with Chinese names and ids."""
    soundfile = pytest.importorskip("soundfile")
    random, locale = Random(1), {"LC_ALL": "C", "PYTHONUTF8": "0"}
    folder = tmp_path / "语料"
    for split in ("train", "dev"):
        (folder / split).mkdir(parents=True)
        rows = [(f"{split}说话人-{n}", f"{split}{n}.wav", f"你好 {word}") for n, word in enumerate("一二三")]
        for _, file, _ in rows:
            soundfile.write(folder / split / file, [random.uniform(-0.1, 0.1) for _ in range(16000)], 16000)
        (folder / split / "wav.scp").write_text("".join(f"{i} {folder / split / f}\n" for i, f, _ in rows), "utf-8")
        (folder / split / "text").write_text("".join(f"{i} {t}\n" for i, _, t in rows), "utf-8")
        (folder / split / "utt2spk").write_text("".join(f"{i} {split}说话人\n" for i, _, _ in rows), "utf-8")
    (tmp_path / "设置.yaml").write_text("编码: 1\n", "utf-8")
    prepared = "$ASRTTS prepare kaldi 语料 数据 --keep-going --jobs 1"
    done = program(f"{prepared} && $ASRTTS tokenize 数据/train 数据/tokens", tmp_path, **locale)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "数据" / "train.jsonl").read_text("utf-8").count('"train说话人-') == 3
    assert "你".encode() in done.stdout
    done = program("$ASRTTS train 设置.yaml 实验/一 data.train=数据/train", tmp_path, **locale)
    assert done.returncode == 2 and done.stderr.decode().startswith("asrtts: error: 设置.yaml: unknown key '编码'")
