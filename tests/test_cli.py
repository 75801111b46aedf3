"""The front door: verbs, their exit statuses, and one line for every mistake."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
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
