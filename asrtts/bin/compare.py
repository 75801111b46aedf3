"""Compare decoded systems fairly: which is better, how sure that is, and what each costs."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from asrtts import __version__, storage
from asrtts.alignment import textgrid
from asrtts.comparison import (
    fairness,
    measuring,
    media,
    model_properties,
    notes,
    page,
    page_utterances,
    table,
)
from asrtts.comparison.fairness import Member, System
from asrtts.comparison.measuring import Missing
from asrtts.config import MOST, ArgumentParser, Made, warn, whole
from asrtts.data.utterance import Utterance
from asrtts.experiment import decodings
from asrtts.metrics import emission, error_rate
from asrtts.metrics.verdict import Outputs
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
    systems = fairness.systems([fairness.read(*one) for one in wanted], name)
    allowed = [key for key in args.allow if key != "utterances"]
    unequal = fairness.refuse_unequal(systems, allowed)
    said, common = hypotheses(systems, name, utterances, "utterances" in args.allow)
    spoken = times(args.alignment, common) if args.alignment else None

    words, characters = (outputs(systems, common, said, split) for split in (error_rate.words, error_rate.characters))
    comparison = compare(systems, common, said, words, characters)
    by_words = comparison["judged_by"] == "words"
    judged, split = (words, error_rate.words) if by_words else (characters, error_rate.characters)
    ends = None if spoken is None else {u: emission.ends(spoken.get(u, []), split(of.text)) for u, of in common.items()}
    if ends and (without := [utt_id for utt_id, known in ends.items() if known is None]):
        found = f"{len(without)} of {len(common)} utterances are missing or have other words, e.g. {without[0]}"
        warn(f"{args.alignment}: {found}; the emission delay leaves them out")
    console = Console(stderr=True)
    for row, system, output in track(
        list(zip(comparison["systems"], systems, judged, strict=True)), "measuring", console=console, transient=True
    ):
        row["measures"] = measures(system, output, split, common, said, ends, args.quick)
    comparison |= {"asrtts": __version__, "test": name, "allowed": args.allow}
    comparison["utterances_left_out"] = len(utterances) - len(common)
    comparison["fair"] = {"not_equal": measuring.allowed(unequal), "unknown": fairness.unknown(systems)}
    comparison["notes"] = notes.notes(comparison)
    storage.write(args.out / "compare.json", json.dumps(comparison, indent=1, ensure_ascii=False) + "\n")
    storage.write(args.out / "compare.md", table.markdown(comparison))
    table.show(comparison)
    texts = [{u: said[system.members[0]][u].hyp for u in common} for system in systems]
    rows = page_utterances.rows(systems, common, texts, judged, split)
    heard = page_utterances.informative(rows, args.page_audio)
    of = [common[rows[number]["id"]] for number in heard]
    steps = media.media(systems, of, args.quick, spoken)
    for drawn in track(steps, "drawing", len(systems) + 1, console=console, transient=True):
        shown = dict(zip(heard, drawn, strict=True))
    storage.write(args.out / "compare.html", page.html(comparison, systems, rows, shown))
    print(", ".join(f"{args.out}/compare.{kind}" for kind in ("html", "json", "md")))


def times(path: Path, utterances: Iterable[str]) -> emission.Alignment:
    """When the words of these utterances end, from a CTM or a folder of TextGrids."""
    if not path.is_dir():
        return emission.read_ctm(path)
    found = textgrid.read_words(path)
    names = {utt_id: textgrid.file_name(utt_id).removesuffix(".TextGrid") for utt_id in utterances}
    return {utt_id: found[name] for utt_id, name in names.items() if name in found}


Said = dict[Member, dict[str, decodings.Line]]


def hypotheses(
    systems: Sequence[System], name: str, utterances: dict[str, Utterance], some: bool
) -> tuple[Said, dict[str, Utterance]]:
    """What every run decoded, and the utterances that are compared: all, or those that every run has if `some`."""
    said: Said = {}
    for system in systems:
        for member in system.members:
            said[member] = decodings.lines(member.exp, member.decoding, utterances)
            if not some:
                decodings.refuse_missing(member.exp, member.decoding, utterances, said[member])
    common = {u: utterance for u, utterance in utterances.items() if all(u in lines for lines in said.values())}
    if not common:
        raise UserError(f"no utterance of {name} was decoded by all of these runs; decode them again (stage 4)")
    return said, common


def compare(
    systems: Sequence[System],
    utterances: dict[str, Utterance],
    said: Said,
    words: Sequence[Outputs],
    characters: Sequence[Outputs],
) -> dict[str, Any]:
    """What compare.json holds of the systems and their pairs; docs/comparing.md explains its keys."""
    speakers = [u.speaker for u in utterances.values()]
    wer, cer, unit, pairs = measuring.judged(words, characters, speakers)
    rows = [
        {
            "name": system.name,
            "runs": [
                _run(label, m, said[m], utterances) for label, m in zip(system.labels, system.members, strict=True)
            ],
            **{"wer": wer[i], "cer": cer[i]},
            "sentences_wrong_percent": 100 * wer[i]["sentences_wrong"] / len(utterances),
            **measuring.described(system),
        }
        for i, system in enumerate(systems)
    ]
    return {
        **{"utterances": len(utterances), "words": wer[0]["ref"], "characters": cer[0]["ref"]},
        "speakers": len(set(speakers)) if all(speakers) else None,
        **{"systems": rows, "judged_by": unit, "pairs": pairs},
    }


def outputs(
    systems: Sequence[System], utterances: dict[str, Utterance], said: Said, split: Callable[[str], Sequence[str]]
) -> list[Outputs]:
    """The alignments of every system at one level."""
    refs = [split(u.text) for u in utterances.values()]

    def edits(member: Member) -> list[str]:
        return error_rate.align(refs, [split(said[member][utt_id].hyp) for utt_id in utterances])

    return [
        Outputs(
            s.name,
            [m.seed for m in s.members],
            [edits(m) for m in s.members],
            [m.exp.resolve() for m in s.members],
            [m.begun for m in s.members],
        )
        for s in systems
    ]


def measures(
    system: System,
    judged: Outputs,
    split: Callable[[str], Sequence[str]],
    utterances: dict[str, Utterance],
    said: Said,
    ends: dict[str, emission.Ends | None] | None,
    quick: bool,
) -> measuring.Measured:
    """What a system costs and how it decodes; on its models, what the first run says, since all have one shape."""
    found = measuring.recorded(system)
    steps = [measuring.search_steps([said[m][u] for u in utterances]) for m in system.members]
    found["search_steps"] = measuring.joined(steps, statistics.fmean)
    left_out = Missing("left out by --quick")
    found |= measuring.measured(
        left_out if quick else model_properties.measure(system.members[0], list(utterances.values()))
    )
    found["emission_delay_ms"] = measuring.emission_delay(system, judged, split, utterances, ends)
    return found


def _run(
    label: str, member: Member, lines: dict[str, decodings.Line], utterances: dict[str, Utterance]
) -> dict[str, Any]:
    empty = sum(not lines[u].hyp.split() and bool(utterance.text.split()) for u, utterance in utterances.items())
    facts = {key: member.facts.get(key) for key in ("family", "encoder_hash", "updates", "averaged", "computer")}
    facts["decoded_on"] = member.summary.get("computer")
    which = {"run": label, "exp": str(member.exp), "decoding": member.decoding, "seed": member.seed}
    return {**which, "empty_hypotheses": empty, **facts}
