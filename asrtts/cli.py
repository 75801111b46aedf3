"""The front door: `asrtts VERB ...`. Each file of asrtts/bin is a verb; its first docstring line is its help."""

from __future__ import annotations

import ast
import io
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from asrtts import __version__
from asrtts.registry import UserError, find, names
from asrtts.storage import REFUSED

# The order in which a recipe uses them; a verb that is not named here stands at the end.
ORDER = """recipes download prepare shard tokenize align plan train average lm tune decode synthesize score compare
    sweep crossvalidate distill quantize export bench"""


class Ended(BaseException):
    """Raised where a signal arrives that asks this process to end, so that it tidies up as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.number = number


def main(argv: list[str] | None = None) -> None:
    """Run one verb. A UserError is one line on standard error and exit status 2, never a traceback.

    Args:
        argv: the words after `asrtts`; None: those that this process was started with, which also gets its streams,
            signals and encoding made ready.
    """
    # Before torch is loaded: a thread of OpenMP that waits is to sleep, not to spin. On a machine with other work on it
    # spinning made twenty updates on two threads last 27 s instead of 6.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if argv is None:
        argv = sys.argv[1:]
        _open_streams()
        _use_utf8()
        _catch_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal cannot show is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run(argv)
        sys.stdout.flush()  # a closed pipe shows here, not while Python shuts down
    except UserError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        _say("asrtts: interrupted; the same command goes on where it stopped")
        sys.exit(130)
    except Ended as error:
        _say(f"asrtts: ended by {signal.Signals(error.number).name}; the same command goes on where it stopped")
        sys.exit(128 + error.number)
    except BrokenPipeError:  # `asrtts ... | head`
        _drop_output()
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        if error.filename is None:
            _drop_output()  # it may be the full disk behind standard output, which Python would try again to write
        _stop(f"{error.filename or 'the disk'}: {error.strerror}; mend that and give the same command again")


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
    elif argv[0] in ("-V", "--version"):
        print(f"asrtts {__version__}")
    elif argv[0] == "--check-commands":
        from asrtts import commands  # here, since `asrtts --help` must not wait for it

        commands.main(argv[1:])
    else:
        _refuse_lost_folder()
        find("asrtts.bin", argv[0]).main(argv[1:])


def _refuse_lost_folder() -> None:
    try:
        os.getcwd()
    except OSError:
        raise UserError("the folder that this shell is in was deleted; go to one that is there: cd") from None


def _open_streams() -> None:
    """Standard streams that were closed (`>&-`) lead nowhere; else the next file that is opened would be one."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _use_utf8() -> None:
    """In a C locale that Python takes literally (LC_ALL=C PYTHONUTF8=0), start again with UTF-8: names need it."""
    if sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode:
        sys.stdout.flush()
        environment = {**os.environ, "PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _catch_signals() -> None:
    """Tidy up also when a scheduler or a closed terminal ends this process. What is ignored (nohup) stays ignored."""

    def end(number: int, frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the tidying up
        raise Ended(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)


def _drop_output() -> None:
    """Whatever is still to be written to standard output goes nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(message: str) -> NoReturn:
    _say(f"asrtts: error: {' '.join(message.splitlines())}")
    sys.exit(2)


def _say(line: str) -> None:
    with suppress(OSError):  # nobody may read it
        print(line, file=sys.stderr, flush=True)


def usage() -> str:
    """The verbs with their first docstring lines, read without importing them: help must not wait for torch."""
    order = ORDER.split()
    verbs = sorted(names("asrtts.bin"), key=lambda v: (order.index(v) if v in order else len(order), v))
    width = max(map(len, verbs))
    lines = [f"  {verb:<{width}} {_first_line(verb)}" for verb in verbs]
    return "\n".join(
        ["asrtts VERB ...   speech recognition recipes, from a corpus to a scored model", "", *lines, ""]
        + ["`asrtts VERB --help` says what a verb takes. A recipe is egs/<corpus>/<task>/run.sh in a checkout or in"]
        + ["the copy that `asrtts recipes DIR` makes; ./run.sh --help says what it takes."]
    )


def _first_line(verb: str) -> str:
    source = (Path(__file__).parent / "bin" / f"{verb}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n", 1)[0]
