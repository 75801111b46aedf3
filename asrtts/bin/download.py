"""Get a corpus: link what is there already, or fetch, check and unpack the public archives."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from asrtts import registry
from asrtts.config import ArgumentParser, whole
from asrtts.registry import UserError

_HELP = """The corpus comes to DEST/<corpus>, where `asrtts prepare CORPUS DEST data` finds it.
Safe to repeat and to kill: what is there is left alone, and a download that broke off resumes."""


def parser() -> ArgumentParser:
    options = ArgumentParser("download", __doc__, epilog=_HELP)
    options.add_argument("corpus", help=f"one of {', '.join(fetched())}")
    options.add_argument("dest", type=Path, metavar="DEST", help="the folder of corpora, e.g. downloads")
    options.add_argument(
        "--corpus",
        type=_folder,
        metavar="DIR",
        dest="source",
        help="use the corpus or archive in DIR instead of the network (default: in ASRTTS_CORPORA, if it is there)",
    )
    options.add_argument("--subset", nargs="+", metavar="NAME", help="only these, e.g. train-clean-100 dev-clean")
    options.add_argument("--trust", metavar="sha256:HEX", help="accept an archive with this checksum too")
    options.add_argument("--lang", help="of a corpus that is synthesized, e.g. en or zh")
    options.add_argument("--jobs", type=whole(1, 1024), help="processes, for a corpus that is synthesized")
    return options


def fetched() -> list[str]:
    """The corpora that can be had; of a form of data (kaldi, shards) `download` has no options, and only refuses."""
    members = {name: registry.find("asrtts.corpora", name) for name in registry.names("asrtts.corpora")}
    return [name for name, member in members.items() if len(inspect.signature(member.download).parameters) > 1]


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    if args.trust and not re.fullmatch(r"(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})", args.trust):
        raise UserError(f"--trust {args.trust}: wanted sha256: and 64, or md5: and 32 hexadecimal digits")
    corpus = registry.find("asrtts.corpora", args.corpus)
    corpus.download(args.dest, **_options(corpus, args.corpus, vars(args)))


def _folder(text: str) -> Path | None:
    return Path(text) if text else None  # a recipe's variable that is not set


def _options(corpus: ModuleType, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """What was given beside the two names. An option is one of a corpus if its `download` has it as an argument."""
    options = {key: value for key, value in given.items() if key not in ("corpus", "dest") and value is not None}
    takes = inspect.signature(corpus.download).parameters
    for key in options:
        if key not in takes:
            option = "--corpus" if key == "source" else f"--{key}"
            raise UserError(f"{option} means nothing to {name}: leave it out")
    return options
