"""One name, one file: what a person writes in run.sh or YAML is a file in the folder of its kind."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from types import ModuleType


class UserError(Exception):
    """What the user can mend. Shown as one line without a traceback: what was found, what was wanted, the way out."""

    def __str__(self) -> str:
        return one_line(super().__str__())


LONGEST_MESSAGE = 2000  # characters


def one_line(message: str) -> str:
    """A message on one line: escapes for what a terminal would obey or not show, and no more than is ever read.

    Messages quote files, and a damaged file may hold anything.
    """
    line = _cut(" ".join(message.splitlines()))
    return line if line.isprintable() else _cut("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))


def _cut(line: str) -> str:
    half = LONGEST_MESSAGE // 2
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:half]} ... {line[-half:]}"


def shortened(text: str, most: int = 60) -> str:
    """A word of a file for an error line: as it is, or `quoted` if it is long or not all of it can be shown."""
    return text if len(text) <= most and text.isprintable() else quoted(text, most)


def quoted(text: object, most: int = 60) -> str:
    """What a file holds, for an error line: in quotes, cut, and with escapes for what a terminal would not show."""
    shown = str(text)
    return repr(shown if len(shown) <= most else shown[:most] + "...")


def names(package: str) -> list[str]:
    """The members of a folder, e.g. names("asrtts.asr.heads") -> ["attention", "ctc", "transducer"]."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else []
    return sorted(m.name for m in pkgutil.iter_modules(folders) if not m.name.startswith("_"))


def find(package: str, name: str) -> ModuleType:
    """The module that a name stands for. Raises UserError with the nearest names if there is none."""
    name, choices = str(name), names(package)  # YAML may have read a number or a truth value
    if name not in choices:
        kind = package.rsplit(".", 1)[-1].removesuffix("s").replace("bin", "verb").replace("corpora", "corpus")
        raise UserError(f"no {kind} is named '{name}'{suggestion(name, choices)}")
    return importlib.import_module(f"{package}.{name}")


def suggestion(name: str, choices: Iterable[str]) -> str:
    """The tail of an error line: "; did you mean 'ctc'? (choices: attention, ctc, transducer)"."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return (f"; did you mean '{near[0]}'?" if near else "") + f" (choices: {', '.join(choices) or 'none'})"
