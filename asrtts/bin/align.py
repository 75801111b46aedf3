"""Find when each word of the manifests is spoken, and write it as CTM files and, if wanted, TextGrids.

    asrtts align data/test --learn data/train

trains the built-in aligner on both and writes data/alignment/test.ctm. Words are spelled out, or pronounced as a
lexicon or espeak-ng says (--lexicon, --lang). docs/aligning.md says more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from asrtts import registry, storage
from asrtts.alignment import textgrid
from asrtts.alignment.alignment_folder import AlignmentFolder
from asrtts.alignment.pronunciations import pronunciations
from asrtts.config import ArgumentParser, Made, warn
from asrtts.data import manifest
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError
from asrtts.text import espeak, phones
from asrtts.training import parallel


def parser() -> ArgumentParser:
    options = ArgumentParser("align", __doc__)
    add = options.add_argument
    add("manifest", nargs="+", type=Path, help="what is aligned, e.g. data/test")
    learn = "recordings to learn from too, that are not aligned; repeatable. Those that are aligned may be too few"
    add("--learn", action="append", default=[], type=Path, metavar="MANIFEST", help=learn)
    add("--aligner", default="hmm", help=f"{', '.join(registry.names('asrtts.alignment.aligners'))} (default: hmm)")
    add("--lexicon", type=Path, help="of Kaldi, CMU or MFA; without it words are spelled out")
    add("--lang", help="the language in which espeak-ng pronounces the words, e.g. en-us")
    add(
        "--textgrid",
        action="store_true",
        help="write a TextGrid of each utterance too, DIR/<manifest>/<utt_id>.TextGrid",
    )
    out = "default: alignment beside the first manifest, e.g. data/alignment"
    add("--out", type=Path, metavar="DIR", help=out)
    add("--threads", type=int, default=0, help="default: all cores")
    return options


def refuse_options(args: argparse.Namespace) -> None:
    """Raises UserError for an aligner, a lexicon or a language that is not there."""
    registry.find("asrtts.alignment.aligners", args.aligner)
    if args.lexicon and args.lang:
        raise UserError("--lexicon and --lang both say how words are pronounced; leave one of them out")
    if args.lexicon:
        phones.read_bytes(args.lexicon)
    if args.lang:
        espeak.phones("a", args.lang)


def out_of(args: argparse.Namespace) -> Path:
    """The folder of the alignments."""
    return args.out or args.manifest[0].parent / "alignment"


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    parallel.refuse_threads(args.threads)
    refuse_options(args)
    for path in (*args.manifest, *args.learn):
        if path not in made:
            manifest.locate(path)
    made.add(out_of(args))


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    refuse_options(args)
    parallel.use_threads(args.threads)
    aligner = registry.find("asrtts.alignment.aligners", args.aligner)
    paths = {path.stem: path for path in map(manifest.locate, args.manifest)}
    if len(paths) < len(args.manifest):
        raise UserError("two of the manifests have one name; align them apart, each with an --out of its own")
    read = {name: nameable(path, args.textgrid) for name, path in paths.items()}
    aligned = {path.resolve() for path in paths.values()}
    given = {path.resolve(): path for path in map(manifest.locate, args.learn)}
    learnt = [path for place, path in given.items() if place not in aligned]
    everyone = [*chain.from_iterable(read.values()), *chain.from_iterable(map(lasting, learnt))]
    lexicon = pronunciations(args.lexicon, args.lang, everyone)
    out = out_of(args)
    made_from: dict[str, Any] = {"aligner": args.aligner}
    made_from |= {"manifests": {name: manifest.fingerprint(path) for name, path in paths.items()}}
    made_from |= {"learn": [manifest.fingerprint(path) for path in learnt]}
    made_from |= {"pronunciations": phones.fingerprint(lexicon)}
    with storage.held(out):
        folder = AlignmentFolder(out, made_from)
        folder.refuse_others(read, args.textgrid)
        unfinished = [name for name in read if not folder.is_finished(name, args.textgrid)]
        for name in read:
            if name not in unfinished:
                say(f"{out / name}.ctm: finished before, of the same recordings and pronunciations")
        if unfinished and not folder.has_model():
            folder.keep_model(aligner.train(everyone, lexicon, out, shown))
        for name in unfinished:
            align(folder, name, read[name], aligner.align(read[name], lexicon, out, shown), args.textgrid)


def align(
    folder: AlignmentFolder,
    name: str,
    utterances: Sequence[Utterance],
    alignments: Iterable[Any],
    grids: bool,
) -> None:
    """Write the alignment of one manifest, and say what was left out."""
    written = folder.write(name, utterances, alignments, grids)
    if written.left_out:
        first, count = written.left_out[0], len(written.left_out)
        warn(f"{name}: {count} of {len(utterances)} utterances are left out, e.g. {first.utt_id}: {first.why}")
    goal = folder.folder / name
    say(f"{goal}.ctm: {written.words} words in {written.utterances} utterances" + f"; TextGrids in {goal}" * grids)


def nameable(path: Path, grids: bool) -> list[Utterance]:
    """The utterances of a manifest.

    Raises UserError if one has a name that a CTM cannot hold, or two would have the same, there or in `grids`.
    """
    named: dict[str, Utterance] = {}
    for utterance in lasting(path):
        utt_id = utterance.utt_id
        if utt_id.split() != [utt_id] or "\0" in utt_id or utt_id.startswith(";;"):  # a comment
            raise UserError(f"{path}: the utt_id {utt_id!r} cannot stand in a CTM; wanted one word without blanks")
        name = textgrid.file_name(utt_id) if grids else utt_id
        if name in named:
            raise UserError(f"{path}: utterances '{named[name].utt_id}' and '{utt_id}' would have one name; rename one")
        named[name] = utterance
    return list(named.values())


def lasting(path: Path) -> Iterator[Utterance]:
    """The utterances of a manifest. Raises UserError if the duration of one is not known: times would end at it."""
    for utterance in manifest.read(path):
        if not utterance.seconds:
            raise UserError(
                f"{path}: utterance '{utterance.utt_id}' lasts 0 s; `asrtts prepare` (stage 1) fills that in"
            )
        yield utterance


def shown(these: Sequence[Any], doing: str) -> Iterable[Any]:
    return track(these, doing, console=Console(stderr=True), transient=True)


def say(message: str) -> None:
    print(message, file=sys.stderr)
