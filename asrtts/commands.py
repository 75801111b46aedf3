"""`asrtts --check-commands`, which utils/stages.sh calls: check all commands of a recipe before the first one starts.

A command passes if its verb exists, its options parse and the verb's `check(args, made)`, if it has one, accepts their
values. Nothing is read or written that an earlier command of the same recipe makes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from asrtts.config import Made
from asrtts.registry import UserError, find

REAL_TORCH = "--with-torch"


@dataclass(frozen=True)
class Command:
    """A command of a stage."""

    stage: str  # its number
    title: str
    words: list[str]


def main(argv: list[str]) -> None:
    """Check the commands on standard input: `asrtts --check-commands ./run.sh [--with-torch] --head ctc ...`.

    A mistake is one line on standard error, which names the recipe's option that holds the wrong value, and status 2.

    Args:
        argv: the recipe, then the options that were given to it.
    """
    recipe, *given = argv or ["the recipe"]
    with_torch = given[:1] == [REAL_TORCH]
    stream = sys.stdin.buffer.read()
    if not with_torch and "torch" not in sys.modules:
        sys.meta_path.insert(0, _NoTorch())
    try:
        check(list(parse(stream)), given[with_torch:])
    except UserError as error:
        message = " ".join(str(error).splitlines())
        print(f"{recipe}: {message}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        if with_torch:
            raise
        # Some library wants more of torch than the stand-in has: slower, but right.
        again = [sys.executable, "-P", "-m", "asrtts", "--check-commands", recipe, REAL_TORCH, *given]
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        sys.exit(subprocess.run(again, input=stream, env={**os.environ, "PYTHONPATH": path}, check=False).returncode)


def parse(stream: bytes) -> Iterator[Command]:
    """The commands as stages.sh writes them: stage, title, number of words and the words, each ended by a zero byte."""
    fields = stream.decode(errors="surrogateescape").split("\0")[:-1]
    while fields:
        stage, title, count, *fields = fields
        yield Command(stage, title, fields[: int(count)])
        fields = fields[int(count) :]


def check(commands: Sequence[Command], given: Sequence[str] = ()) -> None:
    """Raises UserError for the first command that cannot work, whatever the earlier ones make.

    Args:
        given: the recipe's options and their values, of which the error names that which it is about.
    """
    made = Made()
    for command in commands:
        if command.words[:1] != ["asrtts"]:
            continue  # nothing is known of other programs
        try:
            _check_verb(command.words[1:], made)
        except UserError as error:
            option = _option(str(error), command.words, given)
            raise UserError(f"{option}{error} (stage {command.stage}, {command.title})") from None


def _check_verb(words: Sequence[str], made: Made) -> None:
    verb = find("asrtts.bin", words[0] if words else "")
    with suppress(SystemExit):  # of --help
        args = verb.parser().parse_args(words[1:])
        if hasattr(verb, "check"):
            verb.check(args, made)


def _option(message: str, words: Sequence[str], given: Sequence[str]) -> str:
    """The option of the recipe whose value is in the command and in the message: "--head trnsducer: "."""
    options = [(option, value) for option, value in zip(given[::2], given[1::2], strict=False) if value]
    patterns = [(one, re.compile(rf"(?<![\w.-]){re.escape(one[1])}(?![\w-])")) for one in options]
    shown = [one for one, found in patterns if found.search(message) and any(map(found.search, words))]
    longest = max(shown, key=lambda one: len(one[1]), default=None)
    return f"{longest[0]} {longest[1]}: " if longest else ""


# Settings stand in one file with the model that they are of, which imports torch. That takes some seconds, and no
# setting needs it: the classes are made without torch, and no object of them.


class _NoTorch:
    """Finds `torch` and everything in it as modules that hold nothing but stand-ins."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torch" else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _StandInModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return _stand_in(name)


class _StandInType(type):
    """What may be done with a name of torch while a file is imported."""

    def __getattr__(cls, name: str) -> Any:
        return _stand_in(name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is not StandIn:
            return super().__call__(*args, **kwargs)
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else StandIn  # a decorator

    def __getitem__(cls, key: Any) -> Any:
        return StandIn

    def __or__(cls, other: Any) -> Any:
        return StandIn

    __ror__ = __or__


class StandIn(metaclass=_StandInType):
    """A class, function, decorator or value of torch that is named but not used."""


def _stand_in(name: str) -> type[StandIn]:
    if name.startswith("__"):
        raise AttributeError(name)
    return StandIn
