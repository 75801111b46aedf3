"""Compare decoded systems fairly: which is better, how sure that is, and what each costs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from asrtts import __version__, storage
from asrtts.alignment import textgrid
from asrtts.comparison import (
    fairness,
    hypotheses,
    measuring,
    media,
    notes,
    page,
    page_utterances,
    results,
    table,
)
from asrtts.config import MOST, ArgumentParser, Made, warn, whole
from asrtts.data.utterance import Utterance
from asrtts.experiment import decodings
from asrtts.metrics import emission, error_rate
from asrtts.registry import UserError


def parser() -> ArgumentParser:
    options = ArgumentParser(
        "compare", f"{__doc__}\n\nWrites compare.json, compare.md and compare.html. docs/comparing.md says more."
    )
    options.add_argument(
        "exp",
        nargs="+",
        metavar="EXP[:NAME]",
        help="trained and decoded; runs that differ in the seed are one system. EXP is what was decoded by the name of "
        "the manifest, EXP:NAME another decoding of it (decode --name, --tuned), e.g. exp/ctc:test_lm",
    )
    options.add_argument(
        "--test",
        required=True,
        metavar="TEST",
        help="the manifest that was decoded; a bare name is looked for in data/",
    )
    options.add_argument(
        "--allow", action="append", default=[], metavar="KEY", help="compare although KEY is not equal; repeatable"
    )
    options.add_argument(
        "--alignment",
        type=Path,
        metavar="CTM",
        help="when each word is spoken, for the emission delay: what `asrtts align` wrote, or a folder of TextGrids",
    )
    options.add_argument(
        "--quick",
        action="store_true",
        help="leave out what needs the models: multiply-adds, properties, pictures of alignments",
    )
    options.add_argument(
        "--page-audio",
        type=whole(0, MOST),
        default=40,
        metavar="N",
        help="utterances that can be heard and looked at on the page, those where systems differ most; default: 40",
    )
    options.add_argument("--out", type=Path, default=Path("exp/compare"), metavar="DIR", help="default: exp/compare")
    return options


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    decodings.refuse_absent(args.test, made)
    if args.alignment and args.alignment not in made and not args.alignment.exists():
        raise UserError(f"{args.alignment}: no such alignment; make it with `asrtts align`")


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    name, utterances = decodings.references(args.test)
    # Every mistake is found before the first alignment is made.
    named = dict.fromkeys(decodings.named(text, name) for text in args.exp)
    wanted = [(exp, decoding) for exp, decoding in named if exp.resolve() != args.out.resolve()]  # exp/* holds it, too
    if not wanted:
        raise UserError(f"{args.out}: the folder of the comparison itself; name trained and decoded runs, e.g. exp/ctc")
    systems = fairness.systems([fairness.read(*one) for one in wanted], name)
    allowed = [key for key in args.allow if key != "utterances"]
    unequal = fairness.refuse_unequal(systems, allowed)
    decoded, common = hypotheses.read(systems, name, utterances, "utterances" in args.allow)
    decoded, common, unknown = hypotheses.without_unknown(decoded, common)
    spoken = times(args.alignment, common) if args.alignment else None

    words, characters = (
        hypotheses.outputs(systems, common, decoded, split) for split in (error_rate.words, error_rate.characters)
    )
    comparison = results.compare(systems, common, decoded, words, characters)
    by_words = comparison["judged_by"] == "words"
    judged, split = (words, error_rate.words) if by_words else (characters, error_rate.characters)
    ends = None if spoken is None else {u: emission.ends(spoken.get(u, []), split(common[u].text)) for u in common}
    if ends and (without := [utt_id for utt_id, known in ends.items() if known is None]):
        absent = f"{len(without)} of {len(common)} utterances are missing or have other words, e.g. {without[0]}"
        warn(f"{args.alignment}: {absent}; the emission delay leaves them out")
    console = Console(stderr=True)
    for row, system, output in track(
        list(zip(comparison["systems"], systems, judged, strict=True)), "measuring", console=console, transient=True
    ):
        row["measures"] = results.measures(system, output, split, common, decoded, ends, args.quick)
    comparison |= {"asrtts": __version__, "test": name, "allowed": args.allow, "unknown_words": unknown}
    comparison["utterances_left_out"] = len(utterances) - len(common)
    comparison["fair"] = {"not_equal": measuring.allowed(unequal), "unknown": fairness.unknown(systems)}
    comparison["notes"] = notes.notes(comparison)
    storage.write(args.out / "compare.json", json.dumps(comparison, indent=1, ensure_ascii=False) + "\n")
    storage.write(args.out / "compare.md", table.markdown(comparison))
    table.show(comparison)
    texts = [{u: decoded[system.members[0]][u].hyp for u in common} for system in systems]
    rows = page_utterances.rows(systems, common, texts, judged, split)
    heard = page_utterances.informative(rows, args.page_audio)
    chosen = [common[rows[number]["id"]] for number in heard]
    steps = media.media(systems, chosen, args.quick, spoken)
    shown: dict[int, dict[str, Any]] = {}
    for drawn in track(steps, "drawing", len(systems) + 1, console=console, transient=True):
        shown = dict(zip(heard, drawn, strict=True))
    storage.write(args.out / "compare.html", page.html(comparison, systems, rows, shown))
    print(", ".join(f"{args.out}/compare.{kind}" for kind in ("html", "json", "md")))


def times(path: Path, utterances: dict[str, Utterance]) -> emission.Alignment:
    """When the words of these utterances end, from a CTM, a TextGrid or a folder of TextGrids."""
    grids = path.is_dir() or textgrid.is_one(path)
    labels = textgrid.read_words(path) if grids else emission.read_ctm(path)
    names = {utt_id: textgrid.name_of(utt_id) if grids else utt_id for utt_id in utterances}
    return emission.spoken(labels, {utt_id: utterance.text for utt_id, utterance in utterances.items()}, names)
