"""The front door: `asrtts VERB ...`. Each file of asrtts/bin is a verb; its first docstring line is its help."""

from __future__ import annotations

import ast
import io
import os
import sys
from pathlib import Path
from typing import NoReturn

from asrtts import __version__
from asrtts.registry import UserError, find, names
from asrtts.storage import REFUSED

# The order in which a recipe uses them; a verb that is not named here stands at the end.
ORDER = """download prepare shard tokenize align plan train average lm tune decode synthesize score compare
    sweep crossvalidate distill quantize export bench"""


def main(argv: list[str] | None = None) -> None:
    """Run one verb. A UserError is one line on standard error and exit status 2, never a traceback."""
    argv = sys.argv[1:] if argv is None else argv
    # Before torch is loaded: a thread of OpenMP that waits is to sleep, not to spin. On a machine with other work on it
    # spinning made twenty updates on two threads last 27 s instead of 6.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal cannot show is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(usage())
        elif argv[0] in ("-V", "--version"):
            print(f"asrtts {__version__}")
        elif argv[0] == "--check-commands":
            from asrtts import commands  # here, since `asrtts --help` must not wait for it

            commands.main(argv[1:])
        else:
            find("asrtts.bin", argv[0]).main(argv[1:])
        sys.stdout.flush()  # a closed pipe shows here, not while Python shuts down
    except UserError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        print("asrtts: interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `asrtts ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        _stop(f"{error.filename or 'the disk'}: {error.strerror}; mend that and give the same command again")


def _stop(message: str) -> NoReturn:
    print(f"asrtts: error: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(2)


def usage() -> str:
    """The verbs with their first docstring lines, read without importing them: help must not wait for torch."""
    order = ORDER.split()
    verbs = sorted(names("asrtts.bin"), key=lambda v: (order.index(v) if v in order else len(order), v))
    width = max(map(len, verbs))
    lines = [f"  {verb:<{width}} {_first_line(verb)}" for verb in verbs]
    return "\n".join(
        ["asrtts VERB ...   speech recognition recipes, from a corpus to a scored model", "", *lines, ""]
        + ["`asrtts VERB --help` says what a verb takes. Recipes are in egs/<corpus>/<task>: ./run.sh --help"]
    )


def _first_line(verb: str) -> str:
    source = (Path(__file__).parent / "bin" / f"{verb}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n", 1)[0]
