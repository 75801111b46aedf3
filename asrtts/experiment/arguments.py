"""`EXP... MANIFEST key=value...`: the words of a verb that does the same with each of several runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from asrtts.config import ArgumentParser
from asrtts.registry import UserError


def add_arguments(parser: ArgumentParser, manifest: str, settings: str) -> None:
    """The words, with what the help says of the last two."""
    parser.add_argument("exp", nargs="+", help="folders of runs, one or several, e.g. exp/ctc-1")
    parser.add_argument("manifest", help=manifest)
    parser.add_argument("settings", nargs="*", default=[], metavar="key=value", help=settings)


def told_apart(args: argparse.Namespace) -> argparse.Namespace:
    """The same with each word in its place: argparse gives all but the last to `exp`, settings too.

    Raises:
        UserError: there is no run among them.
    """
    words = [*args.exp, args.manifest, *args.settings]
    args.settings = [word for word in words if "=" in word and "/" not in word.partition("=")[0]]  # else a path
    *exps, args.manifest = [word for word in words if word not in args.settings] or [""]
    if not exps:
        found = f"'{args.manifest}' alone" if args.manifest else "neither"
        raise UserError(f"wanted one run or several and then a manifest, e.g. exp/ctc-1 data/dev; found {found}")
    args.exp = [Path(exp) for exp in dict.fromkeys(exps)]
    return args
